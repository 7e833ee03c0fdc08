"""Parameter servers: what they reach beside a bare socket, and what training through them costs.

python -m benchmarks.exchange            all rows, about five minutes
python -m benchmarks.exchange --only wire
"""

from __future__ import annotations

import os

from adam_mp.machine import ONE_THREAD

os.environ.update(ONE_THREAD)  # before numpy loads its libraries

import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil

from adam_mp.memory.exchange import ExchangeMemory
from adam_mp.memory.layout import SHARD, Held, Layout
from adam_mp.params.replica.exchange import Exchange
from adam_mp.params.replica.factors import Gathered
from adam_mp.params.run.bucket_map import LayoutFacts
from adam_mp.params.run.membership import CoordinatorLink, new_identity
from adam_mp.params.run.statements import REPLICA
from adam_mp.params.server.shard_table import Delta, ShardTable
from adam_mp.transport.keys import make_key_file, read_keys
from adam_mp.transport.messages import Kind, Message
from adam_mp.transport.places import Place, parse_place
from adam_mp.transport.zeromq import SocketDialer
from benchmarks.goals import Row, ratio_row, run_groups
from benchmarks.peers.ping_pong import receive_into
from benchmarks.timing import alternate

_SHARDS = 16  # of 1 MB
_WINDOW = 4  # pushes on their way, as a synchronizer has
_ROUNDS = 5


class Replica:
    """A replica's lines to a parameter server: one for weights, one to be a member."""

    def __init__(self, address: Place, layout: Layout, key_file: Path | None) -> None:
        self.dialer, self._said = SocketDialer(read_keys(key_file)), SocketDialer(read_keys(key_file))
        self.dialer.dial(address)
        self.link = CoordinatorLink(self._said, address, new_identity())
        facts = {"layout": LayoutFacts.of(layout).as_list(), "images": 16, "batch_size": 16, "epochs": 1,
                 "quorum": 1.0, "agreed": {}}  # fmt: skip
        self._joining = {"role": REPLICA, "facts": facts}
        self.map = self.link.join(self._joining, 60).map
        self.header = {"run": self.link.run, "sender": self.link.identity, "map_epoch": self.map.epoch}

    def stay(self) -> None:
        """Say that it lives, where that is due."""
        self.link.report(lambda: {"epoch": 0, "wanted": 0, "statistics": {}}, lambda: self._joining, 1.0)

    def close(self) -> None:
        """Hang up."""
        self.dialer.close()
        self._said.close()


class Server:
    """A parameter server in a process of its own, and a replica of it. Use as a context manager."""

    def __init__(
        self, layout: Layout, folder: Path, key_file: Path | None = None, listen: str = "127.0.0.1:0"
    ) -> None:  # fmt: skip
        address_file = folder / "address"
        arguments = ["--listen", listen, "--address-file", str(address_file)]
        arguments += ["--key-file", str(key_file)] if key_file else []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "adam_mp", "serve-params", *arguments], stdout=subprocess.DEVNULL
        )
        while not address_file.exists():
            time.sleep(0.02)
        self.address = parse_place(address_file.read_text(), "address")
        self.replica = Replica(self.address, layout, key_file)
        self.layout, self.sequence = layout, 0
        for number, shard in enumerate(layout.shards):
            self.sequence += 1
            self.ask(Message(Kind.FIRST, np.zeros(shard.size, np.float32), shard=number, sequence=self.sequence,
                             **self.replica.header))  # fmt: skip

    def ask(self, message: Message) -> Message:
        """Send a message until it is answered with weights; the server may still be making its shards."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            self.replica.dialer.send(self.address, message)
            received = self.replica.dialer.receive(0.5)
            if received is not None and received[1].kind == Kind.FRESH:
                return received[1]
        raise SystemExit("the server does not answer")

    def push_and_pull(self, delta: np.ndarray, count: int) -> None:
        """Push `count` deltas, round the shards, and take the fresh weights that answer each."""
        shards, asked, answered = len(self.layout.shards), 0, 0
        header, dialer = self.replica.header, self.replica.dialer
        self.replica.stay()
        while answered < count:
            while asked < count and asked - answered < _WINDOW:
                self.sequence += 1
                message = Message(Kind.DELTA, delta, shard=asked % shards, sequence=self.sequence, **header)
                if dialer.send(self.address, message) is None:
                    break
                asked += 1
            received = dialer.receive(10)
            if received is None or received[1].kind != Kind.FRESH:
                raise SystemExit(f"the server answers {received}")
            answered += 1

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.replica.close()
        self.process.terminate()
        self.process.wait(20)


class Socket:
    """The bare blocking socket ping-pong."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.peers.ping_pong", str(4 * SHARD)], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.connection = socket.create_connection(("127.0.0.1", int(self.process.stdout.readline())))
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.fresh = np.zeros(4 * SHARD, np.uint8)

    def push_and_pull(self, delta: np.ndarray, count: int) -> None:
        """Push `count` deltas, one after the other, and take the fresh weights."""
        for _ in range(count):
            self.connection.sendall(delta)
            receive_into(self.connection, self.fresh)

    def close(self) -> None:
        """End it."""
        self.connection.close()
        self.process.wait(10)


def loopback_rows() -> Iterator[Row]:
    """Push and pull of 1 MB shards: over TCP, without keys and with them, and over a socket file."""
    layout, delta, count = Layout.of({"w": (_SHARDS * SHARD,)}), np.ones(SHARD, np.float32), 64
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("plain", "keyed", "file"):
            (folder / part).mkdir(mode=0o700)
        make_key_file(folder / "key")
        bare = Socket()
        with (
            Server(layout, folder / "plain") as plain,
            Server(layout, folder / "keyed", folder / "key") as keyed,
            Server(layout, folder / "file", listen=f"unix:{folder / 'file' / 'server'}") as file,
        ):
            compared = alternate(
                {
                    "socket": lambda: bare.push_and_pull(delta, count),
                    "plain": lambda: plain.push_and_pull(delta, count),
                    "keyed": lambda: keyed.push_and_pull(delta, count),
                    "socket file": lambda: file.push_and_pull(delta, count),
                },
                seconds=20,
            )
        bare.close()
    rates = {
        side: 2 * count * 4 * SHARD / compared.median(side) / 1e9
        for side in ("socket", "plain", "keyed", "socket file")
    }
    figures = ", ".join(f"{side} {rate:.2f}" for side, rate in rates.items())
    what = "push + pull of 1 MB shards on loopback, update applied"
    yield ratio_row(what, "blocking socket ping-pong", 0.7, compared.ratios("socket", "plain"), f"GB/s: {figures}")
    yield ratio_row(
        f"{what}, with keys (CURVE)", "without keys", 0, compared.ratios("plain", "keyed"), f"GB/s: {figures}"
    )
    yield ratio_row(
        f"{what}, over a socket file", "over TCP", 0, compared.ratios("plain", "socket file"), f"GB/s: {figures}"
    )


def apply_rows() -> Iterator[Row]:
    """Queued deltas to one shard, folded, beside numpy."""
    layout = Layout.of({"w": (SHARD,)})
    table = ShardTable(layout, {0: [0]})
    table.fill(0, np.zeros(SHARD, np.float32))
    deltas = [np.ones(SHARD, np.float32) for _ in range(4)]
    weights: np.ndarray = np.zeros(SHARD, np.float32)
    sequence = 0

    def ours() -> None:
        nonlocal sequence
        sequence += 1
        table.apply_deltas(0, [Delta(sender, sequence, delta) for sender, delta in enumerate(deltas)])

    def theirs() -> None:
        nonlocal weights
        for delta in deltas:
            weights += delta

    def one() -> None:
        nonlocal sequence
        sequence += 1
        table.apply_deltas(0, [Delta(9, sequence, deltas[0])])

    compared = alternate({"ours": ours, "numpy": theirs, "one": one}, seconds=6)
    size = 4 * len(deltas) * SHARD
    figures = (
        f"GB/s of deltas: {size / compared.median('ours') / 1e9:.1f}, numpy {size / compared.median('numpy') / 1e9:.1f}"
    )
    figures += f", one at a time {size / 4 / compared.median('one') / 1e9:.1f}"
    yield ratio_row(
        "applying four queued deltas of 1 MB", "numpy's a += b", 0.9, compared.ratios("numpy", "ours"), figures
    )
    table.close()


def wire_rows() -> Iterator[Row]:
    """Bytes upstream of a dense layer of 4096x4096 by both protocols, counted in one exchange over TCP."""
    side, images = 4096, 64
    layout = Layout.of({"dense1.weight": (side, side)})
    generator = np.random.default_rng(0)
    factors = Gathered(
        generator.standard_normal((images, side)).astype(np.float32),
        generator.standard_normal((images, side)).astype(np.float32), 1.0,
    )  # fmt: skip
    sent = {}
    with tempfile.TemporaryDirectory() as name, Server(layout, Path(name)) as server:
        weights: np.ndarray = np.zeros(layout.size, np.float32)
        memory = ExchangeMemory.create(Held.all_of(layout))
        replica = server.replica
        exchange = Exchange(
            replica.dialer, memory, weights, [server.address], replica.map, replica.link.run, replica.link.identity
        )
        memory.add("sequence", server.sequence)
        _exchange(exchange, None)
        for protocol in ("deltas", "activations"):
            before = memory.read("pushed_bytes")
            weights -= (factors.inputs.T @ factors.errors).reshape(-1)
            _exchange(exchange, {0: factors} if protocol == "activations" else None)
            sent[protocol] = memory.read("pushed_bytes") - before
        memory.close()
    ratio = sent["deltas"] / sent["activations"]
    figures = f"{sent['deltas'] / 1e6:.1f} MB and {sent['activations'] / 1e6:.2f} MB"
    yield Row("bytes upstream, dense 4096x4096, 64 images, activations", "deltas", "25x", ratio, met=ratio >= 25,
              figures=f"fewer; {figures}, one server")  # fmt: skip


def _exchange(exchange: Exchange, gathered: dict[int, Gathered] | None) -> None:
    exchange.begin(gathered)
    while not exchange.done:
        exchange.step(time.monotonic(), 0.01)


def training_rows() -> Iterator[Row]:
    """Whole runs of LeNet: two replicas of one worker with a server between, beside two workers on one store."""
    sides = {"one store": ["--cores", "2"], "two replicas": ["--cores", "2", "--servers", "1", "--replicas", "2"]}
    rates: dict[str, list[float]] = {side: [] for side in sides}
    accuracies: dict[str, list[float]] = {side: [] for side in sides}
    for seed in range(1, _ROUNDS + 1):
        for side, arguments in sides.items():
            with tempfile.TemporaryDirectory() as folder:
                done = subprocess.run(
                    [sys.executable, "-m", "adam_mp", "train", "--model", "lenet", "--epochs", "3", "--seed", str(seed),
                     "--json", "--run-dir", f"{folder}/run", *arguments],
                    capture_output=True, text=True, timeout=300, check=True,
                )  # fmt: skip
                epochs = [
                    json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
                ]
            summary = json.loads(done.stdout.strip().splitlines()[-1])
            rates[side].append(statistics.median(map(_images_per_second, epochs[1:])))
            accuracies[side].append(100 * summary["test_accuracy"])
    ratios = sorted(b / a for a, b in zip(rates["one store"], rates["two replicas"], strict=True))
    figures = ", ".join(f"{side} {statistics.median(values):,.0f}" for side, values in rates.items())
    yield ratio_row(
        "2 replicas of 1 worker, 1 server, MNIST LeNet, images/s", "2 workers on one store", 0.85, ratios, figures
    )
    means = {side: statistics.mean(values) for side, values in accuracies.items()}
    lost = means["one store"] - means["two replicas"]
    figures = ", ".join(f"{side} {means[side]:.2f} ± {statistics.stdev(accuracies[side]):.2f}" for side in sides)
    what = f"test accuracy lost by it after 3 epochs, {_ROUNDS} seeds"
    yield Row(what, "2 workers on one store", "<0.2 points", lost,
              met=lost <= 0.2, figures=figures)  # fmt: skip


def _images_per_second(epoch: dict[str, float]) -> float:
    """Return all machines' images over an epoch's whole time: while one replica validates, others train the next."""
    return epoch["images_trained"] / (epoch["seconds"] + epoch["validation_seconds"])


def memory_rows() -> Iterator[Row]:
    """A server's memory while four replicas push 1 MB deltas and read no answers."""
    shards = 64
    layout, delta = Layout.of({"w": (shards * SHARD,)}), np.ones(SHARD, np.float32)
    size = 4 * layout.size
    with tempfile.TemporaryDirectory() as name, Server(layout, Path(name)) as server:
        process = psutil.Process(server.process.pid)
        whole = process.memory_info().rss
        base, replicas, most = whole - size, [Replica(server.address, layout, None) for _ in range(4)], 0
        end, sequence = time.monotonic() + 15, 0
        while time.monotonic() < end:
            for replica in replicas:
                replica.stay()
                sequence += 1
                message = Message(Kind.DELTA, delta, shard=sequence % shards, sequence=sequence, **replica.header)
                replica.dialer.send(server.address, message)
            most = max(most, process.memory_info().rss)
        for replica in replicas:
            replica.close()
    queues = (4 * 16 + 24) << 20  # 16 messages a peer, and 24 answers on their way
    value = (most - base - queues) / size
    figures = f"weights {size / 1e6:.0f} MB, server {most / 1e6:.0f} MB, interpreter and libraries {base / 1e6:.0f} MB"
    figures += f", bounded queues {queues / 1e6:.0f} MB"
    what = "a server's memory beyond libraries and queues, 4 replicas push and never read"
    yield Row(what, "its weights", "<2.2x", value, met=value < 2.2, figures=figures)


GROUPS = {
    "loopback": loopback_rows, "apply": apply_rows, "wire": wire_rows, "training": training_rows, "memory": memory_rows,
}  # fmt: skip

if __name__ == "__main__":
    run_groups(__doc__, GROUPS, "exchange", "Parameter servers")

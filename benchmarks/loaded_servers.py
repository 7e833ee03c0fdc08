"""Parameter servers with copies, and senders that push whole numbers to them all the time.

Servers are processes as `adam-mp serve-params` starts them, on loopback or each on a machine of its own: a network
namespace, whose cable can be cut. Whole numbers add up exactly, so at the end the weights show whether each update is
in them once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from adam_mp.errors import TransportError
from adam_mp.memory.exchange import ExchangeMemory
from adam_mp.memory.layout import Held, Layout
from adam_mp.params.replica.exchange import Exchange
from adam_mp.params.run.bucket_map import BucketMap, LayoutFacts
from adam_mp.params.run.membership import CoordinatorLink, new_identity
from adam_mp.params.run.statements import REPLICA
from adam_mp.transport.endpoint import Peer
from adam_mp.transport.keys import Keys, make_key_file
from adam_mp.transport.messages import Kind, Message
from adam_mp.transport.places import Place, parse_place
from adam_mp.transport.zeromq import SocketDialer
from tools.drilling.machines import Machines

_SERVERS, _COPIES, SENDERS = 4, 3, 2
_LAYOUT = Layout.of({f"w{number}": (64, 256) for number in range(48)})
_FACTS = {"layout": LayoutFacts.of(_LAYOUT).as_list(), "images": 16, "batch_size": 16, "epochs": 1, "quorum": 1.0,
          "agreed": {}}  # fmt: skip
_JOINING = {"role": REPLICA, "facts": _FACTS}


class Servers:
    """Server processes, in a folder for their addresses. Use as a context manager.

    `controller` is the flag's value if the coordinator is elected; else the first server has it. With `machines` server
    n is on machine n + 1, and has `keys`.
    """

    def __init__(
        self, folder: Path, commit: str, controller: str | None = None, machines: Machines | None = None,
    ) -> None:  # fmt: skip
        self._folder, self._commit, self._controller, self._machines = folder, commit, controller, machines
        self.keys = None if machines is None else make_key_file(folder / "keys")
        self.addresses: list[str] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        for number in range(_SERVERS):
            host = "127.0.0.1" if machines is None else machines.address(number + 1)
            self.processes.append(self._start(number, f"{host}:0"))
            file = folder / f"address-{number}"
            while not file.exists():
                time.sleep(0.01)
            self.addresses.append(file.read_text())

    def _start(self, number: int, listen: str) -> subprocess.Popen[bytes]:
        first = ["--join", self.addresses[0]] if self.addresses else ["--servers", str(_SERVERS)]
        if self._controller is not None:
            first = ["--servers", str(_SERVERS), "--controller", self._controller]
        command = [sys.executable, "-m", "adam_mp", "serve-params", "--listen", listen, "--copies", str(_COPIES),
                   "--commit", self._commit, "--address-file", str(self._folder / f"address-{number}")]  # fmt: skip
        if self._machines is not None:
            command += ["--key-file", str(self._folder / "keys")]
            command = ["ip", "netns", "exec", self._machines.space(number + 1), *command]
        with open(self._folder / f"log-{number}", "ab") as log:
            return subprocess.Popen([*command, *first], stdout=log, stderr=log)

    def restart(self, number: int) -> None:
        """Start a server that was killed again, at its address, without what it had in memory."""
        self.processes[number].wait(10)
        self.processes[number] = self._start(number, self.addresses[number])

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait(20)


@dataclasses.dataclass
class Watch:
    """Group -> its map epoch when its primary was killed; `answered` is when a new primary first answered about it."""

    epochs: dict[int, int]
    answered: dict[int, float] = dataclasses.field(default_factory=dict)


class WatchedDialer(SocketDialer):
    """Notes when a shard of a watched group is answered under a newer map epoch."""

    watch: Watch | None = None
    groups: tuple[int, ...] = ()

    def receive(self, seconds: float) -> tuple[Place, Message] | None:
        """See `Endpoint.receive`."""
        received, watch = super().receive(seconds), self.watch
        if received is not None and watch is not None and received[1].kind in (Kind.FRESH, Kind.UNCHANGED):
            group = self.groups[received[1].shard]
            if received[1].map_epoch > watch.epochs.get(group, 1 << 62):
                watch.answered.setdefault(group, time.monotonic())
        return received


class Sender(threading.Thread):
    """A replica that pushes whole numbers to all shards, again and again; `pushed` is their sum.

    `ends` asks it to end well, `given_up` to end at once.
    """

    def __init__(self, address: str, seed: int, keys: Keys | None) -> None:
        super().__init__(daemon=True)
        self._line = SocketDialer(keys)
        self._link = CoordinatorLink(self._line, parse_place(address, "address"), new_identity())
        news = self._link.join(_JOINING, 60)
        assert news.map is not None
        self.map: BucketMap = news.map
        self._layout = self.map.cut(_LAYOUT)
        self.memory = ExchangeMemory.create(Held.all_of(self._layout.for_servers(_SERVERS)), keeps=True)
        self.weights = np.zeros(self._layout.size, np.float32)
        self.pushed = np.zeros(self._layout.size)
        self._numbers = np.random.default_rng(seed)
        self.dialer = WatchedDialer(keys)
        self.rounds, self.ends, self.given_up, self.trouble = 0, False, False, ""
        self._connect(self.map)

    def _connect(self, bucket_map: BucketMap) -> None:
        self.map = bucket_map
        peers: list[Peer] = [parse_place(address, "address") for address in bucket_map.addresses]
        for peer in peers:
            self.dialer.dial(peer)
        self.dialer.groups = bucket_map.groups_of(_LAYOUT)
        self.exchange = Exchange(
            self.dialer, self.memory, self.weights, peers, bucket_map, self._link.run, self._link.identity,
            reaches=self.dialer.reaches,
        )  # fmt: skip
        self.exchange.begin()

    def run(self) -> None:
        """Push until `ends`, then until nothing is unstable."""
        try:
            self.round()  # to begin with the servers' weights
            while not self.ends and not self.given_up:
                numbers = self._numbers.integers(-3, 4, self._layout.size).astype(np.float32)
                self.weights += numbers
                self.pushed += numbers
                self.round()
            self.round()
        except Exception as error:
            self.trouble = repr(error)
            raise

    def round(self) -> None:
        """Exchange all shards, by the newest map."""
        self.exchange.begin()
        while not self.exchange.done and not self.given_up:
            self.exchange.step(time.monotonic(), 0.002)
            self.stay()
            newer = self.exchange.moved
            if newer is not None and newer.epoch > self.map.epoch:
                self._connect(newer)
        self.rounds += 1

    def stay(self) -> None:
        """Report that it lives, where that is due, and take a newer map."""
        news = self._link.report(lambda: {"epoch": 0, "wanted": 0, "statistics": {}}, lambda: _JOINING, 0.5)
        if news is not None and news.map is not None and news.map.epoch > self.map.epoch:
            self._connect(news.map)

    def close(self) -> None:
        """End it, and free what it has."""
        self.given_up = True
        self.join(20)
        self.dialer.close()
        self._line.close()
        self.memory.close()


class Run:
    """Servers, senders, and a line to ask for the state. Use as a context manager.

    With `machines` this process must be in one of their namespaces.
    """

    def __init__(self, commit: str, controller: str | None = None, machines: Machines | None = None) -> None:
        self._ends = contextlib.ExitStack()
        folder = Path(self._ends.enter_context(tempfile.TemporaryDirectory()))
        self.folder = folder
        self.servers = self._ends.enter_context(Servers(folder, commit, controller, machines))
        self._is_first_immortal = controller is None
        self._line = SocketDialer(self.servers.keys)
        self._ends.callback(self._line.close)
        self._asked = 0
        self._asking = CoordinatorLink(self._line, parse_place(self.servers.addresses[0], "address"), new_identity())
        self.senders = [Sender(self.servers.addresses[0], seed, self.servers.keys) for seed in range(SENDERS)]
        for sender in self.senders:
            self._ends.callback(sender.close)
            sender.start()
        self.settle()
        time.sleep(1.0)  # so that servers know each other

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def map(self) -> dict[str, Any]:
        """Return the bucket map as `status` shows it."""
        bucket_map: dict[str, Any] = self.state()["map"]
        return bucket_map

    def state(self) -> dict[str, Any]:
        """Return what `status` shows; servers are asked in turn if the coordinator is elected."""
        for _ in range(10):
            try:
                state: dict[str, Any] = self._asking.ask(Kind.STATUS, {}, 2 if not self._is_first_immortal else 20)
                return state
            except TransportError:
                self._asked = (self._asked + 1) % _SERVERS
                self._asking.turn_to(parse_place(self.servers.addresses[self._asked], "address"))
        raise SystemExit("no server shows the state")

    def coordinator(self) -> int:
        """Return the number of the server that is the coordinator: the one that answers."""
        self.state()
        return self.servers.addresses.index(str(self._asking.address))

    def settle(self, seconds: float = 60.0) -> dict[str, Any]:
        """Wait until each group has all its copies; return the map."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = self.map()
            if all(len(in_sync) == _COPIES - 1 and not joining for _, _, in_sync, joining, _ in found["groups"]):
                return found
            for sender in self.senders:
                if sender.trouble:
                    raise SystemExit(f"a sender ended: {sender.trouble}")
            time.sleep(0.05)
        raise SystemExit(f"copies are missing after {seconds:g} s: {found}")

    def signal(self, place: int, number: int, seconds: float = 10.0) -> list[float]:
        """Send a server a signal that ends or stops it; see `fail`."""
        return self.fail(place, lambda: self.servers.processes[place].send_signal(number), seconds)

    def fail(self, place: int, harm: Callable[[], object], seconds: float = 10.0) -> list[float]:
        """Do a server harm; return, for each group of which it was primary, the seconds to the new one's answer."""
        groups = self.map()["groups"]
        epochs = {group: each[0] for group, each in enumerate(groups) if each[1] == place}
        watches = [Watch(epochs) for _ in self.senders]
        for sender, watch in zip(self.senders, watches, strict=True):
            sender.dialer.watch = watch
        killed = time.monotonic()
        harm()
        while time.monotonic() - killed < seconds:
            answered = {group: min(watch.answered.get(group, 1e9) for watch in watches) for group in epochs}
            if max(answered.values(), default=0.0) < 1e9:
                return [when - killed for when in answered.values()]
            time.sleep(0.005)
        raise SystemExit(f"no new primary answers after {seconds:g} s: {answered}, {self.map()}; logs in {self.folder}")

    def rounds(self) -> int:
        """Return how many rounds all senders have done."""
        return sum(sender.rounds for sender in self.senders)

    def victim(self, chance: random.Random) -> int:
        """Return a server that is primary of some group, but not the one with the only coordinator."""
        deadline, immortal = time.monotonic() + 30, {0} if self._is_first_immortal else set()
        while not (others := {each[1] for each in self.settle()["groups"]} - immortal):  # until groups are handed over
            if time.monotonic() > deadline:
                raise SystemExit("the server with the coordinator stays primary of all groups")
            time.sleep(0.1)
        return chance.choice(sorted(others))

    def audit(self) -> int:
        """End the senders; return how many numbers of the weights are not the sum of what was pushed."""
        for sender in self.senders:
            sender.ends = True
        for sender in self.senders:
            sender.join(60)
            if sender.is_alive() or sender.trouble:
                raise SystemExit(f"a sender does not end: {sender.trouble}")
        last = self.senders[0]
        last.round()
        expected = sum(sender.pushed for sender in self.senders)
        return int(np.count_nonzero(last.weights != expected))

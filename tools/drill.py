"""A run of many machines in network namespaces, each with an address of its own, under faults: python tools/drill.py.

Needs root and `ip` (iproute2). Three parameter servers, one of them without snapshots, two replicas and a
data server, with keys, train MNIST; while they do, parts are killed and started again, the network is cut and healed,
broken frames are thrown at the servers, another user knocks. One replica is cut off while the run ends. What must hold
is checked at the end, and the table of what was done and seen is printed.

`--copies 3` drills nine machines instead: four servers with copies of all weights, three replicas, two data servers.
Servers, the first one with the coordinator among them, replicas and data servers are killed, stopped and cut off in
turn, each for longer than the others wait before they replace it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

PATIENCE = 120.0  # seconds that anything may take
IMAGES = 57_000  # of an epoch: what --validation leaves of MNIST
_NOBODY = 65534  # the user and group that own nothing
BOTH, OUT, IN = "both", "out", "in"  # what a cut takes: all, what the machine sends, what others send to it
_ADAM_MP = (sys.executable, "-m", "adam_mp")
_NOBODYS = "02:00:00:00:00:fe"  # the hardware address of no machine


@dataclasses.dataclass(frozen=True)
class Shape:
    """The parts of a run, by name: each has a machine of its own, in this order; the run is watched from one more.

    `forgetful` are servers without snapshots. With `copies` above 1, all weights are on so many servers.
    """

    parts: tuple[str, ...]
    forgetful: tuple[str, ...] = ()
    copies: int = 1

    def machine(self, name: str) -> int:
        """Return the number of a part's machine, from 1."""
        return self.parts.index(name) + 1

    @property
    def desk(self) -> int:
        """The machine from which the run is watched."""
        return len(self.parts) + 1

    def of(self, kind: str) -> tuple[str, ...]:
        """Return the parts of a kind: "server", "replica" or "data"."""
        return tuple(name for name in self.parts if name.startswith(kind))


PLAIN = Shape(("server 0", "server 1", "server 2", "replica 0", "replica 1", "data 0"), ("server 2",))
COPIED = Shape(
    ("server 0", "server 1", "server 2", "server 3", "replica 0", "replica 1", "replica 2", "data 0", "data 1"),
    ("server 2", "server 3"), copies=3,
)  # fmt: skip


class DrillError(Exception):
    """Something did not hold."""


class Machines:
    """Network namespaces, `10.77.0.1` onwards, joined by a switch; a context manager, leaving it removes them."""

    def __init__(self, count: int) -> None:
        self._prefix = f"adam{os.getpid()}"
        self.count = count

    @staticmethod
    def can_be_made() -> bool:
        """Tell whether this user on this machine may have namespaces."""
        name = f"adamtry{os.getpid()}"
        try:
            made = _ip("netns", "add", name).returncode == 0
            made = made and _ip("-n", name, "link", "add", "switch", "type", "bridge").returncode == 0
        except FileNotFoundError:
            return False
        _ip("netns", "del", name)
        return made

    def __enter__(self) -> Machines:
        try:
            switch = f"{self._prefix}-switch"
            _must("netns", "add", switch)
            _must("-n", switch, "link", "add", "switch", "type", "bridge")
            _must("-n", switch, "link", "set", "switch", "up")
            for number in range(1, self.count + 1):
                space = self.space(number)
                _must("netns", "add", space)
                _must(
                    "-n", space, "link", "add", "eth0", "type", "veth", "peer", "name", f"port{number}", "netns", switch
                )
                _must("-n", space, "addr", "add", f"{self.address(number)}/24", "dev", "eth0")
                for device in ("lo", "eth0"):
                    _must("-n", space, "link", "set", device, "up")
                _must("-n", switch, "link", "set", f"port{number}", "master", "switch", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        for name in (*(self.space(number) for number in range(1, self.count + 1)), f"{self._prefix}-switch"):
            _ip("netns", "del", name)

    def space(self, number: int) -> str:
        """Return the namespace of machine `number`, from 1."""
        return f"{self._prefix}-{number}"

    def address(self, number: int) -> str:
        """Return its address."""
        return f"10.77.0.{number}"

    def cut(self, number: int, way: str = BOTH) -> None:
        """Take the cable out, or one of its ways: what is lost is lost, and nobody is told."""
        if way == BOTH:
            _must("-n", f"{self._prefix}-switch", "link", "set", f"port{number}", "nomaster")
            return
        others = [other for other in range(1, self.count + 1) if other != number]
        for sender, target in [(number, other) if way == OUT else (other, number) for other in others]:
            entry = (self.address(target), "lladdr", _NOBODYS, "dev", "eth0", "nud", "permanent")
            _must("-n", self.space(sender), "neigh", "replace", *entry)

    def heal(self, number: int) -> None:
        """Put it back."""
        for other in range(1, self.count + 1):
            _must("-n", self.space(other), "neigh", "flush", "dev", "eth0", "nud", "permanent")
        _must("-n", f"{self._prefix}-switch", "link", "set", f"port{number}", "master", "switch")


def _ip(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True, timeout=PATIENCE)


def _must(*arguments: str) -> None:
    done = _ip(*arguments)
    if done.returncode:
        raise DrillError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


class Part:
    """A command on one of the machines."""

    def __init__(self, space: str, folder: Path, name: str, command: Sequence[str]) -> None:
        self.name = name
        self.log = folder / f"{name}-{time.monotonic_ns()}.log"
        with self.log.open("wb") as log:
            command = ["ip", "netns", "exec", space, *command]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def said(self) -> str:
        """Return what it printed."""
        return self.log.read_text(errors="replace")

    def alive(self) -> bool:
        """Tell whether it runs."""
        return self.process.poll() is None

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self.process.kill()
        self.process.wait()

    def send(self, number: int) -> None:
        """Send a signal to all of its processes."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.process.pid)
            for each in (process, *process.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.send_signal(number)

    def end(self, seconds: float) -> int:
        """Wait for its end; return its exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise DrillError(f"{self.name} does not end within {seconds:g} s: {self.said()[-500:]}") from None


class Run:
    """The parts of a run, each on the machine that its shape says; `more` are settings of its replicas.

    `machines` are Machines, or a PacketSwitch.
    """

    def __init__(
        self, machines: Any, folder: Path, epochs: int, more: Sequence[str] = (), shape: Shape = PLAIN
    ) -> None:  # fmt: skip
        self.machines, self.folder, self.epochs, self.more, self.shape = machines, folder, epochs, more, shape
        self.parts: dict[str, Part] = {}
        self.ended: list[Part] = []  # those that were killed
        self.watch: Part | None = None
        self.key = folder / "key"
        subprocess.run([*_ADAM_MP, "keygen", str(self.key)], check=True, capture_output=True)
        self.coordinator = self.address("server 0")

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: Any) -> None:
        for part in (*self.parts.values(), *([self.watch] if self.watch else [])):
            if part.alive():
                part.send(signal.SIGCONT)
                part.kill()

    def start(self, name: str) -> None:
        """Start a part, or start it again."""
        if name in self.parts:
            self.ended.append(self.parts[name])
        space = self.machines.space(self.shape.machine(name))
        self.parts[name] = Part(space, self.folder, name.replace(" ", "-"), self._command(name))

    def _command(self, name: str) -> tuple[str, ...]:
        """Return the command of a part."""
        keys = ("--key-file", str(self.key))
        kind, number = name.rsplit(" ", 1)
        if kind == "replica":
            data = self.shape.of("data")
            return (
                *_ADAM_MP, "train", "--join", self.coordinator, *keys, "--cores", "1", "--epochs", str(self.epochs),
                "--json", *(("--data-from", ",".join(map(self.address, data))) if data else ()),
                "--run-dir", self._run_dir(int(number)), *self.more,
            )  # fmt: skip
        listen = ("--listen", self.address(name))
        if kind == "data":
            data = [value for pair in itertools.pairwise(self.more) if pair[0] == "--data" for value in pair]
            return (*_ADAM_MP, "serve-data", *listen, "--cores", "1", *data, *keys)
        first = ("--servers", str(len(self.shape.of("server"))))
        place = first if name == "server 0" else ("--join", self.coordinator)
        kept = () if name in self.shape.forgetful else ("--snapshots", str(self.folder / f"state-{number}"))
        copies = ("--copies", str(self.shape.copies)) if self.shape.copies > 1 else ()
        return (*_ADAM_MP, "serve-params", *listen, *place, *copies, *kept, *keys)

    def address(self, name: str) -> str:
        """Return where a part listens."""
        port = 7800 if name.startswith("data") else 7700
        return f"{self.machines.address(self.shape.machine(name))}:{port}"

    def _run_dir(self, index: int) -> str:
        number = sum(part.name == f"replica-{index}" for part in self.ended)
        return str(self.folder / f"run-{index}-{number}")

    def begin(self) -> None:
        """Start all parts, the first server last: the order must not matter."""
        for name in reversed(self.shape.parts):
            self.start(name)

    def status(self) -> dict[str, Any]:
        """Return the next state that `adam-mp status --watch` shows at the desk, watching the run all the while."""
        deadline = time.monotonic() + PATIENCE
        before: int | None = None
        while time.monotonic() < deadline:
            if self.watch is None or not self.watch.alive():  # it gives up when the coordinator is away for long
                self.watch = self._ask("--watch", "--seconds", "0.25", "--deadline", "30")
                before = None
            lines = self.watch.said().split("\n")[:-1]
            if before is not None and len(lines) > before and lines[-1].startswith("{"):
                return dict(json.loads(lines[-1]))
            before = len(lines) if before is None else before
            time.sleep(0.1)
        raise DrillError(f"no status within {PATIENCE:g} s: {self.watch.said()[-500:] if self.watch else ''}")

    def _ask(self, *more: str, key: Path | None = None) -> Part:
        """Ask for the run's status at the desk."""
        command = (*_ADAM_MP, "status", self.coordinator, "--json", "--key-file", str(key or self.key), *more)
        return Part(self.machines.space(self.shape.desk), self.folder, "status", command)

    def is_shown_to(self, key: Path) -> bool:
        """Tell whether the holder of `key` is shown the status."""
        return self._ask("--deadline", "3", key=key).end(PATIENCE) == 0

    def trained(self) -> int:
        """Return how many images the run has trained up to now."""
        state = self.status()
        return sum(entry["trained"] for entry in state["finished"]) + int(state["trained"])

    def trained_here(self) -> dict[int, int]:
        """Return identity -> images trained by each replica, whether the servers have their updates yet or not."""
        replicas = (member for member in self.status()["members"] if member["role"] == "replica")
        return {member["identity"]: int(member.get("trained_here", 0)) for member in replicas}

    def goes_on(self, images: int, seconds: float = PATIENCE) -> float:
        """Wait until `images` more are trained; return after how many seconds that was."""
        began, first = time.monotonic(), self.trained()
        while True:
            for part in self.parts.values():
                if not part.alive():
                    raise DrillError(f"{part.name} ended: {part.said()[-1000:]}")
            if self.trained() >= first + images:
                return time.monotonic() - began
            if time.monotonic() - began > seconds:
                raise DrillError(f"no {images} images are trained within {seconds:g} s: {self.status()}")
            time.sleep(0.2)

    def is_whole(self) -> bool:
        """Tell whether each bucket group is on as many servers as it should be, all of them in sync."""
        groups = (self.status()["map"] or {}).get("groups") or []
        return all(len(in_sync) == self.shape.copies - 1 and not joining for _, _, in_sync, joining, _ in groups)

    def becomes_whole(self, seconds: float = PATIENCE) -> float:
        """Wait until lost copies have been made anew; return after how many seconds that was."""
        began = time.monotonic()
        while self.shape.copies > 1 and not self.is_whole():
            if time.monotonic() - began > seconds:
                raise DrillError(f"copies are missing after {seconds:g} s: {self.status()}")
        return time.monotonic() - began

    def ends_within(self, seconds: float) -> bool:
        """Look for a second at the last epoch; tell whether it is over soon, if all goes on as it does now."""
        first, began = self.status(), time.monotonic()
        if first["epoch"] < self.epochs:
            return False
        time.sleep(1)
        last = self.status()
        trained = last["trained"] - first["trained"]
        return bool(trained * seconds >= (last["images"] - last["trained"]) * (time.monotonic() - began))

    def finish(self, seconds: float) -> dict[str, Any]:
        """Wait for the run's end; return the summary of the replica that led."""
        replicas = [self.parts[name] for name in self.parts if name.startswith("replica")]
        servers = [self.parts[name] for name in self.parts if name.startswith("server")]
        for part in (*replicas, *servers):
            code = part.end(seconds)
            if code:
                raise DrillError(f"{part.name} ended with exit code {code}: {part.said()[-2000:]}")
        for name in self.shape.of("data"):
            self.parts[name].process.send_signal(signal.SIGTERM)
            self.parts[name].end(20)
        summaries = [json.loads(part.said().strip().splitlines()[-1]) for part in replicas]
        led = [summary for summary in summaries if summary["test_accuracy"] is not None]
        if not led:
            raise DrillError("no replica evaluated the model")
        return dict(max(led, key=lambda summary: int(summary["images_trained"])))


# Faults. Each does its harm and mends it; the run must go on after it.


def kill(name: str, away: float = 0.0) -> Callable[[Run], None]:
    """Kill a part, and start it again `away` seconds later."""

    def fault(run: Run) -> None:
        run.parts[name].kill()
        time.sleep(away)
        run.start(name)

    return fault


def stop(name: str, seconds: float) -> Callable[[Run], None]:
    """Stop all processes of a part for a while."""

    def fault(run: Run) -> None:
        run.parts[name].send(signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            run.parts[name].send(signal.SIGCONT)

    return fault


def cut(name: str, seconds: float, way: str = BOTH) -> Callable[[Run], None]:
    """Cut a part's machine off, one way or both."""

    def fault(run: Run) -> None:
        run.machines.cut(run.shape.machine(name), way)
        try:
            time.sleep(seconds)
        finally:
            run.machines.heal(run.shape.machine(name))

    return fault


def cut_over_the_end(name: str, seconds: float) -> Callable[[Run], None]:
    """Cut a replica off in the last epoch, so that the others end the run, and let it come back to find it done."""

    def fault(run: Run) -> None:
        deadline = time.monotonic() + 10 * PATIENCE
        while not run.ends_within(seconds / 2):
            if time.monotonic() > deadline:
                raise DrillError(f"the end of the run does not come near: {run.status()}")
        began = time.monotonic()
        run.machines.cut(run.shape.machine(name))
        try:
            while run.status()["phase"] != "done":
                if time.monotonic() - began > seconds:
                    raise DrillError(f"the run is not over within a cut of {seconds:g} s: {run.status()}")
            time.sleep(max(0.0, began + seconds - time.monotonic()))
        finally:
            run.machines.heal(run.shape.machine(name))

    return fault


def knock(run: Run) -> None:
    """Ask as another user of the coordinator's machine: without keys, and with the run's key file."""
    script = (  # the program is loaded first: the other user may have no way to its files
        "import encodings.idna, os, sys\n"
        "from adam_mp.cli import main, status\n"
        "from adam_mp.transport import zeromq\n"
        f"os.setgroups([]); os.setgid({_NOBODY}); os.setuid({_NOBODY})\n"
        "sys.exit(main.main(sys.argv[1:]))\n"
    )
    here = ["ip", "netns", "exec", run.machines.space(run.shape.machine("server 0")), sys.executable, "-c", script]
    ask = [*here, "status", run.coordinator, "--deadline", "5"]
    for keys, expected in (((), "without keys"), (("--key-file", str(run.key)), "cannot read key file")):
        asked = subprocess.run([*ask, *keys], capture_output=True, text=True, timeout=PATIENCE, check=False)
        if asked.returncode == 0 or expected not in asked.stderr:
            raise DrillError(f"another user is told, {' '.join(keys) or 'without keys'}: {asked.stdout}{asked.stderr}")


def throw(run: Run) -> None:
    """Throw frames that are none at two servers from a machine without keys, and ask with the wrong keys."""
    script = (
        "import os, socket, sys\n"
        "for address in sys.argv[1:]:\n"
        "    for size in range(1, 2000, 41):\n"
        "        with socket.create_connection((address, 7700), 10) as link:\n"
        "            link.sendall(os.urandom(size))\n"
    )
    targets = [run.machines.address(number) for number in (1, 2)]
    command = ["ip", "netns", "exec", run.machines.space(run.shape.desk), sys.executable, "-c", script, *targets]
    with contextlib.suppress(subprocess.CalledProcessError):  # a server may hang up while it is spoken to
        subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE)
    wrong = run.folder / "wrong-key"
    subprocess.run([*_ADAM_MP, "keygen", str(wrong)], check=True, capture_output=True)
    if run.is_shown_to(wrong):
        raise DrillError("status was shown to somebody with other keys")
    wrong.unlink()


@dataclasses.dataclass(frozen=True)
class Fault:
    """What is done to the run, in words and in deed."""

    words: str
    deed: Callable[[Run], None]


FAULTS = (
    Fault("broken frames and wrong keys", throw),
    Fault("another user of the coordinator's machine knocks", knock),
    Fault("parameter server killed -9, started again from its snapshot", kill("server 1")),
    Fault("parameter server without snapshots killed -9, started again", kill("server 2")),
    Fault("coordinator killed -9, started again from its snapshot", kill("server 0")),
    Fault("the only data server killed -9, started again after 2 s", kill("data 0", 2)),
    Fault("the only data server killed -9, started again after 20 s", kill("data 0", 20)),
    Fault("replica killed -9, started again", kill("replica 1")),
    Fault("a parameter server cut off for 10 s", cut("server 1", 10)),
    Fault("the coordinator cut off for 10 s", cut("server 0", 10)),
    Fault("a replica cut off for 10 s", cut("replica 1", 10)),
    Fault("the data server cut off for 10 s", cut("data 0", 10)),
    Fault("a replica cut off for 30 s: taken for dead, and back", cut("replica 1", 30)),
)
LAST = Fault("a replica cut off for 30 s while the run ends", cut_over_the_end("replica 1", 30))


def in_turn(victims: Sequence[str], seconds: float = 5.0) -> Iterator[Fault]:
    """Kill each victim, stop it, and cut it off in each way."""
    for name in victims:
        yield Fault(f"{name} killed -9, started again after {seconds:g} s", kill(name, seconds))
        yield Fault(f"{name} stopped for {seconds:g} s", stop(name, seconds))
        yield Fault(f"{name} cut off for {seconds:g} s", cut(name, seconds))
        yield Fault(f"what {name} sends lost for {seconds:g} s", cut(name, seconds, OUT))
        yield Fault(f"what is sent to {name} lost for {seconds:g} s", cut(name, seconds, IN))


# Who is struck in a run with copies: an old and a new server without snapshots, the coordinator, and one of each other
# kind. Parts of other kinds, which this run has not, need only be named here and in `Run._command`.
VICTIMS = ("server 1", "server 3", "server 0", "replica 1", "data 0")


def drill(
    run: Run, faults: Sequence[Fault], images: int, tell: Callable[[str], None], last: Fault | None = None
) -> dict[str, Any]:  # fmt: skip
    """Begin the run, do it all the `faults`, `images` trained after each, and wait for its end; return the summary.

    `last` is done to it as it ends.
    """
    run.begin()
    tell(f"{run.goes_on(1):6.1f} s   until the first images were trained")
    for fault in faults:
        before = run.trained_here()
        began = time.monotonic()
        fault.deed(run)
        # A replica that has just joined a restarted coordinator has not told yet what it trained.
        during = sum(max(0, images - before.get(identity, 0)) for identity, images in run.trained_here().items())
        seconds = time.monotonic() - began
        after = run.goes_on(images)
        line = f"{fault.words}: {during:,} images meanwhile, {images:,} more {after:.1f} s after it"
        if run.shape.copies > 1:
            line += f", all copies {after + run.becomes_whole():.1f} s after it"
        tell(f"{seconds:6.1f} s   {line}")
    state = run.status()
    if state["phase"] == "done":
        raise DrillError("the run was over before all faults; give it more --epochs")
    if last is not None:
        last.deed(run)
    healed = time.monotonic()
    summary = run.finish(1000)
    if last is not None:
        tell(f"         {last.words}: all parts ended {time.monotonic() - healed:.1f} s after it")
    summary["twice"] = sum(entry["twice"] for entry in state["finished"])
    return summary


def main() -> int:
    """Run the drill that the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--copies", type=int, default=1, choices=(1, COPIED.copies))
    parser.add_argument("--victims", default=",".join(VICTIMS), help="parts that are struck with --copies, in turn")
    parser.add_argument("--epochs", type=int, default=34)
    parser.add_argument("--images", type=int, default=5000, help="images trained between two faults")
    parser.add_argument("--accuracy", type=float, default=0.99, help="the least test accuracy")
    parser.add_argument("--model", default="mnist", help="the network")
    parser.add_argument("--keep", type=Path, help="a folder for the logs, which are thrown away otherwise")
    values = parser.parse_args()
    shape, faults = (COPIED, tuple(in_turn(values.victims.split(",")))) if values.copies > 1 else (PLAIN, FAULTS)
    folder = Path(tempfile.mkdtemp(prefix="drill-"))
    more = ("--model", values.model)
    try:
        with Machines(shape.desk) as machines, Run(machines, folder, values.epochs, more, shape) as run:
            summary = drill(run, faults, values.images, lambda line: print(line, flush=True), LAST)
        figures = ("test_accuracy", "images_trained", "updates", "staleness_mean", "seconds", "twice")
        print({name: summary[name] for name in figures})
        if summary["images_trained"] != values.epochs * IMAGES:
            raise DrillError(f"{summary['images_trained']} images are counted; expected {values.epochs * IMAGES}")
        if summary["test_accuracy"] < values.accuracy:
            raise DrillError(f"test accuracy {summary['test_accuracy']}; expected {values.accuracy} or more")
    except DrillError as error:
        print(f"did not hold: {error}", file=sys.stderr)
        return 1
    finally:
        if values.keep is not None:
            shutil.copytree(folder, values.keep, dirs_exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

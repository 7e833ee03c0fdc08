"""Faults. Each does its harm to a part of a run and mends it; the run must go on after it."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from tools.drilling.machines import BOTH, IN, OUT, PATIENCE, DrillError
from tools.drilling.run import ADAM_MP, Run
from tools.drilling.victims import find_victims

_NOBODY = 65534  # the user and group that own nothing


@dataclasses.dataclass(frozen=True)
class Fault:
    """What is done to the run, in words and in deed. The deed returns the parts that it struck, if it had to find them.

    `is_felt` tells whether training may stop for it.
    """

    words: str
    deed: Callable[[Run], Sequence[str]]
    is_felt: bool = True


def kill(victim: str, away: float = 0.0) -> Callable[[Run], Sequence[str]]:
    """Kill a victim, and start it again `away` seconds later, as an operator would."""

    def fault(run: Run) -> Sequence[str]:
        struck = find_victims(run, victim)
        for name in struck:
            run.parts[name].kill()
        time.sleep(away)
        for name in struck:
            run.start(name)
        return struck

    return fault


def stop(victim: str, seconds: float) -> Callable[[Run], Sequence[str]]:
    """Stop all processes of a victim for a while."""

    def fault(run: Run) -> Sequence[str]:
        struck = find_victims(run, victim)
        try:
            for name in struck:
                run.parts[name].send(signal.SIGSTOP)
            time.sleep(seconds)
        finally:
            for name in struck:
                run.parts[name].send(signal.SIGCONT)
        return struck

    return fault


def cut(victim: str, seconds: float, way: str = BOTH) -> Callable[[Run], Sequence[str]]:
    """Cut a victim's machine off, one way or both."""

    def fault(run: Run) -> Sequence[str]:
        struck = find_victims(run, victim)
        try:
            for name in struck:
                run.machines.cut(run.shape.machine(name), way)
            time.sleep(seconds)
        finally:
            for name in struck:
                run.machines.heal(run.shape.machine(name))
        return struck

    return fault


def cut_over_the_end(name: str, seconds: float) -> Callable[[Run], Sequence[str]]:
    """Cut a replica off in the last epoch, so that the others end the run, and let it come back to find it done."""

    def fault(run: Run) -> Sequence[str]:
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
        return (name,)

    return fault


def knock(run: Run) -> Sequence[str]:
    """Ask as another user of the coordinator's machine: without keys, and with the run's key file."""
    script = (  # the program is loaded first: the other user may have no way to its files
        "import encodings.idna, os, sys\n"
        "from adam_mp.cli import main, status\n"
        "from adam_mp.transport import zeromq\n"
        f"os.setgroups([]); os.setgid({_NOBODY}); os.setuid({_NOBODY})\n"
        "sys.exit(main.main(sys.argv[1:]))\n"
    )
    here = ["ip", "netns", "exec", run.machines.space(run.shape.machine("server 0")), sys.executable, "-c", script]
    ask = [*here, "status", run.address("server 0"), "--deadline", "5"]
    for keys, expected in (((), "without keys"), (("--key-file", str(run.key)), "cannot read key file")):
        asked = subprocess.run([*ask, *keys], capture_output=True, text=True, timeout=PATIENCE, check=False)
        if asked.returncode == 0 or expected not in asked.stderr:
            raise DrillError(f"another user is told, {' '.join(keys) or 'without keys'}: {asked.stdout}{asked.stderr}")
    return ()


def throw(run: Run) -> Sequence[str]:
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
    subprocess.run([*ADAM_MP, "keygen", str(wrong)], check=True, capture_output=True)
    if run.is_shown_to(wrong):
        raise DrillError("status was shown to somebody with other keys")
    wrong.unlink()
    return ()


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
        is_felt = not name.startswith("etcd")
        yield Fault(f"{name} killed -9, started again after {seconds:g} s", kill(name, seconds), is_felt)
        yield Fault(f"{name} stopped for {seconds:g} s", stop(name, seconds), is_felt)
        yield Fault(f"{name} cut off for {seconds:g} s", cut(name, seconds), is_felt)
        yield Fault(f"what {name} sends lost for {seconds:g} s", cut(name, seconds, OUT), is_felt)
        yield Fault(f"what is sent to {name} lost for {seconds:g} s", cut(name, seconds, IN), is_felt)

"""The rows of the fault matrix for a model over two machines with keys: what is done to which part of it, and when.

In some rows the two machines exchange weights with a parameter server on a third. A few rows run with the long tests,
all of them in `make reliability`. The machines are network namespaces.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import signal
import time

import psutil
import pytest

from adam_mp.training.folder.checkpoint import read_checkpoint
from tests.system.conftest import wait_until
from tests.system.reliability import Row, recorded
from tests.system.test_faults import ATTEMPTS, EPOCHS, FULL, PHASES
from tools.drilling.machines import Machines
from tools.drilling.partitions import PartitionGroup

SECONDS = 10.0  # for which something is stopped or cut off
MACHINE = "machine"
PARTS = tuple(itertools.product(("worker 0", "courier", MACHINE), (1, 2)))
pytestmark = [
    pytest.mark.long, pytest.mark.timeout(900),
    pytest.mark.skipif(not Machines.can_be_made(), reason="needs root and network namespaces"),
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
    """A row: the deed, the process or whole machine of which partition it is done to, the phase, a server or none."""

    deed: str
    which: str
    part: int
    phase: str
    serves: bool = False

    @property
    def row(self) -> Row:
        """What docs/reliability.md says of it."""
        seconds = "" if self.deed == "killed" else f" for {SECONDS:g} s"
        name = {"worker 0": "worker", MACHINE: "all processes"}.get(self.which, self.which)
        name = "cable" if self.deed == "cut off" else name
        served = ", with a parameter server" if self.serves else ""
        return Row(
            f"{name} of partition {self.part} on a machine of its own {self.deed}{seconds} during {self.phase}{served}",
            "exit code 0, of a successor where the supervisor is killed; every image of every epoch is counted once",
        )


def matrix() -> list[Case]:
    every = [Case(deed, *part, phase) for deed, part, phase in itertools.product(("killed", "stopped"), PARTS, PHASES)]
    every += [Case("cut off", MACHINE, part, phase) for part, phase in itertools.product((1, 2), PHASES)]
    every += [
        Case(deed, which, part, phase, serves=True)
        for deed, which, part, phase in itertools.product(
            ("killed", "stopped"), ("synchronizer", MACHINE), (1, 2), PHASES
        )
    ]
    every += [Case("cut off", MACHINE, part, phase, serves=True) for part, phase in itertools.product((1, 2), PHASES)]
    # Servers refuse whoever joins a run that is done; such a leader goes on alone, with --join none.
    every.remove(Case("killed", MACHINE, 1, "shutdown", serves=True))
    return every if FULL else [case for case in every if case in CHOSEN]


CHOSEN = {
    Case("killed", MACHINE, 1, "validation"),
    Case("stopped", "courier", 2, "a checkpoint"),
    Case("cut off", MACHINE, 2, "steady state"),
    Case("killed", MACHINE, 2, "steady state", serves=True),
}


@pytest.mark.parametrize(
    "case",
    matrix(),
    ids=lambda case: f"{case.which}-{case.part}-{case.deed}-{case.phase}{'-served' * case.serves}".replace(" ", "_"),
)
def test_promises_hold(case, small_data, tmp_path):
    more, images = PHASES[case.phase]
    settings = ["--model", "lenet", "--data", str(small_data), "--epochs", str(EPOCHS), "--augment", "none",
                "--cores", "2", *more]  # fmt: skip
    with recorded(case.row), Machines(3) as machines:
        for attempt in range(ATTEMPTS):
            with PartitionGroup(machines, 2, tmp_path / str(attempt), settings, serves=case.serves) as group:
                seen = disturb(case, machines, group)
                if seen is None:
                    continue
                if case.part == 1 and case.which == MACHINE and case.deed == "killed" and is_over(group):
                    end_followers(group)
                else:
                    assert group.finish(300)["images_trained"] == EPOCHS * images
                epochs = [row["epoch"] for row in group.epochs()]
                assert epochs == sorted(set(epochs))
                assert EPOCHS - away(group) <= len(epochs) <= EPOCHS
                assert [row["images_trained"] for row in group.epochs()] == [images] * len(epochs)
                wait_until(lambda seen=seen: not any(map(lives, seen)), "the end of all processes", 10)
                return
        pytest.fail(f"each of {ATTEMPTS} runs had ended before the deed")


def disturb(case, machines, group) -> set[int] | None:
    """Do the deed once the run is in its phase; return the processes seen until then, or None if it ended before."""
    wait_until(lambda: case.which in {MACHINE, *group.children(case.part)} or has_ended(group), "the process")
    if case.phase != "start-up":
        rows = EPOCHS if case.phase == "shutdown" else 1
        wait_until(lambda: len(group.epochs()) >= rows or has_ended(group), f"{rows} epochs")
        time.sleep(0 if case.phase == "shutdown" else 0.1)
    children = {part: group.children(part) for part in (1, 2)}
    seen = {process for each in children.values() for process in each.values()}
    victims = list(children[case.part].values()) if case.which == MACHINE else [children[case.part].get(case.which)]
    if has_ended(group) or None in victims:
        return None
    if case.deed == "cut off":
        machines.cut(case.part)
        time.sleep(SECONDS)
        machines.heal(case.part)
    elif case.deed == "stopped":
        victims += [group.commands[case.part].pid] if case.which == MACHINE else []
        send(victims, signal.SIGSTOP)
        time.sleep(SECONDS)
        send(victims, signal.SIGCONT)
    elif case.which == MACHINE:
        group.kill(case.part)
        if not (case.part == 1 and is_over(group)):
            group.start(case.part)
    else:
        send(victims, signal.SIGKILL)
    return seen


def away(group) -> int:
    """Return how many epochs ended that are not in the checkpoint from which the leader went on.

    Of these the metrics have a line if the leader wrote one before it went back.
    """
    return group.said(1).count("ended while this replica was away")


def send(processes, number) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):  # a run that ends does not wait for it
            os.kill(process, number)


def has_ended(group) -> bool:
    return any(command.poll() is not None for command in group.commands.values())


def is_over(group) -> bool:
    """Tell whether the run's last checkpoint is that of its end."""
    return any(group.run.glob("checkpoint-*")) and read_checkpoint(group.run).epoch >= EPOCHS


def end_followers(group) -> None:
    """End the partitions that wait for a leader which does not come again."""
    group.signal(2, signal.SIGTERM)
    assert group.commands[2].wait(60) in (128 + signal.SIGTERM, 0)


def lives(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False

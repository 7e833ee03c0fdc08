"""The fault matrix: what is done to which part of a run and when, and the promises that must hold after it.

A few rows run by default. `make reliability` runs all of them and writes docs/reliability.md. Phases are made long by
settings rather than hit by luck: a run that validates most of its time, one that always checkpoints.
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
from tests.system.conftest import metrics, wait_until
from tests.system.reliability import Row, recorded

FULL = os.environ.get("ADAM_MP_MATRIX") == "full"
STOPPED = 30.0 if FULL else 1.5  # seconds
# While these are stopped others train all there is, and a second time there is nobody to stop.
OVER_BEFORE = (("stopped", "synchronizer"), ("stopped", "replica 1"))
RAISING = """
# What every Python of a run executes first.
import signal

def fail(number, frame):
    raise RuntimeError("raised by a signal")

signal.signal(signal.SIGRTMIN, fail)  # one that no process of a run takes
"""
EPOCHS = 4
ATTEMPTS = 5  # a run may end before it is disturbed
WHOLE = ("worker 0", "data server 0", "supervisor")  # parts of a run on one machine
PARTED = ("synchronizer", "parameter server 1", "parameter server 0", "replica 1")
MEMBERS = ("worker 0", "worker 1")  # of a group that has the model in two parts; the first leads
COPIED = ("parameter server 1", "parameter server 0", "replica 1")  # parts of a run with copies
PHASES = {  # settings, images of an epoch
    "start-up": ((), 1900),
    "steady state": ((), 1900),
    "validation": (("--validation", "0.9"), 200),
    "a checkpoint": (("--checkpoint-seconds", "0.02"), 1900),
    "shutdown": ((), 1900),
}
pytestmark = pytest.mark.timeout(900 if FULL else 400)
DEEDS = ("killed", "stopped", "made to raise")


@dataclasses.dataclass(frozen=True)
class Case:
    """A row of the matrix: the deed, the part it is done to, the phase, how often in a row, copies, and partitions."""

    deed: str
    part: str
    phase: str
    times: int = 1
    copies: int = 1
    partitions: int = 1

    @property
    def ends_the_run(self) -> bool:
        """Whether the run ends of it, to be resumed."""
        return self.part == "supervisor" and self.deed != "stopped"

    @property
    def row(self) -> Row:
        """What docs/reliability.md says of it."""
        seconds = f" for {STOPPED:g} s" if self.deed == "stopped" else ""
        often = ", twice in a row" if self.times == 2 else ""
        copies = f", with --copies {self.copies}" if self.copies > 1 else ""
        partitions = f", with --partitions {self.partitions}" if self.partitions > 1 else ""
        return Row(f"{self.part} {self.deed}{seconds} during {self.phase}{often}{copies}{partitions}", held(self))


def held(case: Case) -> str:
    """Say what must hold."""
    if case.ends_the_run:
        return "no process or memory is left; --resume trains every image of every epoch once"
    return "exit code 0; every image of every epoch is counted once; no process or memory is left"


def matrix() -> list[Case]:
    every = [Case(*each) for each in itertools.product(DEEDS, WHOLE + PARTED, PHASES)]
    twice = [Case(deed, part, "steady state", 2) for deed, part in itertools.product(DEEDS, WHOLE + PARTED)]
    every += [case for case in twice if (case.deed, case.part) not in OVER_BEFORE]
    every += [Case(*each, copies=3) for each in itertools.product(DEEDS, COPIED, PHASES)]
    every += [Case(*each, partitions=2) for each in itertools.product(DEEDS, MEMBERS, PHASES)]
    if FULL:
        return every
    return [case for case in every if dataclasses.astuple(case) in CHOSEN]


CHOSEN = {
    ("killed", "worker 0", "validation", 1, 1, 1),
    ("made to raise", "worker 0", "steady state", 1, 1, 1),
    ("made to raise", "supervisor", "a checkpoint", 1, 1, 1),
    ("killed", "supervisor", "steady state", 2, 1, 1),
    ("killed", "parameter server 1", "steady state", 1, 3, 1),
    ("killed", "worker 0", "validation", 1, 1, 2),
}


def has_ended(process):
    try:
        return psutil.Process(process).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize(
    "case",
    matrix(),
    ids=lambda case: f"{case.part}-{case.deed}-{case.phase}-{case.times}-{case.copies}-{case.partitions}",
)
def test_promises_hold(case, start, small_data, tmp_path, monkeypatch):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(RAISING)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}:{os.environ.get('PYTHONPATH', '')}")
    settings, images = PHASES[case.phase]
    parted = ("--servers", "2", "--replicas", "2", "--exchange-images", "64") if case.part in PARTED else ()
    parted = (*parted, "--servers", "3", "--copies", "3") if case.copies > 1 else parted
    parted = ("--partitions", str(case.partitions)) if case.partitions > 1 else parted
    arguments = (
        "train", "--data", str(small_data), "--model", "lenet", "--cores", "2", "--epochs", str(EPOCHS), "--json",
        *settings, *parted,
    )  # fmt: skip
    with recorded(case.row):
        for attempt in range(ATTEMPTS):
            folder = tmp_path / f"run-{attempt}"
            run, done = disturb(case, start, (*arguments, "--run-dir", str(folder)), folder)
            ended = run.finish(120 + STOPPED)
            if case.ends_the_run and ended.code != 0:
                if not has_more_to_train(folder):
                    if done:
                        return
                    continue
                ended = start("train", "--resume", str(folder), "--json").finish(120)
            assert ended.code == 0, ended.err
            assert ended.summary["images_trained"] == EPOCHS * images
            assert ended.summary["images_failed"] == ended.summary["images_skipped"] == 0
            if done:
                return
        pytest.fail(f"each of {ATTEMPTS} runs had ended before {case.part} could be {case.deed}")


def disturb(case, start, arguments, folder):
    """Begin a run and do the deed as often as the case says; return the run, and whether it came to all of that."""
    run = start(*arguments)
    for time_in_row in range(case.times):
        if time_in_row > 0 and case.ends_the_run:
            run.finish(120)
            if not has_more_to_train(folder):
                return run, False
            run = start("train", "--resume", str(folder), "--json")
        wait_for_phase(case, run, folder)
        if not do(case, run):
            return run, False
    return run, True


def has_more_to_train(folder):
    """Tell whether a run that was ended left a checkpoint, and one that is not of its end."""
    return bool(list(folder.glob("checkpoint-*"))) and read_checkpoint(folder).epoch < EPOCHS


def wait_for_phase(case, run, folder):
    """Wait until the run is where the deed is to be done, or has ended."""

    def over():
        return run.process.poll() is not None

    process_of(case, run)
    if case.phase == "start-up":
        return
    rows = EPOCHS if case.phase == "shutdown" else 1
    wait_until(lambda: over() or len(metrics(folder)) >= rows, f"{rows} epochs")
    if case.phase != "shutdown":
        time.sleep(0.1)


def process_of(case, run):
    """Return the process of the case's part."""
    if case.part == "supervisor":
        wait_until(lambda: run.see_children() or run.process.poll() is not None, "children")
        return run.process.pid if run.process.poll() is None else None
    found = wait_until(
        lambda: run.see_children().get(case.part) or (run.process.poll() is not None and -1), f"process {case.part}"
    )
    return None if found == -1 else found


def do(case, run):
    """Do the deed to the part; tell whether it was still there."""
    process = process_of(case, run)
    run.see_children()
    if process is None:
        return False
    try:
        if case.deed == "killed":
            os.kill(process, signal.SIGKILL)
        elif case.deed == "made to raise":
            os.kill(process, signal.SIGRTMIN)
            wait_until(lambda: has_ended(process), "the end of the part that was made to raise")
        else:
            os.kill(process, signal.SIGSTOP)
            time.sleep(STOPPED)
            with contextlib.suppress(ProcessLookupError):  # a run that ends does not wait for it
                os.kill(process, signal.SIGCONT)
    except ProcessLookupError:
        return False
    if case.times > 1 and case.deed != "stopped" and case.part != "supervisor":
        wait_until(lambda: process_of(case, run) != process, "a successor")
    return True

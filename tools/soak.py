"""A run whose processes are killed at random for many minutes, beside one that is left alone: python tools/soak.py.

Both train MNIST with the same settings for the same number of epochs, at the same time, so that they see the same
machine. What must hold is checked at the end: every image of every epoch trained once, an accuracy as good as the
other's, no growth of memory, open files, processes and shared memory, nothing left. The exit code says whether it did.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import math
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from adam_mp.memory.segment import live_segments

PATIENCE = 120.0  # seconds that anything may take which should be quick
DEVIATIONS = 3.0  # by which test accuracies may differ
GROWTH = {"memory": (0.03, 8e6), "files": (0, 4)}  # of the last quarter over the second: a share, and so much
SUPERVISOR = "supervisor"
PART = re.compile(r"(worker|data server|parameter server|replica) \d+|synchronizer")
AWAY = re.compile(r"epoch (\d+) ended while this replica was away")


class SoakError(Exception):
    """The soak cannot be finished, or a run ended that should not have."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long (`minutes`, or `epochs` if given), how often something is killed, and flags of `adam-mp train`."""

    minutes: float
    every: tuple[float, float] = (5.0, 15.0)
    seed: int = 1
    servers: int = 0
    epochs: int | None = None
    more: tuple[str, ...] = ()

    def arguments(self, epochs: int) -> list[str]:
        """Return the arguments of a run; no part is given up, however often it is killed."""
        parted = ["--servers", str(self.servers), "--replicas", "2"] if self.servers else []
        return ["--epochs", str(epochs), "--restarts", "1000000", "--json", *parted, *self.more]


@dataclasses.dataclass(frozen=True)
class Sample:
    """What the disturbed run has at a moment: bytes, open files, processes, shared-memory segments."""

    memory: float
    files: int
    processes: int
    segments: int


class Run:
    """`adam-mp train` in a folder, killed and resumed perhaps, with all processes it ever had; leaving ends it."""

    def __init__(self, folder: Path, arguments: Sequence[str]) -> None:
        self.logs, self.folder = folder, folder / "run"
        folder.mkdir()
        self.seen: dict[psutil.Process, str] = {}  # with the name of its part, or "" where it has none
        self.errors: list[Path] = []
        self._start("--run-dir", str(self.folder), *arguments)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: Any) -> None:
        self.look()
        for process in (self.process, *self.seen):
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass  # its children end with it
        self.process.wait()

    def _start(self, *arguments: str) -> None:
        self.output = self.logs / f"out-{len(self.errors)}"
        self.errors.append(self.logs / f"err-{len(self.errors)}")
        with self.output.open("wb") as out, self.errors[-1].open("wb") as err:
            command = [sys.executable, "-m", "adam_mp", "train", *arguments]
            self.process = subprocess.Popen(command, stdout=out, stderr=err, start_new_session=True)

    def look(self) -> list[psutil.Process]:
        """Return the processes that live, also those that should not any more, and remember the new ones."""
        try:
            supervisor = psutil.Process(self.process.pid)
            for process in (supervisor, *supervisor.children(recursive=True)):
                if not self.seen.get(process):
                    words = process.cmdline() or [""]
                    name = SUPERVISOR if process == supervisor else words[-1]
                    self.seen[process] = name if name == SUPERVISOR or PART.fullmatch(name) else ""
        except psutil.NoSuchProcess:
            pass  # it ended while we looked
        return [process for process in self.seen if _lives(process)]

    def rows(self) -> list[dict[str, Any]]:
        """Return the whole lines of metrics.jsonl."""
        path = self.folder / "metrics.jsonl"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return [json.loads(line) for line in text.split("\n")[:-1] if line]

    def said(self) -> str:
        """Return what it printed to standard error, all parts of a resumed run together."""
        return "".join(path.read_text(errors="replace") for path in self.errors)

    def sample(self) -> Sample:
        """Return what it has now."""
        memory, files, processes = 0.0, 0, 0
        for process in self.look():
            try:
                memory += _own_bytes(process.pid)
                files += process.num_fds()
                processes += 1
            except (psutil.Error, OSError):
                continue  # it ended while we looked
        return Sample(memory, files, processes, self.segments())

    def segments(self) -> int:
        """Return how many segments are there that the run made or holds."""
        mine = {process.pid for process in self.seen}
        return sum(segment.owner in mine or bool(mine.intersection(segment.holders)) for segment in live_segments())

    def kill_part(self, generator: random.Random) -> str | None:
        """Kill one of its parts, whichever; return which, or None if there is none just now."""
        parts = [process for process in self.look() if self.seen[process] not in ("", SUPERVISOR)]
        if not parts:
            return None
        chosen = generator.choice(sorted(parts, key=lambda part: (self.seen[part], part.pid)))
        try:
            chosen.kill()
        except psutil.NoSuchProcess:
            return None
        return self.seen[chosen]

    def kill_supervisor(self) -> None:
        """Kill the supervisor, see all others go with it, resume the run, and wait until it is whole again."""
        before = len(self.look())
        self.process.kill()
        self.process.wait()
        left = self.left()
        if left:
            raise SoakError(f"left by a killed supervisor: {left}")
        self._start("--resume", str(self.folder), "--json")
        wait_until(lambda: len(self.look()) >= before or self.process.poll() is not None, "the resumed run's processes")

    def left(self) -> str:
        """Return what lives of the run a while after its supervisor's end, in words; nothing should."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and (self.look() or self.segments()):
            time.sleep(0.05)
        processes, segments = [self.seen[process] or str(process.pid) for process in self.look()], self.segments()
        return ", ".join([*processes, *([f"{segments} segments"] if segments else [])])

    def finish(self, seconds: float) -> dict[str, Any]:
        """Wait for the end; return the summary. Raises SoakError if it ends in another way than done."""
        wait_until(lambda: self.process.poll() is not None, f"the end of {self.logs.name}", seconds)
        if self.process.returncode:
            raise SoakError(f"{self.logs.name} ended with exit code {self.process.returncode}: {self.said()[-2000:]}")
        return dict(json.loads(self.output.read_text().strip().splitlines()[-1]))


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _own_bytes(process: int) -> float:
    """Return a process's own memory and its share of segments.

    Its share of libraries is left out: it grows when the run beside it ends, which has mapped the same files.
    """
    text = Path(f"/proc/{process}/smaps_rollup").read_text()
    return 1024.0 * sum(int(size) for size in re.findall(r"^Pss_(?:Anon|Shmem): +(\d+) kB", text, re.MULTILINE))


def wait_until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Wait until `condition` holds; raises SoakError, naming `what`, if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SoakError(f"waited {seconds:g} s in vain for {what}")
        time.sleep(0.05)


@dataclasses.dataclass
class Outcome:
    """What was done and seen."""

    epochs: int
    seconds: float
    kills: collections.Counter[str]
    samples: list[Sample]
    disturbed: dict[str, Any]  # summaries
    alone: dict[str, Any]
    plan: dict[str, Any]  # what run.json has of the run: images, batch size, servers
    rows: list[dict[str, Any]]
    away: set[int]  # epochs that were trained while the replica that writes the metrics was away
    left: str
    files: collections.Counter[str]  # in the run folder, numbers in their names left out: more than the other's


def soak(plan: Plan, folder: Path, tell: Callable[[str], None]) -> Outcome:
    """Do all that the plan says; return what was seen. Raises SoakError if a run does not get to its end."""
    epochs = plan.epochs or calibrate(plan, folder, tell)
    began = time.monotonic()
    with (
        Run(folder / "alone", plan.arguments(epochs)) as alone,
        Run(folder / "disturbed", plan.arguments(epochs)) as run,
    ):
        kills, samples = disturb(run, plan, epochs, tell)
        disturbed, seconds = run.finish(1), time.monotonic() - began
        left = run.left()
        alone_summary = alone.finish(_limit(plan))
        record = json.loads((run.folder / "run.json").read_text())
        files = _names(run.folder) - _names(alone.folder) - collections.Counter(["failures.log"])
        away = {int(number) for number in AWAY.findall(run.said())}
        facts = {**record["plan"], "batch_size": record["settings"]["batch_size"], "servers": plan.servers}
        return Outcome(
            epochs, seconds, kills, samples, disturbed, alone_summary, facts, run.rows(), away, left, files
        )  # fmt: skip


def _names(folder: Path) -> collections.Counter[str]:
    return collections.Counter(re.sub(r"\d+", "N", name) for name in os.listdir(folder))


def _limit(plan: Plan) -> float:
    return 240 * plan.minutes + 5 * PATIENCE


def calibrate(plan: Plan, folder: Path, tell: Callable[[str], None]) -> int:
    """Return how many epochs take the plan's minutes, by a look at two runs at once."""
    endless = plan.arguments(100_000)
    with Run(folder / "first try", endless) as first, Run(folder / "second try", endless) as second:

        def rows() -> int:
            for run in (first, second):
                if run.process.poll() is not None:
                    raise SoakError(f"cannot train: {run.said()[-2000:]}")
            return min(len(first.rows()), len(second.rows()))

        wait_until(lambda: rows() >= 1, "the first epoch")
        began, before = time.monotonic(), rows()
        least = began + min(30.0, 6.0 * plan.minutes)
        wait_until(lambda: time.monotonic() >= least and rows() >= before + 2, "two more epochs", 10 * PATIENCE)
        pace = (time.monotonic() - began) / (rows() - before)
    epochs = max(4, round(60 * plan.minutes / pace))
    tell(f"{pace:.2f} s an epoch with two runs at once: {epochs} epochs")
    return epochs


def disturb(
    run: Run, plan: Plan, epochs: int, tell: Callable[[str], None]
) -> tuple[collections.Counter[str], list[Sample]]:
    """Kill parts of the run until it ends; return how often which, and what it had, once a second.

    The supervisor is the first to be killed once there is a checkpoint, and every tenth from there on, in the first
    third of the epochs. The samples are of its last life: its end frees whatever it had not given back. They begin when
    it has ended an epoch, and end with the last: a run that starts or ends has fewer processes. After three times the
    planned minutes nothing is killed any more.
    """
    generator = random.Random(plan.seed)
    kills: collections.Counter[str] = collections.Counter()
    samples: list[Sample] = []
    began = time.monotonic()
    next_kill, next_sample = began + generator.uniform(*plan.every), began
    supervisor_at, resumed_at = 1, 0
    while run.process.poll() is None:
        now = time.monotonic()
        if now > began + _limit(plan):
            raise SoakError(f"the run does not end within {_limit(plan):g} s: {run.said()[-2000:]}")
        done = len(run.rows())
        if now >= next_sample and resumed_at < done < epochs:
            samples.append(run.sample())
            next_sample = max(next_sample + 1, now)
        if next_kill <= now < began + 180 * plan.minutes:
            name = None
            if kills.total() + 1 >= supervisor_at and done < epochs / 3 and list(run.folder.glob("checkpoint-*")):
                name, supervisor_at = SUPERVISOR, kills.total() + 11
                run.kill_supervisor()
                samples.clear()
                resumed_at = done
            else:
                name = run.kill_part(generator)
            if name is not None:
                kills[re.sub(r" \d+", "", name)] += 1
                tell(f"{now - began:7.1f} s   {name} killed, {done} of {epochs} epochs done")
            next_kill = time.monotonic() + generator.uniform(*plan.every)
        time.sleep(0.05)
    return kills, samples


@dataclasses.dataclass(frozen=True)
class Check:
    """What was looked at, what was seen, what had to be, and whether it was."""

    what: str
    seen: str
    expected: str
    held: bool


def checks(outcome: Outcome, slack: float = 1.0) -> list[Check]:
    """Return what had to hold, and whether it did; what may grow at all may grow `slack` times as much as usual."""
    killed = Check("processes killed", str(outcome.kills.total()), "1 or more", outcome.kills.total() >= 1)
    files = ", ".join(sorted(outcome.files)) or "nothing"
    ended = [
        Check("left of processes and segments", outcome.left or "nothing", "nothing", not outcome.left),
        Check("left of files, beside those of the other run", files, "nothing", not outcome.files),
    ]
    return [killed, *_images(outcome), _accuracy(outcome), *_flat(outcome.samples, slack), *ended]


def _images(outcome: Outcome) -> list[Check]:
    """Check the images by the summary, by the epochs' rows, and by the updates of the weights, counted elsewhere."""
    summary, images = outcome.disturbed, int(outcome.plan["train_images"])
    due = outcome.epochs * images
    lost = summary["images_failed"] + summary["images_skipped"]
    seen = f"{summary['images_trained']:,}, {lost} failed or skipped"
    numbers = [row["epoch"] for row in outcome.rows]
    every = sorted([*numbers, *(outcome.away - set(numbers))]) == list(range(1, outcome.epochs + 1))
    whole = sum(row["images_trained"] == images for row in outcome.rows)
    found = [
        Check("images trained", seen, f"{due:,}, 0", summary["images_trained"] == due and not lost),
        Check(
            "epochs in metrics.jsonl, with all their images",
            f"{whole} of {len(numbers)}" + (f", {len(outcome.away)} while away" if outcome.away else ""),
            f"{outcome.epochs}, each once",
            every and whole == len(numbers) and (not outcome.away or bool(outcome.plan["servers"])),
        ),
    ]
    if not outcome.plan["servers"]:  # else what a dead replica or server had not passed on is trained again
        batches = outcome.epochs * math.ceil(images / int(outcome.plan["batch_size"]))
        most, updates = batches + outcome.kills["worker"], int(summary["updates"])
        bound = f"{batches:,} batches to {most:,}: a worker may die between update and count"
        found.append(Check("updates", f"{updates:,}", bound, batches <= updates <= most))
    return found


def _accuracy(outcome: Outcome) -> Check:
    """Compare the accuracies on the test images as if these were drawn anew for each: binomial deviations."""
    mine, other = (summary["test_accuracy"] for summary in (outcome.disturbed, outcome.alone))
    if mine is None or other is None:
        return Check("test accuracy", f"{mine}, alone {other}", "two numbers", False)
    right = (mine + other) / 2
    bound = DEVIATIONS * math.sqrt(2 * right * (1 - right) / int(outcome.plan["test_images"]))
    words = f"at most {bound:.2%} apart, {DEVIATIONS:g} binomial deviations of the difference"
    return Check("test accuracy", f"{mine:.2%}, alone {other:.2%}", words, abs(mine - other) <= bound)


def _flat(samples: Sequence[Sample], slack: float) -> list[Check]:
    """Compare medians of the samples' last quarter with those of their second."""
    count = len(samples)
    if count < 4:
        return [Check("samples", str(count), "4 or more", False)]
    found = []
    for name, words, unit in _SAMPLED:
        before, after = (
            statistics.median(getattr(sample, name) for sample in part)
            for part in (samples[count // 4 : count // 2], samples[3 * count // 4 :])
        )
        share, more = GROWTH.get(name, (0, 0))
        most = before + slack * (share * before + more)
        held = after <= most if name in GROWTH else after == before
        bound = f"at most {round(most / unit, 1):g}" if name in GROWTH else "the same"
        seen = f"{round(before / unit, 1):g}, then {round(after / unit, 1):g}"
        found.append(Check(f"{words}, second and last quarter", seen, bound, held))
    return found


_SAMPLED = (
    ("memory", "MB of memory", 1e6), ("files", "open files", 1), ("processes", "processes", 1),
    ("segments", "segments", 1),
)  # fmt: skip


def page(outcome: Outcome, held: Sequence[Check]) -> None:
    """Write docs/benchmarks/soak.md."""
    sys.path.append(str(Path(__file__).parents[1]))
    from benchmarks import page as pages

    what = f"{outcome.plan['servers']} parameter servers, two replicas" if outcome.plan["servers"] else "one machine"
    table = pages.table(
        ("what", "seen", "expected", "held"),
        [(check.what, check.seen, check.expected, "yes" if check.held else "**no**") for check in held],
    )
    pages.write_page(
        "soak.md",
        "# A long run, its processes killed at random\n\n`python tools/soak.py --page` writes this page. A run of "
        f"{outcome.epochs} epochs ({what}) for {outcome.seconds / 60:.1f} minutes, "
        f"{outcome.kills.total()} times a process of it killed -9, and one like it beside it that was left alone. "
        f"{pages.machine_line()}\n\n"
        f"{pages.table(('killed', 'times'), outcome.kills.most_common())}\n\n"
        "A killed supervisor was resumed, all else the run replaced by itself. What must hold; memory, open files, "
        "processes and segments are sums over the run's processes, medians of samples, "
        f"{len(outcome.samples):,} since the last time that the supervisor was killed:\n\n"
        f"{table}",
    )


def main() -> int:
    """Run the soak that the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30, help="about how long to train (default: 30)")
    parser.add_argument("--epochs", type=int, help="epochs to train, in place of a calibration")
    parser.add_argument("--every", type=float, nargs=2, default=(5, 15), help="seconds between two kills")
    parser.add_argument("--seed", type=int, default=1, help="of what is killed when")
    parser.add_argument("--servers", type=int, default=0, help="parameter servers; with any, two replicas train")
    parser.add_argument("--page", action="store_true", help="write docs/benchmarks/soak.md")
    parser.add_argument("--keep", type=Path, help="a folder for logs and run folders, which are thrown away otherwise")
    values, more = parser.parse_known_args()  # what is left is for adam-mp train
    plan = Plan(values.minutes, tuple(values.every), values.seed, values.servers, values.epochs, tuple(more))
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        outcome = soak(plan, folder, lambda line: print(line, flush=True))
    except SoakError as error:
        print(f"did not hold: {error}", file=sys.stderr)
        return 1
    finally:
        if values.keep is not None:
            shutil.copytree(folder, values.keep, dirs_exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    found = checks(outcome)
    for check in found:
        print(f"{'held' if check.held else 'DID NOT HOLD':12}   {check.what}: {check.seen} (expected {check.expected})")
    print("killed: " + ", ".join(f"{name} {times}" for name, times in outcome.kills.most_common()))
    if values.page:
        page(outcome, found)
    return 0 if all(check.held for check in found) else 1


if __name__ == "__main__":
    sys.exit(main())

"""The limits of the machine: no memory, no disk, no descriptors, a clock that jumps, a folder that others want too.

Small disks are tmpfs in mount namespaces of their own, filled to the brim while a run goes. What holds under all of
them: a run goes on, or ends by one line, and nothing of it is left.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from adam_mp.errors import CheckpointError
from adam_mp.training.folder.checkpoint import find_checkpoints, read_checkpoint
from tests.data.pictures_on_disk import write_folder
from tests.system.conftest import metrics, wait_until
from tests.system.limits import BLOCK, Disk, Limited, MemoryGroup
from tests.system.reliability import Row, recorded

FULL = os.environ.get("ADAM_MP_MATRIX") == "full"
DEADLINE = 180.0
EPOCHS = 3
IMAGES = 1900  # of an epoch
EVERY = "every image of every epoch is counted once"
COPIES = ("--servers", "3", "--copies", "3", "--exchange-images", "64")
LINE = "one line that says what is short, exit code 2 (1 once processes ran); no process, memory or file is left"
pytestmark = pytest.mark.skipif(shutil.which("prlimit") is None, reason="needs the commands of util-linux")


@pytest.fixture
def disk(tmp_path):
    """Make small disks; skip where that is not allowed."""
    made = []

    def make(options, path=None):
        made.append(Disk(path or tmp_path / f"disk-{len(made)}", options))
        if not made[-1].mounted:
            pytest.skip("no tmpfs can be mounted here, neither as root nor in a user namespace")
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def begin(tmp_path, small_data):
    """Start training under a limit; what is not given about data and network is as small as can be."""
    runs = []

    def start(*arguments, before=()):
        if "--resume" not in arguments:
            data = () if "--data" in arguments else ("--data", small_data, "--model", "lenet")
            epochs = () if "--epochs" in arguments else ("--epochs", EPOCHS)
            arguments = (*data, *epochs, "--cores", "2", *arguments)
        runs.append(Limited(tmp_path / f"command-{len(runs)}", before, ("train", "--json", *arguments)))
        return runs[-1]

    yield start
    for run in runs:
        run.close()


def check_done(ended, images=EPOCHS * IMAGES):
    """Check that a run did all it had to."""
    assert ended.code == 0, ended.err
    assert ended.summary["images_trained"] == images
    assert ended.summary["images_failed"] == ended.summary["images_skipped"] == 0


def check_refused(ended, *words, codes=(2,)):
    """Check that a run ended by one line in which `words` are."""
    assert ended.code in codes, ended.err
    assert "Traceback" not in ended.err
    errors = [line for line in ended.err.splitlines() if "error:" in line]
    assert len(errors) == 1, ended.err
    for word in words:
        assert re.search(word, errors[0]), errors[0]


def over(run):
    return run.process.poll() is not None


def first_epoch(run, folder):
    wait_until(lambda: over(run) or metrics(folder), "the first epoch", DEADLINE)
    run.see_children()


# Memory.


def test_dev_shm_is_too_small(begin, disk, tmp_path):
    with recorded(Row("/dev/shm of 64 KB", f"exit code 0; {EVERY}: segments have no name there")):
        small = disk("size=64k", Path("/dev/shm"))
        small.fill()
        run = begin("--run-dir", tmp_path / "run", "--epochs", 1, before=small.before)
        check_done(run.finish(DEADLINE), IMAGES)
        assert os.listdir(small.inside) == ["filling"]


@pytest.mark.parametrize("options", ["size=1m", "size=100m,nr_inodes=1", *["size=36m"] * FULL])
def test_memory_dir_is_too_small(begin, disk, tmp_path, options):
    with recorded(Row("--memory-dir too small", LINE)):
        small = disk(options)
        run = begin("--memory-dir", small.path, "--run-dir", tmp_path / "run", before=small.before)
        check_refused(run.finish(DEADLINE), str(small.path), "free")
        assert not os.listdir(small.inside)


@pytest.mark.parametrize("part", ["worker 0", *["data server 0"] * FULL])
def test_memory_dir_is_full_when_a_successor_starts(begin, disk, tmp_path, part):
    row = Row(f"--memory-dir and TMPDIR filled during the run, then {part} killed", f"exit code 0; {EVERY}")
    with recorded(row):
        write_folder(tmp_path / "pictures", 200)  # of three classes; their cache grows as they are decoded
        small, folder = disk("size=128m"), tmp_path / "run"
        run = begin(
            "--data", tmp_path / "pictures", "--image-size", "28", "--model", "mnist", "--batch-size", "8",
            "--validation", "0", "--epochs", 32, "--memory-dir", small.path, "--run-dir", folder,
            before=(*small.before, "env", f"TMPDIR={small.path}"),
        )  # fmt: skip
        run.wait_for_child(part)
        small.fill()
        first_epoch(run, folder)
        with contextlib.suppress(ProcessLookupError):
            os.kill(run.wait_for_child(part), signal.SIGKILL)
        check_done(run.finish(DEADLINE), 32 * 600)
        assert f"{part} was killed by SIGKILL" in run.read(run.err)
        assert os.listdir(small.inside) == ["filling"]


# Disk.


@pytest.mark.parametrize("freed", [True, False], ids=["freed", "full"])
def test_the_disk_of_checkpoints_is_full(begin, disk, freed):
    then = "freed while it goes" if freed else "full until it ends"
    holds = (
        f"it says so once and goes on; {EVERY}, in metrics.jsonl too" if freed
        else f"the last good checkpoint stays; one line says what to do; --resume: {EVERY}"
    )  # fmt: skip
    with recorded(Row(f"disk filled during checkpoints, {then}", holds)):
        small = disk("size=12m")
        folder, inside = small.path / "run", small.inside / "run"
        epochs = 2 * EPOCHS if freed else EPOCHS
        run = begin("--run-dir", folder, "--epochs", epochs, "--checkpoint-seconds", "0.02", before=small.before)
        wait_until(lambda: over(run) or (inside.exists() and find_checkpoints(inside)), "a checkpoint", DEADLINE)
        while not over(run) and "cannot write checkpoint" not in run.read(run.err):
            small.fill()
            time.sleep(0.01)
        while not over(run) and not (freed and ("metrics.jsonl: No space" in run.read(run.err) or metrics(inside))):
            small.fill()
            assert read_checkpoint(inside).updates  # whole, whatever happens
            time.sleep(0.05)
        small.free()
        ended = run.finish(DEADLINE)
        assert "cannot write checkpoint: No space left on device; free some" in ended.err
        assert not list(inside.glob(".*.partial"))
        read_checkpoint(inside)
        if freed:
            assert "checkpoint is written again" in ended.err
            assert ended.err.count("cannot write checkpoint") <= ended.err.count("checkpoint is written again") + 1
        else:
            check_refused(ended, "model.safetensors: No space", "--resume", codes=(1,))
            ended = begin("--resume", folder, before=small.before).finish(DEADLINE)
        check_done(ended, epochs * IMAGES)
        assert [row["epoch"] for row in metrics(inside)] == list(range(1, epochs + 1))


@pytest.mark.long
@pytest.mark.parametrize("deed", ["stopped", "killed"])
@pytest.mark.parametrize("part", ["parameter server 1", "parameter server 0"])
def test_the_disk_of_servers_with_copies_is_full_when_roles_change(begin, disk, tmp_path, part, deed):
    """The first server may tell nobody of a change of roles that is not on its disk; so those wait."""
    row = Row(
        f"disk of --copies 3 filled, {part} {deed} for 2 s, then disk freed", f"a line says so; exit code 0; {EVERY}"
    )
    with recorded(row):
        small = disk("size=24m")
        folder, inside, epochs = small.path / "run", small.inside / "run", 8 * EPOCHS
        run = begin("--run-dir", folder, "--epochs", epochs, *COPIES, before=small.before)
        wait_until(lambda: over(run) or metrics(inside), "the first epoch", DEADLINE)
        process = run.wait_for_child(part)
        small.fill()
        os.kill(process, signal.SIGSTOP if deed == "stopped" else signal.SIGKILL)
        until = time.monotonic() + 2
        while time.monotonic() < until:
            small.fill()
            time.sleep(0.05)
        small.free()
        if deed == "stopped":
            os.kill(process, signal.SIGCONT)
        ended = run.finish(DEADLINE)
        check_done(ended, epochs * IMAGES)
        assert "cannot write a snapshot to" in ended.err


def test_the_disk_is_full_from_the_start(begin, disk):
    with recorded(Row("disk full at the start", LINE)):
        small = disk("size=12m")
        small.fill()
        check_refused(begin("--run-dir", small.path / "run", before=small.before).finish(DEADLINE), "free")
        assert not list(small.inside.glob("run/.*.partial"))


@pytest.mark.parametrize("count", range(1, 2 + FULL * 8))
def test_torn_checkpoints(begin, here, tmp_path, count):
    with recorded(Row("newest checkpoint cut or changed in any block of 4 KB", "a line; the one before is resumed")):
        folder = tmp_path / "run"
        run = begin("--run-dir", folder, "--checkpoint-seconds", "0.2")
        first_epoch(run, folder)
        wait_until(lambda: over(run) or len(find_checkpoints(folder)) == 2, "two checkpoints", DEADLINE)
        run.signal(signal.SIGTERM)
        assert run.finish(DEADLINE).code in (0, 143)
        older, newest = find_checkpoints(folder)
        whole = newest.read_bytes()
        blocks = range(0, len(whole), BLOCK)
        for begins in blocks:
            newest.write_bytes(whole[:begins])
            check_torn(folder, older)
        for begins in blocks[:: 1 if FULL else 8]:
            at = begins + (begins // BLOCK * 97 + count) % min(BLOCK, len(whole) - begins)
            newest.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << count % 8]) + whole[at + 1 :])
            check_torn(folder, older)
        for length in (len(whole) // BLOCK * BLOCK, *[0, BLOCK] * FULL):
            newest.write_bytes(whole[:length])
            check_refused(here("train", "--resume", str(folder)), newest.name, f"remove it.*{older.name}")
        newest.unlink()
        resumed = here("train", "--resume", str(folder), "--epochs", str(EPOCHS + 1), "--json")
        check_done(resumed, (EPOCHS + 1) * IMAGES)


def check_torn(folder, older):
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(folder)
    assert "\n" not in str(caught.value)
    assert f"remove it to resume from {older.name}" in str(caught.value)


# Descriptors.


LIMITS = [(limit, kind) for limit in range(6, 17) for kind in ("hard", "soft")] if FULL else [(8, "hard"), (14, "soft")]


@pytest.mark.parametrize(("limit", "kind"), LIMITS)
def test_too_few_descriptors(begin, tmp_path, limit, kind):
    with recorded(Row("too few file descriptors at the start", LINE)):
        run = begin("--run-dir", tmp_path / "run", before=few(limit, kind))
        # What cannot be opened may be a segment, 2, or a process, 1.
        check_refused(run.finish(DEADLINE), "Too many open files", "ulimit -n", codes=(1, 2))
        if limit == 14:  # the folder is still good for a run, and somewhat more is enough
            more = begin("--run-dir", tmp_path / "run", "--epochs", 1, before=few(32, kind))
            check_done(more.finish(DEADLINE), IMAGES)


def few(limit, kind="hard"):
    return ("prlimit", f"--nofile={limit}:{limit if kind == 'hard' else ''}")


@pytest.mark.long
def test_no_descriptor_for_a_successor(begin, tmp_path):
    with recorded(Row("file descriptors used up when a successor starts", f"{LINE}; --resume: {EVERY}")):
        folder, epochs = tmp_path / "run", 10 * EPOCHS
        run = begin("--run-dir", folder, "--epochs", epochs)
        first_epoch(run, folder)
        wait_until(lambda: find_checkpoints(folder), "a checkpoint", DEADLINE)
        subprocess.run(["prlimit", "--pid", str(run.process.pid), "--nofile=8:"], check=True)
        os.kill(run.wait_for_child("worker 0"), signal.SIGKILL)
        check_refused(run.finish(DEADLINE), "Too many open files", "ulimit -n", codes=(1,))
        check_done(begin("--resume", folder).finish(DEADLINE), epochs * IMAGES)


# Time.

JUMPING = """
import os, time
seconds, nanoseconds, began = time.time, time.time_ns, time.monotonic()

def jump():  # every half second, on or back, never to where it was
    halves = int(2 * (time.monotonic() - began))
    return 86_400 * halves * (-1) ** halves

time.time = lambda: seconds() + jump()
time.time_ns = lambda: nanoseconds() + jump() * 10**9
open(os.path.join(os.environ["JUMPED"], str(os.getpid())), "w").close()
"""


@pytest.mark.parametrize(
    ("more", "part"), [((), "worker 0"), pytest.param(COPIES, "parameter server 1", marks=pytest.mark.long)]
)
def test_the_clock_jumps(begin, tmp_path, more, part):
    with_copies = ", --copies 3" if more else ""
    done = f"the clock of all processes jumps by days, on and back, and {part} is killed{with_copies}"
    with recorded(Row(done, f"exit code 0; {EVERY}; sane seconds")):
        (tmp_path / "jumped").mkdir()
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "sitecustomize.py").write_text(JUMPING)
        folder, epochs = tmp_path / "run", 4 * EPOCHS
        clock = (
            "env",
            f"PYTHONPATH={tmp_path / 'site'}:{os.environ.get('PYTHONPATH', '')}",
            f"JUMPED={tmp_path / 'jumped'}",
        )
        began = time.monotonic()
        run = begin("--run-dir", folder, "--epochs", epochs, "--checkpoint-seconds", "0.1", *more, before=clock)
        first_epoch(run, folder)
        os.kill(run.wait_for_child(part), signal.SIGKILL)
        ended = run.finish(DEADLINE)
        took = time.monotonic() - began
        check_done(ended, epochs * IMAGES)
        assert len(os.listdir(tmp_path / "jumped")) >= 2  # supervisor, fork server with its children
        assert 0 < ended.summary["seconds"] <= took
        rows = metrics(folder)
        assert all(row["seconds"] > 0 and row["validation_seconds"] >= 0 for row in rows)
        assert sum(row["seconds"] + row["validation_seconds"] for row in rows) <= took


# One folder, two runs.


def test_a_second_run_wants_the_folder(begin, here, small_data, tmp_path):
    with recorded(Row("a second run started in the folder of one that goes", f"refused by a line; the first: {EVERY}")):
        folder = tmp_path / "run"
        run = begin("--run-dir", folder)
        wait_until((folder / "run.json").exists, "the folder to be taken", DEADLINE)
        stopped = [run.wait_for_child(name) for name in ("worker 0", "worker 1")]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)  # so that it is still there when the other comes
        check_refused(
            here("train", "--data", str(small_data), "--run-dir", str(folder)), f"in use by process {run.process.pid}"
        )
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        check_done(run.finish(DEADLINE))


@pytest.mark.long
@pytest.mark.parametrize("attempt", range(10 if FULL else 1))
def test_two_runs_start_at_once_in_a_folder(begin, tmp_path, attempt):
    with recorded(Row("two runs started, then two resumed, in one folder at once", f"one wins, one line; {EVERY}")):
        folder = tmp_path / "run"
        check_one_won([begin("--run-dir", folder, "--epochs", 1) for _ in range(2)], 1)
        check_one_won([begin("--resume", folder, "--epochs", 2) for _ in range(2)], 2)
        assert [row["epoch"] for row in metrics(folder)] == [1, 2]


def check_one_won(runs, epochs):
    loser, winner = sorted((run.finish(DEADLINE) for run in runs), key=lambda ended: -ended.code)
    check_done(winner, epochs * IMAGES)
    # Whoever comes when the other is done meets what that left.
    check_refused(loser, "in use by|is not empty|went on in|has done its")


# The kernel kills for want of memory.


@pytest.fixture
def group():
    try:
        made = MemoryGroup()
    except OSError as error:
        pytest.skip(f"no cgroup with a memory limit can be made here: {error}")
    yield made
    made.close()


@pytest.mark.long
@pytest.mark.parametrize("part", ["worker 0", *["data server 0"] * FULL])
def test_the_kernel_kills_for_want_of_memory(group, begin, tmp_path, part):
    row = Row(f"{part} killed by the kernel for want of memory (cgroup limit)", f"a line says so; {EVERY}")
    with recorded(row):
        folder, epochs = tmp_path / "run", 20 * EPOCHS
        run = begin("--run-dir", folder, "--epochs", epochs, "--checkpoint-seconds", "0.1", before=group.before)
        first_epoch(run, folder)
        group.squeeze(run.wait_for_child(part))
        ended = run.finish(DEADLINE)
        assert f"{part} was killed by SIGKILL, by the kernel for want of memory" in ended.err
        check_done(ended, epochs * IMAGES)

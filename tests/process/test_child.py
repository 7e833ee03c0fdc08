from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from adam_mp.control_groups import Kills
from adam_mp.process import child as children_of_runs
from adam_mp.process.child import is_child, start_child
from adam_mp.process.forking import Forked, fork_server
from adam_mp.process.stacks import all_stacks
from tests.process import tasks
from tests.system.conftest import wait_until

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@pytest.fixture(params=["fresh", "forked"])
def way(request):
    """How children are started: all that is promised of one is promised of the other."""
    with fork_server() if request.param == "forked" else contextlib.nullcontext():
        yield request.param


@pytest.fixture
def run_child(way):
    children = []

    def run(function, argument, core=None):
        child = start_child("child", function, argument, [], core)
        assert isinstance(child._process, Forked) == (way == "forked")
        children.append(child)
        return child

    yield run
    for child in children:
        child.kill()
        child.close()


def ended(child):
    assert child.wait(time.monotonic() + 30)
    return child


def test_it_runs_one_function_on_one_thread_and_core(run_child, tmp_path):
    core = sorted(os.sched_getaffinity(0))[-1]
    child = ended(run_child(tasks.write, str(tmp_path / "out"), core))
    assert child.exit_code == 0, child.last_words()
    assert (tmp_path / "out").read_text() == f"1 {core}"


@pytest.mark.parametrize(
    ("task", "end"),
    [
        (tasks.say_and_die, "was killed by SIGKILL, by another process"),
        (tasks.say_and_leave, "ended with exit code 3"),
    ],
)
def test_what_it_said_before_is_not_taken_for_the_cause_of_its_end(run_child, monkeypatch, task, end):
    monkeypatch.setattr(children_of_runs, "memory_kills", lambda: Kills(3, 3))
    child = ended(run_child(task, "replica 2 died"))
    assert child.describe_end() == end
    assert child.last_words() == "replica 2 died\n"


@pytest.mark.parametrize(
    ("before", "now", "wanted", "end"),
    [
        (Kills(3, 3), Kills(4, 4), True, "by the kernel for want of memory"),
        (Kills(3, 3), Kills(3, 3), False, "by another process"),
        (Kills(3, 3), Kills(3, 4), None, "by another process or by the kernel for want of memory"),
        (Kills(None, None), Kills(None, None), None, "by another process or by the kernel for want of memory"),
    ],
)
def test_who_killed_it_is_said_if_the_kernel_tells(run_child, monkeypatch, tmp_path, before, now, wanted, end):
    kills = [before]
    monkeypatch.setattr(children_of_runs, "memory_kills", lambda: kills[-1])
    child = run_child(tasks.sleep, str(tmp_path / "pid"))
    assert child.wanted_memory is False
    kills.append(now)
    child.kill()
    assert child.describe_end() == f"was killed by SIGKILL, {end}"
    kills.append(Kills(99, 99))  # of later deaths
    assert child.wanted_memory is wanted


def test_it_goes_before_its_supervisor_when_memory_runs_out(run_child, tmp_path):
    child = run_child(tasks.sleep, str(tmp_path / "pid"))
    wait_until((tmp_path / "pid").exists, "the child")
    scores = [int(Path(f"/proc/{process}/oom_score_adj").read_text()) for process in (os.getpid(), child.pid)]
    assert scores[1] == min(1000, scores[0] + 300)


def test_it_ends_without_the_clean_up_of_python(run_child, tmp_path):
    child = ended(run_child(tasks.leave_traces, str(tmp_path / "cleaned up")))
    assert child.exit_code == 0
    assert child.last_words() == "said\n"  # what it had not flushed
    assert not (tmp_path / "cleaned up").exists()


def test_what_it_prints_in_vain_does_not_end_it(run_child):
    child = ended(run_child(tasks.print_in_vain, "čert\udcff"))
    assert (child.exit_code, child.last_words()) == (0, "")


def test_it_starts_where_no_temporary_file_can_be_made(run_child, monkeypatch):
    def refuse():
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    child = ended(run_child(tasks.fail, "the reason"))
    assert child.describe_end() == "ended with exit code 1: ValueError: the reason"
    assert "supervisor" in all_stacks({}, {})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR2, signal.SIGALRM])
def test_it_leaves_signals_to_all_processes_of_a_job_to_its_supervisor(run_child, tmp_path, number):
    child = run_child(tasks.sleep, str(tmp_path / "pid"))
    wait_until((tmp_path / "pid").exists, "the child")
    os.kill(child.pid, number)
    time.sleep(0.1)
    assert child.describe_end() == "still runs"


def test_its_end_is_described(run_child, tmp_path):
    assert ended(run_child(tasks.fail, "no luck")).describe_end() == "ended with exit code 1: ValueError: no luck"
    assert ended(run_child(tasks.leave, 7)).describe_end() == "ended with exit code 7"
    assert ended(run_child(tasks.leave, 143)).describe_end() == "was stopped by SIGTERM"
    child = ended(run_child(tasks.abort, "numpy"))
    assert child.describe_end() == "was killed by SIGABRT"
    assert "Fatal Python error: Aborted" in child.last_words()
    child = run_child(tasks.sleep, str(tmp_path / "pid"))
    assert child.describe_end() == "still runs"
    wait_until((tmp_path / "pid").exists, "the child")
    command = psutil.Process(child.pid).cmdline()  # empty for a moment while the system starts a program
    assert command[-1] == "child"  # so `ps` tells them apart
    assert is_child(command)
    os.kill(child.pid, signal.SIGXCPU)
    assert ended(child).describe_end() == "was killed by SIGXCPU"


@pytest.mark.parametrize("size", [10, 1 << 20])  # within the pipe's buffer and beyond
def test_one_that_died_before_it_read_its_task_is_only_dead(monkeypatch, size):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    for _ in range(5):
        child = start_child("t", tasks.write, bytes(size), (), None)
        assert child.wait(time.monotonic() + 10)
        assert child.describe_end() == "ended with exit code 1"
        child.close()


def test_one_that_is_stopped_before_it_reads_its_task_holds_nobody_up(monkeypatch, tmp_path):
    beside = tmp_path / "python"  # stops before the interpreter starts, and reads nothing
    beside.write_text(f'#!/bin/sh\nkill -STOP $$\nexec {sys.executable} "$@"\n')
    beside.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(beside))
    with deadline(60):
        child = start_child("t", tasks.measure, (bytes(8 << 20), str(tmp_path / "out")), (), None)
    process = psutil.Process(child.pid)
    wait_until(lambda: process.status() == psutil.STATUS_STOPPED, "the child's stop")
    process.resume()
    assert ended(child).exit_code == 0, child.last_words()
    assert (tmp_path / "out").read_text() == str(8 << 20)
    child.close()
    child = start_child("t", tasks.measure, (bytes(8 << 20), str(tmp_path / "out")), (), None)
    child.kill()
    assert child.describe_end().startswith("was killed by SIGKILL")
    child.close()


@contextlib.contextmanager
def deadline(seconds):
    """Raise TimeoutError in a system call that takes longer."""

    def late(*_):
        raise TimeoutError(f"not done in {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_what_it_is_to_do_needs_no_standard_streams(tmp_path):
    program = (
        "import os, sys, time\nos.close(0)\nos.close(1)\n"
        "from adam_mp.process.child import start_child\nfrom tests.process import tasks\n"
        "child = start_child('child', tasks.measure, (bytes(8), sys.argv[1]), [], None)\n"
        "assert child.wait(time.monotonic() + 30) and child.exit_code == 0, child.last_words()\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "out")], cwd=ROOT, check=True, timeout=200)
    assert (tmp_path / "out").read_text() == "8"


def test_what_it_died_of_is_its_own_fault_unless_it_came_from_outside(run_child):
    assert ended(run_child(tasks.fail, "no")).own_fault() == "ValueError: no"
    assert ended(run_child(tasks.refuse, "no")).own_fault() == ""
    assert ended(run_child(tasks.find_held, "no")).own_fault() == ""
    assert ended(run_child(tasks.leave, 3)).own_fault() == ""
    assert ended(run_child(tasks.fail, "no")).last_lines().endswith("\n    ValueError: no")


def test_the_last_word_of_one_that_ends_itself_is_kept(run_child):
    child = ended(run_child(tasks.end, "no licence"))
    assert (child.exit_code, child.last_words()) == (1, "no licence\n")


def test_it_is_in_a_session_of_its_own_on_a_thread_of_its_own(run_child, tmp_path):
    child = run_child(tasks.sleep, str(tmp_path / "pid"))
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "the child")
    assert (tmp_path / "pid").read_text() == str(child.pid)
    assert os.getsid(child.pid) == child.pid
    assert psutil.Process(child.pid).ppid() == os.getpid()


def test_it_has_the_files_that_it_is_given_and_no_others(run_child, way, tmp_path):
    files = [os.memfd_create(f"file {number}") for number in range(40)]
    try:
        for number, file in enumerate(files):
            os.write(file, b"%d" % number)
        chosen = [files[number] for number in (30, 2, 3, 17, 2)]
        child = start_child("child", tasks.tell_files, str(tmp_path / "out"), chosen, None)
        assert ended(child).exit_code == 0, child.last_words()
        child.close()
        told = json.loads((tmp_path / "out").read_text())
        assert told["streams"] == ["pipe", "file", "file"]
        assert told["files"] == {str(files[number]): f"file {number}" for number in (2, 3, 17, 30)}
    finally:
        for file in files:
            os.close(file)


def test_two_children_draw_different_numbers(run_child, tmp_path):
    for name in ("one", "two"):
        assert ended(run_child(tasks.draw, str(tmp_path / name))).exit_code == 0
    one, two = ((tmp_path / name).read_text().split() for name in ("one", "two"))
    assert all(a != b for a, b in zip(one, two, strict=True))


def test_it_tells_its_stacks(run_child, tmp_path):
    child = run_child(tasks.sleep, str(tmp_path / "pid"))
    assert "most recent call first" not in child.last_words()
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "the child")
    begin = child.ask(signal.SIGUSR1)
    wait_until(lambda: "in sleep" in child.said_since(begin), "its stacks")
    assert child.exit_code is None


def test_its_new_lines_are_whole_and_come_once(run_child):
    child = ended(run_child(tasks.fail, "no"))
    assert child.new_lines()[-1] == "ValueError: no"

    def prints(text):
        os.pwrite(child._output.fileno(), text, os.fstat(child._output.fileno()).st_size)
        return child.new_lines()

    assert prints(b"half \xc4") == []
    assert prints(b"\x8d of it\nmore") == ["half \u010d of it"]


def test_one_that_is_asked_before_it_can_answer_lives(run_child, tmp_path):
    child = run_child(tasks.sleep, str(tmp_path / "pid"))
    child.ask(signal.SIGUSR1)
    wait_until(lambda: "most recent call first" in child.last_words(), "its stacks")
    assert child.exit_code is None


def test_a_deadline_passes_without_an_end(run_child, tmp_path):
    child = run_child(tasks.sleep, str(tmp_path / "pid"))
    assert not child.wait(time.monotonic() + 0.01)


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("way", ["nullcontext", "fork_server"])
def test_it_does_not_outlive_its_supervisor(tmp_path, way, stopped, early):
    path = tmp_path / "pid"
    program = (
        "import sys, time\nfrom contextlib import nullcontext\nfrom adam_mp.process.child import start_child\n"
        "from adam_mp.process.forking import fork_server\nfrom tests.process import tasks\n"
        f"with {way}():\n"
        "    child = start_child('child', tasks.sleep, sys.argv[1], [], None)\n"
        "    print(child.pid, flush=True)\n    time.sleep(60)\n"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, cwd=ROOT)
    assert supervisor.stdout is not None
    child = psutil.Process(int(supervisor.stdout.readline()))
    if not early:
        wait_until(lambda: path.exists() and path.read_text(), "the child")
        if stopped:
            child.suspend()
    supervisor.kill()
    supervisor.wait()
    supervisor.stdout.close()
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "the child's end", 15)

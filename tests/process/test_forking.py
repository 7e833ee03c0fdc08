"""Whatever happens to a fork server: the supervisor starts its children in time, and nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from adam_mp.process import forking
from adam_mp.process.child import start_child
from adam_mp.process.forking import Forked, fork_server, forking_trouble
from tests.process import tasks
from tests.process.test_child import ROOT, deadline, ended
from tests.system.conftest import wait_until


@pytest.fixture
def server(request):
    """A fork server that is ready, as a process."""
    with fork_server(getattr(request, "param", ())):
        current = forking._current.get()
        assert current.trouble() is None
        yield psutil.Process(current._process.pid)


@pytest.fixture(autouse=True)
def others():
    """The children that this process has of other tests."""
    return set(psutil.Process().children())


@contextlib.contextmanager
def child(function=tasks.do_nothing, argument=None):
    started = start_child("child", function, argument, [], None)
    try:
        yield started
    finally:
        started.kill()
        started.close()


def is_forked(started):
    return isinstance(started._process, Forked)


@contextlib.contextmanager
def sleeping(tmp_path):
    """A child that is at work."""
    path = tmp_path / "pid"
    with child(tasks.sleep, str(path)) as started:
        wait_until(lambda: path.exists() and path.read_text(), "the child")
        yield started


def memory_files(process):
    folder = Path(f"/proc/{process.pid}/fd")
    return [file for file in folder.iterdir() if "memfd" in os.readlink(file)]


@pytest.mark.parametrize("server", [("numba",)], indirect=True)
def test_it_has_one_thread_and_no_part_in_what_is_shared(server):
    descriptor = os.memfd_create("shared")
    started = start_child("child", tasks.do_nothing, None, [descriptor], None)
    os.close(descriptor)
    assert is_forked(ended(started))
    started.close()
    assert server.num_threads() == 1
    assert server.cmdline()[-1] == "fork server"
    assert not memory_files(server)


def test_what_it_has_called_its_children_have(tmp_path):
    with fork_server(("tests.process.tasks:remember",)), child(tasks.recall, str(tmp_path / "out")) as started:
        assert ended(started).exit_code == 0, started.last_words()
    with fork_server(), fork_server(("tests.process.tasks:remember",)), child(tasks.recall, "") as started:
        assert ended(started).exit_code == 1  # of the outer one, which has not


def test_children_go_on_without_it(server, tmp_path):
    with sleeping(tmp_path) as started:
        server.kill()
        time.sleep(0.2)
        assert started.exit_code is None
        os.kill(started.pid, signal.SIGKILL)
        assert ended(started).describe_end().startswith("was killed by SIGKILL")


def test_one_that_was_killed_is_replaced(server):
    server.kill()
    with deadline(30), child() as started:
        assert not is_forked(started)  # at once, and as ever
        assert ended(started).exit_code == 0, started.last_words()
    with child() as started:
        assert is_forked(started)
        assert ended(started).exit_code == 0, started.last_words()


def test_one_that_is_stopped_is_replaced(server, monkeypatch):
    monkeypatch.setattr(forking, "_ANSWER", 0.3)
    server.suspend()
    with deadline(30), child() as started:
        assert not is_forked(started)
        assert ended(started).exit_code == 0, started.last_words()
    assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE
    with child() as started:
        assert is_forked(started)


def test_one_that_is_stopped_before_it_is_ready_is_replaced(monkeypatch):
    monkeypatch.setattr(forking, "_READY", 0.3)
    monkeypatch.setattr(forking, "_ANSWER", 30.0)
    with fork_server(), deadline(30):
        psutil.Process(forking._current.get()._process.pid).suspend()
        with child() as started:
            assert not is_forked(started)
            assert ended(started).exit_code == 0


def test_one_that_cannot_import_what_it_is_to_is_done_without():
    with fork_server(("adam_mp.no_such_module",)), deadline(30), child() as started:
        assert not is_forked(started)
        assert ended(started).exit_code == 0


def test_where_all_are_killed_children_start_without(server, others):
    for _ in range(forking._MOST):
        forking._current.get().trouble()
        forking._current.get()._process.kill()
        with child() as started:
            assert not is_forked(started)
            assert ended(started).exit_code == 0
    assert set(psutil.Process().children()) == others
    assert "killed or stopped" in forking._current.get().trouble()


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL], ids=lambda number: number.name)
def test_a_child_that_it_could_not_tell_of_is_told_by_itself(monkeypatch, tmp_path, number):
    """The fork server is stopped or killed between its fork and its answer."""
    monkeypatch.setattr(forking, "_ANSWER", 1.0)
    with fork_server((f"tests.process.tasks:{number.name.lower()}_after_a_fork",)):
        server = forking._current.get()._process
        with deadline(30), child(tasks.sleep, str(tmp_path / "pid")) as started:
            assert is_forked(started)
            wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "the child")
        wait_until(lambda: psutil.Process(server.pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE), "it")


def test_a_child_that_nobody_told_of_runs_nothing(monkeypatch, tmp_path, others):
    """Neither says the process id: the child is not known, and another runs in its place."""
    monkeypatch.setattr(forking, "_ANSWER", 0.5)
    with fork_server(("tests.process.tasks:be_silent",)), child(tasks.append, str(tmp_path / "out")) as started:
        assert not is_forked(started)
        assert ended(started).exit_code == 0, started.last_words()
        known = started.pid, forking._current.get()._process.pid
        (child_of_nobody,) = (each for each in set(psutil.Process().children()) - others if each.pid not in known)
        assert os.waitstatus_to_exitcode(os.waitpid(child_of_nobody.pid, 0)[1]) == 1  # at the end of its input
        assert (tmp_path / "out").read_text() == "x"


SUPERVISOR = """
import sys, time
from adam_mp.process import forking
from adam_mp.process.child import start_child
from tests.process import tasks
with forking.fork_server():
    child = start_child('child', tasks.sleep, sys.argv[1], [], None)
    print(child.pid, forking._current.get()._process.pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("stopped", ["fork server", "child", "supervisor", "nobody"])
def test_nothing_outlives_a_killed_supervisor(tmp_path, stopped):
    path = tmp_path / "pid"
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISOR, str(path)], stdout=subprocess.PIPE, cwd=ROOT)
    assert supervisor.stdout is not None
    started, server = (psutil.Process(int(each)) for each in supervisor.stdout.readline().split())
    wait_until(lambda: path.exists() and path.read_text(), "the child")
    parts = {"fork server": server, "child": started, "supervisor": psutil.Process(supervisor.pid)}
    if stopped in parts:
        parts[stopped].suspend()
    supervisor.kill()
    supervisor.wait()
    supervisor.stdout.close()
    for each in (started, server):
        wait_until(lambda each=each: not each.is_running() or each.status() == psutil.STATUS_ZOMBIE, "the end", 15)


def test_a_thread_has_a_fork_server_of_its_own(server):
    seen = []

    def begin():
        with child() as started:
            seen.append(is_forked(started))
        with fork_server(), child() as started:
            seen.append(is_forked(started))
            seen.append(forking._current.get()._process.pid)

    thread = threading.Thread(target=begin)
    thread.start()
    thread.join(30)
    assert seen[:2] == [False, True]
    assert seen[2] != server.pid


def test_what_hinders_it_is_said(monkeypatch):
    assert forking_trouble() is None
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert forking_trouble() == "the fork server does not answer"
    with child() as started:
        assert ended(started).exit_code == 1
    with fork_server(), child() as started:
        assert ended(started).exit_code == 1


def test_one_with_threads_forks_nobody():
    with fork_server(("tests.process.tasks:start_a_thread",)):
        assert forking._current.get().trouble() == "the fork server has 2 threads"
        with child() as started:
            assert not is_forked(started)
            assert ended(started).exit_code == 0


def test_nothing_is_left_of_it(others):
    before = psutil.Process().num_fds(), threading.active_count()
    for _ in range(3):
        with fork_server(), child() as started:
            ended(started)
    assert set(psutil.Process().children()) == others
    assert (psutil.Process().num_fds(), threading.active_count()) == before

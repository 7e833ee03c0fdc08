from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import subprocess
import tempfile

import pytest

from adam_mp import control_groups
from adam_mp.cli import doctor
from adam_mp.cli.main import main
from adam_mp.control_groups import MemoryLimit, Quota
from adam_mp.memory.segment import live_segments
from adam_mp.process.child import Child, start_child
from adam_mp.process.forking import fork_server
from adam_mp.transport.socket_files import SocketFolder
from tests.process import tasks
from tests.system.conftest import wait_until


@pytest.fixture(autouse=True)
def alone(tmp_path_factory, worker_id):
    """Run these tests one at a time where several processes test: a sweep ends what another made for its own."""
    base = tmp_path_factory.getbasetemp()
    with open((base if worker_id == "master" else base.parent) / "sweeping", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture
def orphan():
    """A memory file that is named as a segment of a supervisor that is gone, and the segment as it is found."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    descriptor = os.memfd_create(f"adam_mp:{gone.pid}:test")
    holders = []

    def find():
        return [segment for segment in live_segments() if segment.owner == gone.pid and segment.purpose == "test"]

    def hold(process):
        holders.append(process)
        wait_until(lambda: any(process.pid in segment.holders for segment in find()), "the holder")
        return process

    yield descriptor, hold, find
    os.close(descriptor)
    for process in holders:
        process.kill()
        if isinstance(process, Child):
            process.close()


@pytest.fixture
def innocent(orphan):
    """A process that has nothing to do with adam_mp, and was handed the file."""
    descriptor, hold, _ = orphan
    with subprocess.Popen(["sleep", "60"], pass_fds=[descriptor]) as process:
        yield hold(process)
        process.kill()


@pytest.mark.parametrize("context", [contextlib.nullcontext, fork_server])
def test_a_sweep_ends_children_of_runs_alone(orphan, innocent, tmp_path, context):
    descriptor, hold, find = orphan
    with context():
        child = hold(start_child("test", tasks.sleep, str(tmp_path / "pid"), [descriptor], None))
    wait_until((tmp_path / "pid").exists, "the child")  # which by then has moved its files to their places
    (segment,) = find()
    assert segment.stale
    others = dataclasses.replace(segment, user=segment.user + 1, holders=(child.pid,))
    assert doctor.sweep([others]) == ([], {child.pid: "belongs to another user than the segment that it holds"})
    lives = dataclasses.replace(segment, stale=False)
    assert doctor.sweep([lives]) == ([], {})
    swept, left = doctor.sweep([segment])
    assert swept == [child.pid]
    assert innocent.pid in left
    assert set(left) == {innocent.pid, os.getpid()}
    assert "is no child of a run" in left[innocent.pid]
    assert innocent.poll() is None
    assert child.exit_code is not None


def test_it_says_how_children_start(capsys, monkeypatch):
    assert main(["doctor"]) == 0
    assert "children         forked from a fork server" in capsys.readouterr().out
    monkeypatch.setattr(doctor, "forking_trouble", lambda: "there is no /proc")
    assert main(["doctor"]) == 0
    text = "children         fresh interpreters, which takes half a second each: there is no /proc"
    assert text in capsys.readouterr().out


def test_a_sweep_removes_the_sockets_of_a_killed_run(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = tmp_path / "adam_mp-sockets-left"
    left.mkdir()
    with contextlib.closing(SocketFolder()) as alive:  # which removes it too
        left.mkdir()
        assert main(["doctor", "--sweep"]) == 0
        assert f"swept            {left}" in capsys.readouterr().out
        assert alive.path.exists()
    assert not left.exists()


def test_a_sweep_says_whom_it_left_alone(orphan, innocent, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "live_segments", orphan[2])
    assert main(["doctor", "--sweep"]) == 0
    out = capsys.readouterr().out
    assert "nothing to sweep" in out
    assert f"left alone       process {innocent.pid} is no child of a run" in out
    assert innocent.poll() is None


def test_it_says_what_limits_cores_and_memory_and_where_it_was_read(monkeypatch, capsys):
    monkeypatch.setattr(control_groups, "cpu_quota", lambda: Quota(1.0, "/groups/job/cpu.max"))
    limits = [MemoryLimit(300 << 20, 100 << 20, "/groups/job/memory.max")]
    monkeypatch.setattr(control_groups, "memory_limits", lambda: limits)
    assert main(["doctor"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["cores"].startswith("1 usable: ")
    assert lines["cores"].endswith(", quota 1 core (/groups/job/cpu.max)")
    assert lines["memory"].startswith("210 MB free of ")
    assert lines["memory"].endswith(", limit 315 MB (/groups/job/memory.max)")
    assert main(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["quota"], facts["quota_source"]) == (1.0, "/groups/job/cpu.max")
    assert (facts["memory_limit"], facts["memory_limit_source"]) == (300 << 20, "/groups/job/memory.max")

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from adam_mp.errors import SpaceError
from adam_mp.memory import segment as segments
from adam_mp.memory.segment import Segment, live_segments, megabytes


def mine(purpose):
    """The segments that this process made for `purpose`."""
    return [found for found in live_segments() if found.owner == os.getpid() and found.purpose == purpose]


def test_two_mappings_see_the_same_memory():
    owner = Segment.create("test", 1000)
    other = Segment.attach(segments.SegmentHandle(os.dup(owner.handle.descriptor), owner.handle.size))
    assert not owner.array(np.uint8, (1000,), 0).any()
    owner.array(np.int64, (10,), 64)[:] = range(10)
    assert other.array(np.int64, (10,), 64).tolist() == list(range(10))
    other.close()
    owner.close()


def test_a_segment_has_no_name_and_is_found_while_it_lives():
    before = os.listdir("/dev/shm")
    segment = Segment.create("nameless", 5000)
    assert [found.size for found in mine("nameless")] == [8192]
    assert not mine("nameless")[0].stale
    assert os.listdir("/dev/shm") == before
    segment.close()
    assert not mine("nameless")


def test_a_segment_in_a_folder_leaves_no_file(tmp_path):
    segment = Segment.create("in a folder", 5000, tmp_path)
    segment.array(np.uint8, (5000,), 0)[:] = 1
    assert os.listdir(tmp_path) == []
    assert len(mine("in a folder")) == 1
    segment.close()
    assert not mine("in a folder")


def test_a_segment_without_its_supervisor_is_stale():
    program = (
        "import subprocess, sys, os\n"
        "from adam_mp.memory.segment import Segment\n"
        "s = Segment.create('orphan', 100)\n"
        "child = subprocess.Popen(['sleep', '60'], pass_fds=[s.handle.descriptor], stdout=-3, stderr=-3)\n"
        "print(os.getpid(), child.pid, flush=True)\n"
        "os._exit(0)\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=200
    ).stdout
    owner, child = map(int, out.split())
    try:
        found = [segment for segment in live_segments() if segment.owner == owner]
        assert [segment.stale for segment in found] == [True]
        assert found[0].holders == (child,)
    finally:
        os.kill(child, signal.SIGKILL)


def test_files_whose_names_only_resemble_a_segments_are_none(tmp_path):
    path = tmp_path / "adam_mp-123-notes.txt"
    with open(path, "w"), open(tmp_path / "adam_mp:123:run", "w"):
        assert not [segment for segment in live_segments() if os.getpid() in segment.holders and segment.owner == 123]


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a process namespace")
def test_a_supervisor_in_a_container_is_seen_from_outside():
    program = (
        "import os, sys, time\n"
        "from adam_mp.memory.segment import Segment\n"
        "s = Segment.create('contained', 100)\n"
        "print(os.getpid(), flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-c", program]
    if subprocess.run([*command[:4], "true"], capture_output=True, timeout=200, check=False).returncode:
        pytest.skip("no process namespaces here")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as inside:
        assert inside.stdout is not None
        owner = int(inside.stdout.readline())
        (found,) = [segment for segment in live_segments() if segment.purpose == "contained"]
        assert found.owner == owner
        assert owner not in found.holders  # it has another number outside
        assert not found.stale
        inside.communicate(timeout=200)


def test_too_much_is_refused(tmp_path, monkeypatch):
    with pytest.raises(SpaceError, match=r"the moon needs .* MB, but memory has"):
        Segment.create("the moon", 1 << 50)
    with pytest.raises(SpaceError, match=re.escape(f"folder {tmp_path} has")):
        Segment.create("the moon", 1 << 50, tmp_path)
    with pytest.raises(SpaceError, match="nowhere"):
        Segment.create("test", 10, tmp_path / "nowhere")
    monkeypatch.setattr(segments, "free_memory", lambda: 1 << 20)
    with pytest.raises(SpaceError, match=r"1\.0 MB free"):
        Segment.create("test", 10)


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="no folder in memory")
def test_a_folder_in_memory_has_no_more_room_than_memory(tmp_path, monkeypatch):
    on_disk = segments.free_space(tmp_path)
    monkeypatch.setattr(segments, "free_memory", lambda: 1 << 20)
    assert segments.free_space(Path("/dev/shm")) == 1 << 20
    assert segments.free_space(tmp_path) > 1 << 20 or on_disk <= 1 << 20


def test_sizes_are_said_in_megabytes():
    assert (megabytes(1_500_000), megabytes(1.5e9)) == ("1.5 MB", "1,500 MB")

"""A folder that one process holds: whoever else comes is told, and the lock goes with its process."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil

import pytest

from adam_mp.process import folder_lock
from adam_mp.process.folder_lock import LOCK_FILE, FolderHeldError, FolderLock, is_held


def _hold(path, ready):
    FolderLock(path).sign()
    ready.send(os.getpid())
    ready.poll(60)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_there_are_no_locks_one_that_is_not_needed_says_so(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(folder_lock.fcntl, "flock", refuse)
    lock = FolderLock(tmp_path, needed=False)
    assert lock.trouble.startswith(f"the file system of {tmp_path} has no locks ({os.strerror(number)})")
    lock.close()
    with pytest.raises(OSError, match=os.strerror(number)):
        FolderLock(tmp_path)  # who removes folders that nobody holds must know
    monkeypatch.undo()
    held = FolderLock(tmp_path)
    with pytest.raises(FolderHeldError):
        FolderLock(tmp_path, needed=False)
    held.close()


def test_a_second_process_is_told_who_holds_it_until_that_one_is_killed(tmp_path):
    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=_hold, args=(tmp_path, there))
    child.start()
    try:
        assert here.poll(60)
        process = here.recv()
        with pytest.raises(FolderHeldError) as held:
            FolderLock(tmp_path)
        assert held.value.holder == f"process {process}"
        assert is_held(tmp_path)
    finally:
        child.kill()
        child.join(20)
    assert not is_held(tmp_path)
    lock = FolderLock(tmp_path)
    assert lock.was_held
    assert (tmp_path / LOCK_FILE).read_text() == f"process {process}"  # until the new holder signs
    lock.close()


@pytest.mark.parametrize(("said", "was_held"), [("", False), ("theirs", False), ("process 5", True), (b"\xff", False)])
def test_a_lock_file_tells_whether_a_process_of_ours_had_the_folder(tmp_path, said, was_held):
    (tmp_path / LOCK_FILE).write_bytes(said if isinstance(said, bytes) else said.encode())
    lock = FolderLock(tmp_path)
    assert lock.was_held == was_held
    with pytest.raises(FolderHeldError):
        FolderLock(tmp_path)
    lock.sign()
    lock.close()
    again = FolderLock(tmp_path)
    assert again.was_held
    again.close()
    again.close()


def test_a_folder_that_its_holder_removed_meanwhile_is_not_held(tmp_path, monkeypatch):
    """The second opens the lock file, then the first removes the folder and lets go: that lock is on nothing."""
    folder = tmp_path / "folder"
    folder.mkdir()
    flock = FolderLock._lock

    def late(self, path):
        shutil.rmtree(folder)
        flock(self, path)

    monkeypatch.setattr(FolderLock, "_lock", late)
    with pytest.raises(FileNotFoundError):
        FolderLock(folder)
    folder.mkdir()

    def later(self, path):
        (folder / LOCK_FILE).unlink()
        (folder / LOCK_FILE).touch()  # another process began again
        flock(self, path)

    monkeypatch.setattr(FolderLock, "_lock", later)
    with pytest.raises(FileNotFoundError, match="another file"):
        FolderLock(folder)


def test_a_folder_that_is_not_there_cannot_be_locked(tmp_path):
    with pytest.raises(FileNotFoundError):
        FolderLock(tmp_path / "none")

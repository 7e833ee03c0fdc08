from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from adam_mp.errors import RunFolderError, SpaceError
from adam_mp.process import folder_lock
from adam_mp.training.folder.run_folder import RUN_FILE, RunFolder, read_record


def test_a_new_folder_is_held_until_it_is_closed(tmp_path):
    folder = RunFolder.create(tmp_path / "a" / "b", "mnist")
    with pytest.raises(RunFolderError, match="in use by process"):
        RunFolder.create(tmp_path / "a" / "b", "mnist")
    folder.close()
    RunFolder.create(tmp_path / "a" / "b", "mnist").close()


def test_the_lock_goes_with_its_process(tmp_path):
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom adam_mp.training.folder.run_folder import RunFolder\n"
        "folder = RunFolder.create(Path(sys.argv[1]), 'mnist')\nos.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False, timeout=200)
    RunFolder.create(tmp_path, "mnist").close()


def test_names_are_made_of_model_and_date(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [RunFolder.create(None, "nets/own.toml") for _ in range(2)]
    assert folders[0].path != folders[1].path
    for folder in folders:
        assert folder.path.parts[0] == "runs"
        assert folder.path.name.startswith("own-20")
        folder.discard_if_empty()
        assert not folder.path.exists()


def test_folders_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"cannot use .*file: it is a file; give the name of a folder"):
        RunFolder.create(tmp_path / "file", "mnist")
    with pytest.raises(RunFolderError, match="Not a directory; name a folder where you may write"):
        RunFolder.create(tmp_path / "file" / "run", "mnist")
    with pytest.raises(RunFolderError, match="it cannot be made there; name a folder where you may write"):
        RunFolder.create(Path("/proc/run"), "mnist")
    with pytest.raises(RunFolderError, match="File name too long; name a folder where you may write"):
        RunFolder.create(tmp_path / ("x" * 300), "mnist")
    with pytest.raises(RunFolderError, match="not empty"):
        RunFolder.create(tmp_path, "mnist")
    with pytest.raises(RunFolderError, match="not a run folder"):
        RunFolder.reopen(tmp_path)
    folder = RunFolder.create(tmp_path / "new", "mnist")
    with pytest.raises(SpaceError, match="checkpoints and model need"):
        folder.check_space(1 << 60)
    (folder.path / "kept").write_text("")
    folder.discard_if_empty()
    assert (tmp_path / "new" / "kept").exists()


def test_what_parts_leave_of_a_run_without_a_checkpoint_is_in_nobodys_way(tmp_path):
    for name in ("server-0", "replica-1"):
        (tmp_path / name).mkdir()
    for lock in (None, "theirs"):
        if lock is not None:
            (tmp_path / ".lock").write_text(lock)
        with pytest.raises(RunFolderError, match="not empty"):
            RunFolder.create(tmp_path, "mnist")
    (tmp_path / ".lock").write_text("process 5")
    RunFolder.create(tmp_path, "mnist").close()
    for place in (tmp_path / "replica-1", tmp_path):  # where a replica that led has a checkpoint, it stays too
        kept = place / "checkpoint-0000000001.safetensors"
        kept.write_text("")
        with pytest.raises(RunFolderError, match="not empty"):
            RunFolder.create(tmp_path, "mnist")
        kept.unlink()


FOREIGN = {".lock": "theirs", ".model.safetensors.partial": "theirs", ".x.partial": "theirs", "notes": "theirs"}


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize("locked", [True, False])
def test_a_folder_of_something_else_is_left_as_it_is(tmp_path, locked):
    theirs = {name: text for name, text in FOREIGN.items() if locked or name != ".lock"}
    for name, text in theirs.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(RunFolderError, match="not empty"):
        RunFolder.create(tmp_path, "mnist")
    assert contents(tmp_path) == theirs


@pytest.mark.parametrize("full", [False, True])
def test_what_a_killed_run_was_writing_is_removed_and_nothing_else(tmp_path, monkeypatch, full):
    partials = {".checkpoint-0000000007.safetensors.partial", ".model.safetensors.partial", ".run.json.partial"}
    for name in (*partials, ".other.partial"):
        (tmp_path / name).write_text("half")
    (tmp_path / RUN_FILE).write_text("{}")
    if full:

        def refuse(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(folder_lock.os, "pwrite", refuse)
    RunFolder.reopen(tmp_path).close()
    assert set(contents(tmp_path)) == {".lock", ".other.partial", RUN_FILE}


def test_a_run_that_was_killed_while_it_wrote_its_first_files_may_be_written_over(tmp_path):
    (tmp_path / ".checkpoint-0000000001.safetensors.partial").write_text("half")
    (tmp_path / RUN_FILE).write_text("{}")
    RunFolder.create(tmp_path, "mnist").close()
    assert set(contents(tmp_path)) == {".lock", RUN_FILE}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"settings": 3}', "\xff"])
def test_damaged_records(tmp_path, text):
    with pytest.raises(RunFolderError, match="not a run folder"):
        read_record(tmp_path)
    (tmp_path / RUN_FILE).write_text(text)
    with pytest.raises(RunFolderError, match="damaged"):
        read_record(tmp_path)

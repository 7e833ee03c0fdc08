from __future__ import annotations

import subprocess
import sys

import pytest

from adam_mp.errors import RunFolderError, SpaceError
from adam_mp.training.run_folder import RUN_FILE, RunFolder, read_record


def test_a_new_folder_is_held_until_it_is_closed(tmp_path):
    folder = RunFolder.create(tmp_path / "a" / "b", "mnist")
    with pytest.raises(RunFolderError, match="in use by process"):
        RunFolder.create(tmp_path / "a" / "b", "mnist")
    folder.close()
    RunFolder.create(tmp_path / "a" / "b", "mnist").close()


def test_the_lock_goes_with_its_process(tmp_path):
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom adam_mp.training.run_folder import RunFolder\n"
        "folder = RunFolder.create(Path(sys.argv[1]), 'mnist')\nos.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False, timeout=30)
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
    with pytest.raises(RunFolderError, match="cannot use"):
        RunFolder.create(tmp_path / "file", "mnist")
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


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"settings": 3}', "\xff"])
def test_damaged_records(tmp_path, text):
    with pytest.raises(RunFolderError, match="not a run folder"):
        read_record(tmp_path)
    (tmp_path / RUN_FILE).write_text(text)
    with pytest.raises(RunFolderError, match="damaged"):
        read_record(tmp_path)

"""The files of a run are found from any folder, and after the run, the data or both have moved."""

from __future__ import annotations

import json
import os
import shutil

import pytest

import adam_mp
from adam_mp.cli.main import main
from adam_mp.errors import RunFolderError
from adam_mp.training.folder.places import GIVEN, find_path, places_of
from adam_mp.training.folder.run_folder import read_record
from tests.conftest import LAYERS
from tests.data.pictures_on_disk import write_folder

pytestmark = pytest.mark.usefixtures("forks")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with data in `c` and shards `s-0.tar`, in which a run is begun in `runs/one`."""
    (tmp_path / "project" / "c").mkdir(parents=True)
    (tmp_path / "project" / "s-0.tar").touch()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def record_of(data, run="runs/one", **more):
    settings = {"data": data, "run_dir": run, **more}
    return {"settings": settings, "places": places_of(os.path.abspath(run), settings)}


@pytest.mark.parametrize("data", ["c", "./c", "s-{0..3}.tar", "s-0.tar"])
def test_data_are_found_from_any_folder(project, monkeypatch, data):
    record = record_of(data)
    assert find_path(project / "runs/one", record, "data") == data
    monkeypatch.chdir(project.parent / "elsewhere")
    found = find_path(project / "runs/one", record, "data")
    assert found == str(project / data.removeprefix("./"))
    monkeypatch.chdir(project.parent)
    shutil.move(project, project.parent / "moved")
    moved = project.parent / "moved"
    assert find_path(moved / "runs/one", record, "data") == str(moved / data.removeprefix("./"))


def test_an_earlier_versions_record_tells_where_it_began(project, monkeypatch):
    monkeypatch.chdir(project.parent / "elsewhere")
    for run, folder in (("runs/one", "runs/one"), ("./one", "one"), (None, "runs/mnist-20260101-000000")):
        record = {"settings": {"data": "c", "run_dir": run}}
        assert find_path(project / folder, record, "data") == str(project / "c")
    for run in ("/abs/one", "../one", "two"):
        with pytest.raises(RunFolderError, match="give data with their place"):
            find_path(project / "runs/one", {"settings": {"data": "c", "run_dir": run}}, "data")


def test_data_that_are_gone_are_asked_for(project):
    record = record_of("gone")
    with pytest.raises(RunFolderError) as caught:
        find_path(project / "runs/one", record, "data")
    assert str(caught.value) == (
        f"the data of the run in {project}/runs/one (gone) are not at {project}/gone; give data with their place"
    )


def test_what_is_no_file_stays(project):
    for value in ("mnist", GIVEN, 3):
        assert find_path(project / "runs/one", record_of(value), "data") == value
    (project / "run.key").touch()
    record = record_of("c", key_file="run.key", memory_dir="gone")
    os.chdir(project.parent)
    assert find_path(project / "runs/one", record, "key_file") == str(project / "run.key")
    assert find_path(project / "runs/one", record, "memory_dir") == "gone"


def test_a_run_goes_on_wherever_its_data_lie(tmp_path, monkeypatch, capsys):
    for name in ("project", "elsewhere"):
        (tmp_path / name).mkdir()
    write_folder(tmp_path / "project" / "c", 10)
    monkeypatch.chdir(tmp_path / "project")
    run = tmp_path / "project" / "run"
    settings = {"cores": 1, "quiet": True, "image_size": "28"}
    adam_mp.train("mlp", "c", epochs=1, run_dir="run", **settings)
    adam_mp.train("mlp", "c/", epochs=2, resume=str(run), quiet=True)
    adam_mp.train("mlp", str(tmp_path / "project" / "c"), epochs=3, resume=str(run), quiet=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["train", "--resume", str(run), "--epochs", "4", "--quiet"]) == 0
    assert main(["evaluate", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 2  # those held out
    shutil.move(tmp_path / "project" / "c", tmp_path / "far")
    assert main(["train", "--resume", str(run), "--epochs", "5", "--quiet"]) == 2
    assert "give --data with their place" in capsys.readouterr().err
    assert main(["evaluate", str(run)]) == 2
    assert "give --data with their place" in capsys.readouterr().err
    assert main(["train", "--resume", str(run), "--data", "../far", "--epochs", "5", "--quiet"]) == 0
    monkeypatch.chdir(tmp_path / "project")
    assert main(["train", "--resume", "run", "--epochs", "6", "--quiet"]) == 0  # it notes where they are now
    assert os.path.abspath(read_record(run)["settings"]["data"]) == str(tmp_path / "far")
    (tmp_path / "far" / "red" / "0000.jpg").unlink()
    assert main(["train", "--resume", "run", "--epochs", "7", "--quiet"]) == 2
    assert "they have 29 images to train on, and had 30 (red has 9, had 10); give" in capsys.readouterr().err
    write_folder(tmp_path / "far", 10)
    with pytest.raises(RunFolderError, match=r"belongs to another network, 'mlp': its .* leave model out"):
        adam_mp.train(list(LAYERS), str(tmp_path / "far"), epochs=7, resume=str(run), quiet=True)


def test_a_run_of_objects_says_that_it_needs_data_to_be_evaluated_on(tmp_path, capsys):
    (tmp_path / "run.json").write_text(json.dumps({"settings": {"data": GIVEN}}))
    write_folder(tmp_path / "c", 10)
    adam_mp.train(
        "mlp", adam_mp.load_data(str(tmp_path / "c")), epochs=1, run_dir=tmp_path / "run", quiet=True, cores=1
    )
    assert main(["evaluate", str(tmp_path / "run")]) == 2
    assert "was given its data by the caller; give --data" in capsys.readouterr().err

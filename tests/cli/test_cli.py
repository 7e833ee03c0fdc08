from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from adam_mp.cli.main import COMMANDS, main
from adam_mp.cli.status import _counted
from adam_mp.errors import ProcessError
from adam_mp.training.settings.settings import FIELDS
from tests.data.pictures_on_disk import write_folder


def run(capsys, *arguments):
    """Run a command line in this process; return its exit code, output, errors."""
    try:
        code = main(arguments)
    except SystemExit as ended:
        code = ended.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def expect_error(capsys, message, *arguments):
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help(capsys, command):
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert f"adam-mp {command}" in out


@pytest.mark.parametrize(
    ("command", "absent"),
    [
        ("main", ("numpy", "zmq", "numba", "numexpr")),
        ("keygen", ("numpy", "numba", "numexpr")),
        ("status", ("numba", "numexpr")),
        ("inspect", ("zmq", "numba", "numexpr")),
        ("train", ("numpy", "zmq", "numba", "numexpr")),  # until it has started its fork server
    ],
)
def test_what_a_command_does_not_need_it_does_not_load(command, absent):
    program = (
        f"import sys\nimport adam_mp.cli.{command}\nimport adam_mp.training.settings.settings\n"
        f"loaded = [name for name in {absent!r} if name in sys.modules]\nassert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=200)


def test_a_run_of_one_machine_loads_no_zeromq():
    program = "import sys, adam_mp.api\nassert not {'zmq', 'asyncio'} & set(sys.modules)\n"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=200)


def test_help_tells_every_setting_with_its_default(capsys):
    _, out, _ = run(capsys, "train", "--help")
    flat = " ".join(out.split())
    for name, field in FIELDS.items():
        assert f"--{name.replace('_', '-')} " in flat
        if field.default not in (None, False):
            assert f"(default: {field.default})" in flat
    for group in {field.metadata["group"] for field in FIELDS.values()}:
        assert f"{group}:" in out
    assert "optimizer Adam" in flat


def test_help_of_serve_data_tells_what_its_settings_decide_there(capsys):
    flat = " ".join(run(capsys, "serve-data", "--help")[1].split())
    assert "--validation FRACTION share of the training images that are left out when images are looked at" in flat
    assert "give that of the run" in flat
    assert "seed of weights" not in flat


def test_help_of_evaluate_names_every_kind_of_data(capsys):
    flat = " ".join(run(capsys, "evaluate", "--help")[1].split())
    assert "class folders, IDX files, tar shards, .npy or .npz files, or 'mnist'; its test part is used" in flat


def test_keygen_into_a_folder_says_what_to_write(capsys, tmp_path):
    expect_error(capsys, f"is a folder; name the file in it, such as {tmp_path}/run.key", "keygen", str(tmp_path))
    expect_error(capsys, "Is a directory; name the file in it, such as", "status", "a:1", "--key-file", str(tmp_path))


def test_usage_and_version(capsys):
    assert "doctor" in run(capsys)[1]
    assert "commands:" in run(capsys, "--help")[1]
    assert run(capsys, "--version")[1].startswith("adam_mp 0.")


def test_misspellings(capsys):
    expect_error(capsys, "did you mean 'train'?", "trian")
    expect_error(capsys, "did you mean '--batch-size'?", "train", "--batchsize", "3")
    expect_error(capsys, "did you mean '--top'?", "predict", "run", "image", "--topp", "2")


def test_inspect_shows_how_a_network_is_cut(capsys, trained):
    code, out, _ = run(capsys, "inspect", trained.run_dir, "--partitions", "2", "--cut", "conv*=rows")
    assert code == 0
    assert "over 2 partitions" in out
    facts = json.loads(run(capsys, "inspect", f"{trained.run_dir}/model.safetensors", "--partitions", "2", "--json")[1])
    assert len(facts["parts"]) == 2
    named = ("mnist", "--image", "28x28x1", "--classes", "10")
    assert run(capsys, "inspect", *named, "--partitions", "3")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("mnist", "--cut", "rows"), "--cut is for showing how a model is cut; give --partitions P too"),
        (("mnist", "--partitions", "2", "--data", "mnist"), "give one"),
        (("mnist",), "or with --partitions the name of a model"),
        (("mnist", "--partitions", "2"), "--image is not given for the model 'mnist'; expected --image HEIGHTx"),
        (("mnist", "--partitions", "2", "--image", "28x28", "--classes", "10"), "--image is '28x28' for the model"),
        (
            ("mnist", "--partitions", "1", "--image", "28x28x1", "--classes", "10"),
            "--partitions is 1; expected 2 to 64",
        ),
        (
            ("mnist", "--partitions", "30", "--image", "28x28x1", "--classes", "10", "--cut", "conv1=rows"),
            "conv1 cannot be cut by rows over 30 partitions: its output is (24, 24, 24); possible: 'none'",
        ),
        (
            ("mlp", "--partitions", "2", "--image", "28x28x1", "--classes", "10", "--cut", "none"),
            "no layer is cut over 2 partitions, so each would compute everything",
        ),
    ],
)
def test_inspect_refuses_a_cut_that_cannot_be(capsys, arguments, says):
    code, _, error = run(capsys, "inspect", *arguments)
    assert code == 2
    assert says in error


def test_inspect(capsys, trained, tmp_path):
    for path in (trained.run_dir, f"{trained.run_dir}/model.safetensors"):
        code, out, _ = run(capsys, "inspect", path)
        assert code == 0
        assert "conv1" in out
    code, out, _ = run(capsys, "inspect", trained.run_dir)
    assert "best: epoch" in out
    assert "given by the caller" in out
    assert "understood arrays: arrays; 12x12x1, uint8" in out
    assert "classes    3: 0 " in out
    facts = json.loads(run(capsys, "inspect", trained.run_dir, "--json")[1])
    assert facts["parameters"] == trained.model.network.parameter_count
    assert len(facts["epochs"]) == 2
    expect_error(capsys, "does not exist", "inspect", str(tmp_path / "nothing"))
    expect_error(capsys, "not a run folder", "inspect", str(tmp_path))
    out = run(capsys, "inspect", trained.run_dir, "--data", "mnist")[1]
    assert "understood mnist: IDX files; 28x28x1, uint8" in out
    assert "classes    10: 0 5," in out


def test_evaluate(capsys, trained, tmp_path):
    expect_error(capsys, "was given its data by the caller; give --data", "evaluate", trained.run_dir)
    expect_error(capsys, "(28, 28, 1)", "evaluate", trained.run_dir, "--data", "mnist")
    expect_error(capsys, "give --data", "evaluate", f"{trained.run_dir}/model.safetensors")
    expect_error(capsys, "does not exist", "evaluate", str(tmp_path / "nothing"), "--data", "mnist")
    shutil.copy(f"{trained.run_dir}/model.safetensors", tmp_path / "model.safetensors")
    with open(tmp_path / "model.safetensors", "r+b") as file:
        file.truncate(600)
    expect_error(capsys, "damaged", "evaluate", str(tmp_path), "--data", "mnist")


@pytest.mark.parametrize("command", [["predict", "image.png"], ["evaluate"], ["inspect"]])
def test_a_folder_of_run_folders_is_told_from_one(capsys, trained, tmp_path, command):
    advice = "give a run folder that has a model"
    expect_error(capsys, f"; {advice}\n", command[0], str(tmp_path), *command[1:])
    (tmp_path / "other").mkdir()
    shutil.copytree(trained.run_dir, tmp_path / "first")
    expect_error(capsys, f"; {advice}, such as {tmp_path}/first\n", command[0], str(tmp_path), *command[1:])


@pytest.fixture
def picture(tmp_path):
    """Draw a bar at one of the three heights, as image file of any kind."""

    def draw(label, name, mode="L", side=37, light=False):
        pixels = np.full((side, side), 20, np.uint8)
        pixels[side * label // 3 : side * label // 3 + side // 6, side // 6 : -side // 6] = 220
        image = Image.fromarray(255 - pixels if light else pixels).convert(mode)
        image.save(tmp_path / name)
        return str(tmp_path / name)

    return draw


def test_predict(capsys, trained, picture):
    files = [
        picture(0, "a.png"),
        picture(1, "b.jpg", "RGB", 500),
        picture(2, "c.png", "P", 12),
        picture(1, "d.png", "RGBA"),
    ]
    code, out, err = run(capsys, "predict", trained.run_dir, *files, "--json", "--top", "2")
    assert code == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["top"][0]["class"] for row in rows] == [0, 1, 2, 1]
    assert all(len(row["top"]) == 2 and not row["inverted"] for row in rows)
    code, out, _ = run(capsys, "predict", trained.run_dir, picture(2, "light.png", light=True))
    assert "light.png: 2 " in out
    assert "(inverted)" in out


def test_what_cannot_be_predicted(capsys, trained, tmp_path, picture):
    (tmp_path / "text.png").write_text("no image")
    expect_error(capsys, "not an image of a known kind", "predict", trained.run_dir, str(tmp_path / "text.png"))
    expect_error(capsys, "no such file", "predict", trained.run_dir, str(tmp_path / "none.png"))
    os.mkfifo(tmp_path / "pipe.png")
    expect_error(capsys, "cannot be read", "predict", trained.run_dir, str(tmp_path / "pipe.png"))
    expect_error(capsys, "--top is 0", "predict", trained.run_dir, picture(0, "a.png"), "--top", "0")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    expect_error(capsys, "damaged or cut short", "predict", trained.run_dir, str(tmp_path / "cut.png"))
    Image.new("1", (30_000, 30_000)).save(tmp_path / "bomb.png")
    expect_error(capsys, "more pixels than the limit", "predict", trained.run_dir, str(tmp_path / "bomb.png"))


def test_one_bad_file_does_not_keep_others_from_being_classified(capsys, trained, tmp_path, picture):
    code, out, err = run(capsys, "predict", trained.run_dir, str(tmp_path / "none.png"), picture(1, "b.png"))
    assert code == 2
    assert "none.png" in err
    assert out.startswith(f"{tmp_path}/b.png: 1 ")


def test_a_folder_is_classified_file_by_file(capsys, trained, tmp_path, picture):
    (tmp_path / "deeper").mkdir()
    for label, name in ((1, "b.png"), (0, "a.png"), (2, "deeper/c.png")):
        picture(label, name)
    (tmp_path / ".DS_Store").write_bytes(b"x")
    code, out, err = run(capsys, "predict", trained.run_dir, str(tmp_path), "--json")
    assert code == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["image"] for row in rows] == [f"{tmp_path}/{name}" for name in ("a.png", "b.png", "deeper/c.png")]
    assert [row["top"][0]["class"] for row in rows] == [0, 1, 2]
    (tmp_path / "notes.txt").write_text("no image")
    code, out, err = run(capsys, "predict", trained.run_dir, str(tmp_path))
    assert (code, out.count("\n"), err.count("notes.txt")) == (2, 3, 1)
    (tmp_path / "empty").mkdir()
    expect_error(capsys, "a folder without files", "predict", trained.run_dir, str(tmp_path / "empty"))


def test_check_says_what_is_understood_and_trains_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "data" / "Train", 4)
    (tmp_path / "data" / "Train" / "red" / "x.gif").write_bytes(b"GIF")
    (tmp_path / "data" / "test").mkdir()
    (tmp_path / "data" / "test" / "1.jpg").write_bytes(b"x")
    code, out, err = run(capsys, "train", "--data", "data", "--check")
    assert code == 0, err
    assert (
        "classes    3: blue 4, green 4, red 3 to train" in out
        or "classes    3: blue 3, green 4, red 4" in out
        or ("classes    3: blue 4, green 3, red 4" in out)
    )
    assert "11 images to train (Train/), 1 image to validate (held out of these), 0 images to test" in out
    assert "left out   1 file: 1 (.gif images are not read" in out
    assert "test has 1 image, but no class folders, so nothing is tested; `predict`" in err
    facts = json.loads(run(capsys, "train", "--data", "data", "--check", "--json")[1])
    assert facts["class_names"] == ["blue", "green", "red"]
    assert facts["parts"] == {"train": 11, "validation": 1, "test": 0}
    assert facts["places"] == {"train": "Train/"}
    assert not (tmp_path / "runs").exists()
    assert "no image to train on of the class" not in err
    expect_error(capsys, "does not exist", "train", "--data", "nowhere", "--check")
    expect_error(capsys, "those of an earlier run: adam-mp inspect", "train", "--resume", "runs/a", "--check")


def test_a_few_images_are_trained_with_none_held_out(capsys, tmp_path):
    write_folder(tmp_path, 2)
    code, out, err = run(capsys, "train", "--data", str(tmp_path), "--check")
    assert (code, "6 images to train, 0 images to validate" in out) == (0, True)
    assert "only 6 images to train on: none is held out" in err
    expect_error(capsys, "less than one of 6", "train", "--data", str(tmp_path), "--check", "--validation", "0.05")


def test_show_data(capsys, tmp_path):
    sheet = tmp_path / "sheet.png"
    code, out, err = run(capsys, "show-data", "--count", "5", "--augment", "noise=3,cutout=0.3", "--output", str(sheet))
    assert code == 0, err
    assert "5 images of mnist, augmentation noise=3,cutout=0.3" in out
    with Image.open(sheet) as image:
        assert image.size > (300, 200)
    expect_error(capsys, "--count is 0", "show-data", "--count", "0")
    expect_error(capsys, "cannot write", "show-data", "--output", str(tmp_path / "no" / "sheet.png"))
    expect_error(capsys, "did you mean '--augment'", "show-data", "--augmen", "none")


def test_status_counts_epochs_from_1_as_everything_else():
    state = {"epoch": 1, "epochs": 3, "images": 60, "finished": [{"epoch": 0, "trained": 60}]}
    assert _counted(state) == {"epoch": 2, "epochs": 3, "images": 60, "finished": [{"epoch": 1, "trained": 60}]}
    assert _counted({**state, "epoch": 3})["epoch"] == 3  # the run is over
    assert _counted({**state, "epoch": 0, "images": 0, "finished": []})["epoch"] == 0  # nobody has joined


def test_doctor(capsys):
    code, out, _ = run(capsys, "doctor")
    assert code == 0
    for word in ("cores", "shared memory", "NUMA", "kernel cache", "stale segments"):
        assert word in out
    facts = json.loads(run(capsys, "doctor", "--json")[1])
    assert facts["usable_cores"] >= 1
    assert facts["swept"] == []
    assert facts["left"] == {}


def test_the_last_lines_of_a_process_stand_below_the_error(capsys, monkeypatch):
    text = "it died; its last lines:\n    Traceback\n    ValueError: no"

    def fail():
        raise ProcessError(text)

    monkeypatch.setattr("adam_mp.cli.doctor.live_segments", fail)
    assert run(capsys, "doctor") == (1, "", f"adam_mp: error: {text}\n")


def test_tracebacks_only_with_debug(capsys, monkeypatch):
    monkeypatch.setattr("adam_mp.cli.doctor.live_segments", lambda: 1 / 0)
    code, _, err = run(capsys, "doctor")
    assert code == 1
    assert err.count("\n") == 1
    with pytest.raises(ZeroDivisionError):
        main(["doctor", "--debug"])

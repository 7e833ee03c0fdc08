"""Bad input: one clear line, exit code 2, before any process of a run starts.

What is said is seen by calls in this process; `test_a_process_that_is_refused` has the command itself.
"""

from __future__ import annotations

import shutil
import time

import numpy as np
import pytest

from tests.system.conftest import write_idx

IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


def damage(folder, name):
    """Make one kind of damage in a copy of a good data folder."""
    images, labels = folder / IMAGES, folder / LABELS
    if name == "missing":
        images.unlink()
    elif name == "truncated":
        images.write_bytes(images.read_bytes()[:1000])
    elif name == "wrong magic":
        images.write_bytes(b"\x00\x00\x08\x01" + bytes(100))
    elif name == "different lengths":
        write_idx(labels, np.zeros(7, np.uint8))
    elif name == "empty":
        write_idx(images, np.zeros((0, 28, 28), np.uint8))
        write_idx(labels, np.zeros(0, np.uint8))
    elif name == "label outside":
        write_idx(folder / "t10k-labels-idx1-ubyte.gz", np.full(300, 77, np.uint8))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "has no train-images-idx3-ubyte"),
        ("truncated", "truncated"),
        ("wrong magic", "is not an IDX file"),
        ("different lengths", "2,000 images"),
        ("empty", "empty"),
        ("label outside", "outside the classes 0 to 9"),
    ],
)
def test_damaged_data(here, small_data, tmp_path, name, message):
    folder = tmp_path / "data"
    shutil.copytree(small_data, folder)
    damage(folder, name)
    expect_one_line(here("train", "--data", str(folder)), message)


TOO_BIG = '[[layers]]\ntype = "flatten"\n' + '[[layers]]\ntype = "dense"\nunits = 1000000\n' * 2
UNFIT = '[[layers]]\ntype = "conv"\nchannels = 4\nsize = 29\n[[layers]]\ntype = "flatten"\n'
END = '[[layers]]\ntype = "dense"\n[[layers]]\ntype = "softmax"\n'


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epoch", "3"], "did you mean '--epochs'?"),
        (["--optimizer", "adamm"], "did you mean 'adam"),
        (["--model", "lenett"], "did you mean 'lenet'?"),
        (["--model", "alexnet"], "at least 64x64"),
        (["--cores", "0"], "cores is 0"),
        (["--cores", "-2"], "cores is -2"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--epochs", "0"], "epochs is 0"),
        (["--epochs", "two"], "expected a whole number"),
        (["--lr", "0.05 * 0.95 ** epok"], "unknown name 'epok'; known: cosine, epoch, epochs"),
        (["--lr", "0.1 * triangle(2)"], "peak of triangle is 2; expected a number above 0 and below 1"),
        (["--rates", "conv1=0.1,dens1=2"], "'dens1' fits no layer with weights of the network; did you mean 'dense1'"),
        (["--rates", "conv1"], "expected pairs of a pattern and a share"),
        (
            ["--average", "0.999"],
            "--average is '0.999'; expected ema:D, such as ema:0.999, last:N, such as last:5, or none",
        ),
        (
            ["--views", "mirror"],
            "--views is 'mirror'; expected reflect, shift=N, such as shift=1, both, such as 'reflect,shift=1', or one",
        ),
        (
            ["--views", "shift=28"],
            "--views is 'shift=28', but the network takes pictures of 28x28; expected a shift below 28",
        ),
        (["--average", "ema:1"], "--average is 'ema:1'; expected ema of more than 0 and up to 0.99999"),
        (["--average", "last:1"], "--average is 'last:1'; expected last of a whole number of epochs, at least 2"),
        (
            ["--average", "last:4", "--epochs", "3"],
            "--average is 'last:4', but --epochs is 3; give at most last:3",
        ),
        (["--clip-norm", "-1"], "--clip-norm is -1.0; expected a number from 0"),
        (["--label-smoothing", "1"], "--label-smoothing is 1.0; expected a number from 0 and less than 1"),
        (["--mixup", "-0.2"], "--mixup is -0.2; expected a number from 0 and up to 1000"),
        (["--cutmix", "nan"], "--cutmix is nan; expected a number from 0"),
        (["--mixup", "0.2", "--batch-size", "1"], "--mixup mixes the images of a batch with each other, but a batch"),
        (["--cutmix-alpha", "1"], "did you mean '--cutmix'?"),
        (["--mixup-prob", "0.5"], "each batch is mixed, with either by equal odds"),
        (["--optimizer", "w - lr * gg"], "unknown name 'gg'"),
        (["--lr", "1 / 0"], "fails"),
        (["--lr", "epoch - 1"], "is -1; expected a learning rate of at least 0"),
        (["--lr", "log(epoch)"], "is -inf"),
        (["--lr", "epoch / (epoch - 2)"], "in epoch 1 (from 0) is -1"),
        (["--resume", ""], "resume is empty"),
        (["--augment", "rotat=3"], "did you mean 'rotate'?"),
        (["--augment", "border=edge"], "border is 'edge'; expected fill or reflect"),
        (["--validation", "1"], "validation is 1"),
        (["--quorum", "0"], "quorum is 0"),
        (["--data", "nowhere"], "does not exist"),
        (["--resume", "nowhere"], "does not exist"),
        (["--resume"], "--run-dir"),
        (["--config", "nowhere.toml"], "cannot read settings file"),
        (["--memory-dir", "nowhere"], "nowhere"),
        (["surplus"], "unexpected argument"),
    ],
)
def test_wrong_flags(here, arguments, message):
    expect_one_line(here("train", *arguments), message)


def test_a_process_that_is_refused(start, small_data):
    run = start("train", "--data", str(small_data), "--model", "alexnet", fresh=True)
    while run.process.poll() is None:
        run.see_children()
        time.sleep(0.02)
    expect_one_line(run.finish(), "at least 64x64")
    assert set(run.children.values()) <= {"fork server"}  # which imports while the command looks at its arguments


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (UNFIT + END, "conv1"),
        (UNFIT + END, "29x29 window does not fit into 28x28 pixels"),
        (TOO_BIG + END, "needs"),
        ('[[layers]]\ntype = "convv"\n' + END, "did you mean 'conv'?"),
        ('[[layers]]\ntype = "conv"\nchanels = 3\nsize = 2\n' + END, "did you mean 'channels'?"),
        ('[[layers]]\ntype = "dense"\nunits = 9\n' + END, "put a flatten layer before it"),
        ("nonsense", "is not TOML"),
    ],
)
def test_networks_that_cannot_be(here, tmp_path, text, message):
    path = tmp_path / "network.toml"
    path.write_text(text)
    expect_one_line(here("train", "--model", str(path)), message)


def test_unknown_settings_key(here, tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text("epoch = 3\n")
    expect_one_line(here("train", "--config", str(path)), "did you mean 'epochs'?")


def test_run_folders_that_cannot_be_used(here, small_data, tmp_path):
    occupied = tmp_path / "occupied"
    occupied.mkdir()
    (occupied / "thesis.txt").write_text("mine")
    expect_one_line(here("train", "--run-dir", str(occupied)), "not empty")
    expect_one_line(here("train", "--resume", str(occupied)), "not a run folder")
    assert [path.name for path in occupied.iterdir() if path.name != ".lock"] == ["thesis.txt"]

    run = tmp_path / "run"
    trained = here("train", "--data", str(small_data), "--model", "lenet", "--epochs", "1", "--run-dir", str(run))
    assert trained.code == 0, trained.err
    expect_one_line(here("train", "--resume", str(run)), "has done its 1 epoch; give --epochs more than that")
    resume = ("train", "--resume", str(run), "--epochs", "2")
    expect_one_line(here(*resume, "--model", "mlp"), "belongs to another network, 'lenet': its conv1 is")
    expect_one_line(
        here(*resume, "--data", "mnist"),
        "was trained on other data than mnist: they have 60,000 images to train on, and had",
    )
    checkpoint = next(run.glob("checkpoint-*.safetensors"))
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 255
    checkpoint.write_bytes(content)
    expect_one_line(here(*resume), "damaged")
    checkpoint.write_bytes(content[:5000])
    expect_one_line(here(*resume), "damaged")


def test_a_diverging_run_stops_and_says_where(here, small_data, tmp_path):
    ended = here("train", "--data", str(small_data), "--lr", "1e6", "--run-dir", str(tmp_path / "run"))
    assert ended.code == 3
    assert "in epoch 1" in ended.err
    assert "use a lower --lr" in ended.err
    assert "Traceback" not in ended.err


def expect_one_line(ended, message):
    assert ended.code == 2, ended.err
    lines = [line for line in ended.err.splitlines() if not line.startswith("compiling kernels")]
    assert len(lines) == 1, ended.err
    assert message in lines[0]

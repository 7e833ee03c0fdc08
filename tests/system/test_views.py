"""Views of images in whole runs: training, `evaluate`, `predict` and the library see the same ones."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import adam_mp
from adam_mp import Dense, ReLU, Softmax
from tests.conftest import LAYERS, make_images

VIEWS = "reflect,shift=1"


@pytest.mark.parametrize("kind", ["bytes", "16 bits", "floats"])
def test_a_run_tests_what_the_library_evaluates(tmp_path, kind):
    def of_kind(images):
        if kind == "16 bits":
            return images.astype(np.uint16) * 257
        return images / np.float32(255) if kind == "floats" else images

    (images, labels), (others, their_labels) = make_images(600, 1), make_images(300, 2)
    images, others = of_kind(images), of_kind(others)
    result = adam_mp.train(
        list(LAYERS), (images, labels, others, their_labels), cores=2, epochs=1, views=VIEWS, quiet=True,
        augment="none", run_dir=tmp_path / "run",
    )  # fmt: skip
    assert result.model.evaluate(others, their_labels, views=VIEWS) == pytest.approx(result.test_accuracy, abs=0.004)
    assert (result.model.predict(others) != result.model.predict(others, views=VIEWS)).any()


def test_features_have_one_view(tmp_path):
    data = (np.random.default_rng(1).standard_normal((200, 7)).astype(np.float32), np.arange(200) % 2)
    with pytest.raises(
        adam_mp.AdamError, match=r"^views is 'reflect', but features have no other views; leave it out$"
    ):
        adam_mp.train(
            [Dense(4), ReLU(), Dense(), Softmax()], data, views="reflect", quiet=True, run_dir=tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()


def write_bars(folder, count):
    """Write a picture of a bar at the left or at the right for each image, which a mirror exchanges."""
    for name, place in (("left", 4), ("right", 18)):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.random.default_rng(number).integers(0, 90, (28, 28)).astype(np.uint8)
            pixels[4:24, place : place + 6] = 220
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def test_files_are_seen_in_the_same_views_by_all_commands(here, tmp_path):
    write_bars(tmp_path / "bars" / "train", 100)
    write_bars(tmp_path / "bars" / "test", 20)
    flags = ("--data", str(tmp_path / "bars"), "--cores", "2", "--epochs", "4", "--augment", "none", "--json")
    ended = here("train", *flags, "--run-dir", str(tmp_path / "run"), "--views", "shift=1")
    assert ended.code == 0, ended.err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["settings"]["views"] == "shift=1"

    def evaluate(*more):
        ended = here("evaluate", str(tmp_path / "run"), "--json", *more)
        assert ended.code == 0, ended.err
        answer = json.loads(ended.out)
        return answer["accuracy"], answer["loss"]

    one, shifted, mirrored = (evaluate(*more) for more in ((), ("--views", "shift=1"), ("--views", "reflect")))
    assert evaluate("--views", "shift=1") == shifted
    assert shifted[0] == ended.summary["test_accuracy"] == one[0] == 1.0
    assert shifted[1] != one[1]
    assert mirrored[1] > 0.5 > one[1]  # of left and right, seen both ways, a network knows nothing
    picture = str(tmp_path / "bars" / "test" / "left" / "0.png")
    predicted = here("predict", str(tmp_path / "run"), picture, "--views", "reflect", "--json")
    probabilities = {each["name"]: each["probability"] for each in json.loads(predicted.out)["top"]}
    pixels = np.asarray(Image.open(picture))
    expected = adam_mp.load(tmp_path / "run").predict(pixels, views="reflect")[0]
    assert [probabilities["left"], probabilities["right"]] == pytest.approx(expected.tolist(), rel=1e-5)
    for command in (("evaluate", str(tmp_path / "run")), ("predict", str(tmp_path / "run"), picture)):
        ended = here(*command, "--views", "shift=28")
        assert ended.code == 2
        assert "--views is 'shift=28', but the network takes pictures of 28x28; expected a shift below 28" in ended.err

"""Images of another scale than those to train on are refused; those of the same scale never are."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import adam_mp
from adam_mp.cli.main import main
from adam_mp.compute.model import load, write_model
from adam_mp.compute.scale import BYTES, ValueScale, almost_black, not_of_files, other_scale
from adam_mp.errors import DataError
from tests.compute.test_model import make
from tests.conftest import make_images
from tests.data.pictures_on_disk import encode

pytestmark = pytest.mark.usefixtures("forks")

DIGITS = adam_mp.load_data("mnist").test.images[:50]
SHARES = DIGITS.astype(np.float32) / 255
SCALES = {
    "bytes": DIGITS, "floats of bytes": DIGITS.astype(np.float32), "whole numbers": DIGITS.astype(np.int64),
    "shares": SHARES, "normalised": (SHARES - 0.13) / 0.31, "-1 to 1": 2 * SHARES - 1, "masks": DIGITS > 127,
    "masks as bytes": (DIGITS > 127).astype(np.uint8), "16 bits": DIGITS.astype(np.uint16) * 257,
}  # fmt: skip
OF_BYTES = {"bytes", "floats of bytes", "whole numbers"}


@pytest.mark.parametrize("largest", [1.0004, 1.3])
@pytest.mark.parametrize("trained_as", ["bytes", "floats of bytes"])
def test_values_little_above_1_are_no_bytes(largest, trained_as):
    """Images from 0 to 1 that were brightened, or made larger with a filter that swings over."""
    for images in (largest * SHARES, largest * SHARES[:1]):
        assert "write 255 * images" in other_scale(images, ValueScale.of(SCALES[trained_as]))
    dark = np.minimum(DIGITS, 2)
    for images in (dark.astype(np.float32), dark[:1].astype(np.int64)):
        assert other_scale(images, ValueScale.of(DIGITS)) is None


@pytest.mark.parametrize("given_as", SCALES)
@pytest.mark.parametrize("trained_as", ["bytes", "floats of bytes", "shares", "normalised", "16 bits"])
def test_only_the_same_scale_is_taken(trained_as, given_as):
    why = other_scale(SCALES[given_as], ValueScale.of(SCALES[trained_as]))
    same = given_as == trained_as or {trained_as, given_as} <= OF_BYTES
    if trained_as == "shares":
        same = same or "masks" in given_as
    if trained_as == "normalised" and given_as == "-1 to 1":
        return  # both have values on both sides of 0
    assert (why is None) == same, why
    if why is not None:
        assert why.startswith("the images are ")
        assert "those to train on" in why


@pytest.mark.parametrize("trained_as", SCALES)
def test_a_model_of_other_values_takes_no_files(capsys, trained_as, tmp_path):
    model = dataclasses.replace(make(), values=ValueScale.of(np.asarray(SCALES[trained_as], np.float32)))
    write_model(tmp_path / "m.safetensors", model)
    if trained_as in OF_BYTES:
        model.check_files()
        return
    assert main(["predict", str(tmp_path / "m.safetensors"), "x.png"]) == 2
    assert "images of 8 bits have values from 0 to 255, those to train on had" in capsys.readouterr().err


@pytest.mark.parametrize("trained", [ValueScale("numbers", -0.42, 2.8), ValueScale("numbers", 0, 65535)])
def test_blank_images_are_of_every_scale(trained):
    assert other_scale(np.zeros((9, 28, 28, 1), np.float32), trained) is None


def test_dark_images_of_few_more_bits_than_bytes_are_taken():
    assert other_scale(np.arange(9 * 16, dtype=np.float32).reshape(9, 4, 4, 1), ValueScale("numbers", 0, 1100)) is None


def test_bytes_that_a_filter_made_a_little_larger_are_those_of_files():
    assert not_of_files(ValueScale("numbers", -4.0, 259.0)) is None


def test_one_picture_may_be_dark_or_light():
    for trained_as in ("normalised", "16 bits"):
        trained = ValueScale.of(SCALES[trained_as])
        for part in (0, 0.2):
            dark = np.full((7, 4, 4, 1), trained.low + part * (255 / 65535) * (trained.high - trained.low), np.float32)
            assert other_scale(dark, trained) is None


@pytest.mark.parametrize("trained_as", ["floats of bytes", "16 bits"])
@pytest.mark.parametrize("given_as", ["bytes", "normalised", "-1 to 1"])
def test_one_picture_of_another_scale_is_refused_where_it_can_be_no_other(trained_as, given_as):
    for picture in SCALES[given_as]:
        why = other_scale(picture[None], ValueScale.of(np.float32(SCALES[trained_as])))
        assert (why is None) == ((trained_as, given_as) == ("floats of bytes", "bytes")), why


def test_values_that_a_filter_brought_a_little_below_0_are_taken():
    picture = np.linspace(-4, 250, 16, dtype=np.float32).reshape(1, 4, 4, 1)
    for trained in (ValueScale("float32", 0, 255), ValueScale("float32", 0, 4095)):
        assert other_scale(picture, trained) is None
    assert other_scale(np.full((1, 4, 4, 1), 9, np.uint16), ValueScale("float32", 0, 65535)) is None  # a dark one
    for features in (np.array([[[[-0.5, 3.0]]]], np.float32), np.array([[[[3, 9]]]], np.uint8)):
        assert other_scale(features, ValueScale("float32", 0, 65535)) is None


@given(st.integers(0, 255), st.integers(1, 4))
def test_bytes_are_taken_whatever_their_brightness(most, count):
    images = np.zeros((count, 4, 4, 1), np.float32)
    images[0, 0, 0] = most
    if most != 1:
        assert other_scale(images, BYTES) is None
    if most > 1 or count == 1:
        assert other_scale(images.astype(np.uint8), BYTES) is None


@given(st.integers(0, 10**6), st.integers(1, 60))
def test_features_of_the_same_kind_are_taken(seed, count):
    generator = np.random.default_rng(seed)
    trained = ValueScale.of(generator.standard_t(3, (60, 1, 1, 4)).astype(np.float32))
    assert other_scale(generator.standard_t(3, (count, 1, 1, 4)).astype(np.float32), trained) is None


def test_a_model_refuses_and_its_file_keeps_the_scale(tmp_path):
    images, labels = DIGITS, np.arange(50) % 2
    model = adam_mp.train(
        "mlp", (images, labels), epochs=1, cores=1, validation=0, quiet=True, run_dir=tmp_path / "r"
    ).model
    assert load(tmp_path / "r").values == model.values == ValueScale("uint8", 0, 255)
    assert model.predict(images).shape == (50, 2)
    np.testing.assert_array_equal(model.predict(images), model.predict(images.astype(np.float64)))
    for other in (SHARES, images > 127):
        with pytest.raises(DataError, match=r"were bytes from 0 to 255; write 255 \* images"):
            model.predict(other)
        with pytest.raises(DataError, match="were bytes"):
            model.evaluate(other, labels)


def test_bytes_of_0_and_1_are_a_scale_of_their_own():
    masks = (DIGITS > 127).astype(np.uint8)
    scale = ValueScale.of(masks)
    for same in (masks, masks > 0, masks.astype(np.float32)):
        assert other_scale(same, scale) is None
    assert other_scale(DIGITS, scale) is not None


def test_a_model_of_before_guesses_by_its_deviation(tmp_path):
    before = make()
    write_model(tmp_path / "m.safetensors", before)
    assert load(tmp_path / "m.safetensors").values is None
    ones = np.full((2, *before.network.input_shape), 0.5, np.float32)
    if max(before.deviation) > 10:
        with pytest.raises(DataError, match="write 255"):
            before.predict(ones)
    else:
        before.predict(ones)


@pytest.mark.parametrize("trained_as", ["normalised", "-1 to 1", "16 bits"])
def test_one_image_that_may_have_another_scale_is_warned_of(trained_as, monkeypatch):
    model = make()
    shape = model.network.input_shape
    model = dataclasses.replace(model, values=ValueScale("float32", *_range(SCALES[trained_as])))
    one = np.linspace(*_range(SHARES), int(np.prod(shape)), dtype=np.float32).reshape(1, *shape)
    own = np.linspace(*_range(SCALES[trained_as]), int(np.prod(shape)), dtype=np.float32).reshape(1, *shape)
    if trained_as == "16 bits":
        with pytest.raises(DataError, match="write 255"):
            model.predict(one)
        one = 255 * one
    with pytest.warns(UserWarning, match="if they are not meant so, scale the images"):
        model.predict(one)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(own)
        with pytest.raises(UserWarning):
            model.predict(one)
        warnings.simplefilter("always")

        def closed(*_, **__):
            raise ValueError("I/O operation on closed file")

        monkeypatch.setattr(warnings, "showwarning", closed)
        assert model.predict(one).shape == (1, model.network.classes)


def _range(images):
    return float(images.min()), float(images.max())


def test_files_of_0_and_1_are_told_and_as_a_part_refused_unless_such_were_trained_on(tmp_path, capsys, trained):
    masks = [(image > 127).astype(np.uint8) for image in make_images(4, 1)[0]]
    (tmp_path / "blank.png").write_bytes(encode(np.full_like(masks[0], 9), "PNG"))
    (tmp_path / "mask.png").write_bytes(encode(masks[0], "PNG"))
    assert main(["predict", str(trained.run_dir), str(tmp_path / "mask.png"), str(tmp_path / "blank.png")]) == 0
    told = capsys.readouterr().err
    assert "mask.png: the largest value is 1 of 255, and those to train on went up to 2" in told
    assert "blank.png: the picture has one colour alone\n" in told
    for number, mask in enumerate(masks):
        for part, image in (("train", 255 * mask), ("test", mask)):
            path = tmp_path / "data" / part / str(number % 2) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(image, "PNG"))
    given = ["train", "--data", str(tmp_path / "data"), "--cores", "1", "--epochs", "1", "--model", "mlp"]
    assert main([*given, "--run-dir", str(tmp_path / "run")]) == 2
    assert "data: of those looked at, the largest value is 1 of 255" in capsys.readouterr().err
    assert almost_black(masks[0], ValueScale("uint8", 0, 1)) is None


def test_test_images_of_another_scale_are_refused():
    labels = np.arange(50) % 2
    floats = DIGITS.astype(np.float32)
    for train, test in ((SHARES, floats), (floats, SHARES), (SHARES, (SHARES - 0.13) / 0.31)):
        with pytest.raises(DataError, match="test images of arrays: the images are float32"):
            adam_mp.load_data((train, labels, test, labels))
    adam_mp.load_data((SHARES, labels, SHARES[:5], labels[:5]))


def test_bright_pictures_are_normalised_pictures():
    trained = ValueScale.of(SCALES["normalised"])
    bright = (np.maximum(SHARES, 0.5) - 0.13) / 0.31
    assert bright.min() > 0
    assert other_scale(bright, trained) is None

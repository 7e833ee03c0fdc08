"""Grey images of 16 bits: one scale for all images of a data set, kept in the model."""

from __future__ import annotations

import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

import adam_mp
from adam_mp.cli.main import main
from adam_mp.data.reading import picture_form
from adam_mp.data.reading.decoding import brightest, decode
from adam_mp.data.reading.faults import SampleError
from adam_mp.data.reading.loading import load_data
from adam_mp.data.reading.options import LoadOptions
from tests.data.pictures_on_disk import encode

pytestmark = pytest.mark.usefixtures("forks")


def deep(level, height=20, width=20):
    buffer = io.BytesIO()
    Image.fromarray(np.full((height, width), level, np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


def write(folder, levels, more=()):
    for number, level in enumerate(levels):
        place = folder / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.png").write_bytes(deep(level))
    for number, content in enumerate(more):
        (folder / "a" / f"more{number}.png").write_bytes(content)
    return folder


def test_twice_the_value_is_twice_as_bright():
    levels = (0, 100, 250, 256, 300, 1000, 4095, 20_000, 40_000, 65_535)
    for white in (None, 65_535.0, 4095.0, 511.0):
        options = LoadOptions(white=white)
        seen = [int(decode(deep(level), 1, None, options)[3, 3, 0]) for level in levels]
        expected = [min(255, level * 255 / (white or 65_535)) for level in levels]
        np.testing.assert_allclose(seen, expected, atol=0.5)
        assert decode(deep(4000), 3, None, options).shape == (20, 20, 3)


@pytest.mark.parametrize(
    ("levels", "white"),
    [((5, 200), 255), ((5, 300), 511), ((90, 4095), 4095), ((10, 4096), 8191), ((1, 65_535), 65_535), ((0, 0), 65_535)],
)
def test_the_first_images_say_what_is_white(tmp_path, levels, white):
    data = load_data(write(tmp_path, levels))
    assert data.options.white == white
    (line,) = data.notices
    assert f"values 0 to {white:,} become 0 to 255" in line
    again = load_data(tmp_path, LoadOptions(white=1000))
    assert again.options.white == 1000


def test_other_depths_are_told(tmp_path):
    byte = encode(np.full((20, 20), 9, np.uint8), "PNG")
    data = load_data(write(tmp_path / "mixed", (90, 4000), [byte]))
    assert "1 of the first 3 images have 8 bits, the others 16" in data.notices[1]
    colour = bytearray(encode(np.full((20, 20, 3), 9, np.uint8), "PNG"))
    colour[24] = 16
    colour[29:33] = struct.pack(">I", zlib.crc32(colour[12:29]))
    data = load_data(write(tmp_path / "colour", (90, 4000), [bytes(colour)]))
    assert any("colour images of 16 bits" in line for line in data.notices)
    assert brightest(byte) is None
    plain = tmp_path / "plain"
    for name in "ab":
        (plain / name).mkdir(parents=True)
        (plain / name / "x.png").write_bytes(byte)
    assert (load_data(plain).options.white, load_data(plain).notices) == (None, ())


def test_deeper_images_that_come_later_are_seen(tmp_path):
    levels = [90 + number for number in range(300)]
    levels[170] = 5000  # of the first 64 that are looked at, none is this
    data = load_data(write(tmp_path, levels))
    assert (data.options.white, data.options.clipped) == (8191, False)
    assert "images with larger values are left out" in data.notices[0]


def test_an_image_above_a_white_that_nobody_chose_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(picture_form, "_MORE_DEEP", 10)
    levels = [90 + number for number in range(300)]
    levels[171] = 5000
    data = load_data(write(tmp_path, levels))
    assert (data.options.white, data.options.clipped) == (511, False)
    with pytest.raises(SampleError, match=r"values above white \(see --white\), which was measured"):
        decode(deep(512), 1, None, data.options)
    assert decode(deep(511), 1, None, data.options)[0, 0, 0] == 255
    kept = LoadOptions.kept(data.options.as_dict())
    assert (kept.white, kept.clipped) == (511, False)
    chosen = load_data(tmp_path, LoadOptions(white=511)).options
    assert chosen.clipped
    assert decode(deep(512), 1, None, chosen)[0, 0, 0] == 255
    again = load_data(tmp_path, LoadOptions(white=511, clipped=False)).options  # of a run that is resumed
    assert not again.clipped


def test_a_kept_white_cuts_nothing_off_though_the_first_images_are_not_deep(tmp_path):
    for name in ("red", "green"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.fromarray(np.full((8, 8), 50, np.uint8)).save(tmp_path / name / f"{number}.png")
    assert not load_data(tmp_path, LoadOptions(white=511, clipped=False)).options.clipped
    assert load_data(tmp_path, LoadOptions(white=511)).options.clipped


def test_a_run_leaves_out_what_is_above_its_white(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(picture_form, "_MORE_DEEP", 10)
    levels = [200 * (number % 2) + 9 for number in range(300)]
    levels[171] = 5000
    write(tmp_path / "c", levels)
    run = tmp_path / "run"
    adam_mp.train("mlp", str(tmp_path / "c"), epochs=1, cores=1, quiet=True, run_dir=run, validation=0)
    for epochs in (1, 2):
        if epochs == 2:
            adam_mp.train("mlp", str(tmp_path / "c"), epochs=2, resume=run, quiet=True)
        (line,) = (run / "bad_samples.jsonl").read_text().splitlines()
        assert (json.loads(line)["fault"], json.loads(line)["number"]) == ("ABOVE_WHITE", 150 + sorted(
            map(str, range(1, 300, 2))).index("171"))  # fmt: skip
    capsys.readouterr()
    bright = str(tmp_path / "c" / "b" / "171.png")
    assert main(["predict", str(run), bright]) == 2
    assert "has values above white" in capsys.readouterr().err
    assert main(["predict", str(run), bright, "--white", "511"]) == 0


@pytest.mark.parametrize("part", ["val", "test"])
def test_parts_that_are_not_trained_on_say_what_is_white_too(tmp_path, part):
    write(tmp_path / part, (90, 4000))
    for name in "ab":
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "x.png").write_bytes(encode(np.full((20, 20), 9, np.uint8), "PNG"))
    data = load_data(tmp_path)
    assert data.options.white == 4095
    assert "values 0 to 4,095 become 0 to 255" in data.notices[0]


def test_a_model_without_deep_images_does_not_guess_what_is_white(capsys, trained, tmp_path):
    for level in (0, 3000, 60_000):
        (tmp_path / f"{level}.png").write_bytes(deep(level))
    assert main(["predict", str(trained.run_dir), str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert [line.split("/")[-1].split(":")[0] for line in captured.out.splitlines()] == ["0.png", "60000.png"]
    assert "whose largest value is 3,000" in captured.err
    assert "--white 4095 or --white 65535" in captured.err
    assert main(["predict", str(trained.run_dir), str(tmp_path), "--white", "4095"]) == 0
    for digit in range(3):
        (tmp_path / "digits" / str(digit)).mkdir(parents=True)
        (tmp_path / "digits" / str(digit) / "x.png").write_bytes(deep(2000 * digit))
    capsys.readouterr()
    assert main(["evaluate", str(trained.run_dir), "--data", str(tmp_path / "digits")]) == 0
    assert "values 0 to 4,095 become 0 to 255" in capsys.readouterr().err


@pytest.mark.parametrize(("trained", "tested"), [(50_000, 200), (200, 50_000), (4000, 3000), (4000, 0)])
def test_parts_of_other_depths_are_told(tmp_path, trained, tested):
    for part, level in (("train", trained), ("test", tested)):
        write(tmp_path / part, (level // 2, level))
    told = [line for line in load_data(tmp_path).notices if "to test on" in line]
    assert told == [
        f"grey images of 16 bits to test on have other values than those to train on: the largest seen is {tested:,}, "
        f"of those {trained:,}; if they have more or fewer bits, scale them alike"
    ] * (abs(trained - tested) > 10_000)

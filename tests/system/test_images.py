"""Training on image files: bad ones are left out and named, no sample is lost with a killed process."""

from __future__ import annotations

import json
import os
import random
import signal
import struct

import numpy as np
import pytest
from PIL import Image

import adam_mp
from adam_mp.compute.model import load
from tests.data.pictures_on_disk import COLOURS, encode, pixels, write_folder, write_shard
from tests.system.conftest import metrics, wait_until

TRAIN, VALIDATION, TEST = 300, 30, 60
SIZE = ("--image-size", "28", "--model", "mnist", "--batch-size", "8", "--lr", "0.02")
EPOCHS = 60  # of a run of two replicas, so that both have a part in it


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three classes in train/, val/ and test/."""
    place = tmp_path_factory.mktemp("pictures")
    for part, count in (("train", TRAIN), ("val", VALIDATION), ("test", TEST)):
        write_folder(place / part, count // 3)
    return place


@pytest.fixture
def spoiled(tmp_path):
    """A folder in which eight files are bad, each in its own way, and two are not images at all."""
    place = tmp_path / "spoiled"
    paths = write_folder(place, 60)
    red = place / "red"
    (red / "0000.jpg").write_bytes(b"")
    (red / "0001.jpg").write_bytes(b"no image")
    (red / "0002.jpg").write_bytes(encode(pixels("red", 2))[:-150])
    bomb = bytearray(encode(pixels("red", 3)))
    at = bomb.index(b"\xff\xc0") + 5
    bomb[at : at + 4] = struct.pack(">HH", 60_000, 60_000)
    (red / "0003.jpg").write_bytes(bomb)
    (red / "0004.jpg").unlink()
    (red / "0004.jpg").mkdir()
    (red / "notes.txt").write_text("hello")
    (red / "0005.jpg").unlink()
    (red / "0005.jpg").symlink_to("/etc/hostname")
    (place / "green" / "0006.jpg").write_bytes(random.Random(1).randbytes(3000))
    return place, paths


def test_bad_images_are_left_out_counted_and_named(here, tmp_path, spoiled):
    place, _ = spoiled
    ended = here("train", "--data", str(place), *SIZE, "--epochs", "2", "--validation", "0", "--cores", "2",
                 "--run-dir", str(tmp_path / "run"), "--json")  # fmt: skip
    assert ended.code == 0, ended.err
    summary = ended.summary
    lines = [json.loads(line) for line in (tmp_path / "run" / "bad_samples.jsonl").read_text().splitlines()]
    found = {os.path.relpath(line["sample"], place): line["fault"] for line in lines}
    assert found == {
        "red/0000.jpg": "EMPTY", "red/0001.jpg": "NOT_AN_IMAGE", "red/0002.jpg": "DAMAGED", "red/0003.jpg": "TOO_LARGE",
        "red/0005.jpg": "LINK", "red/notes.txt": "NOT_AN_IMAGE", "green/0006.jpg": "NOT_AN_IMAGE",
    }  # fmt: skip
    # 180 files, less the folder and the link, which were never samples; five of the others cannot be read.
    assert summary["images_trained"] == 2 * 173
    assert summary["images_failed"] == 2 * 5
    assert summary["bad_samples"] == 7
    assert [row["images_failed"] for row in metrics(tmp_path / "run")] == [5, 5]
    assert "5 failed (7 bad files, see bad_samples.jsonl)" not in ended.out
    assert "10 failed (7 bad files, see bad_samples.jsonl)" in ended.err


def test_shards_train(here, tmp_path):
    samples = [
        {"jpg": encode(pixels(name, number)), "cls": str(label).encode()}
        for number in range(30)
        for label, name in enumerate(COLOURS)
    ]
    for part in range(3):
        write_shard(tmp_path / f"photos-{part}.tar", samples[30 * part : 30 * part + 30])
    ended = here("train", "--data", str(tmp_path / "photos-{0..2}.tar"), *SIZE, "--epochs", "2",
                 "--validation", "0.1", "--cores", "2", "--run-dir", str(tmp_path / "run"), "--json")  # fmt: skip
    assert ended.code == 0, ended.err
    assert ended.summary["images_trained"] == 2 * 81
    assert ended.summary["bad_samples"] == 0


def test_strict_stops_at_the_first(here, tmp_path, spoiled):
    place, _ = spoiled
    ended = here("train", "--data", str(place), *SIZE, "--strict", "--run-dir", str(tmp_path / "run"))
    assert ended.code == 2
    assert "without --strict it is left out" in ended.err
    (place / "red" / "notes.txt").unlink()
    (place / "red" / "0005.jpg").unlink()
    ended = here("train", "--data", str(place), *SIZE, "--strict", "--run-dir", str(tmp_path / "run"))
    assert ended.code == 2
    assert "mend or remove it, or leave out --strict" in ended.err
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    "cache", [pytest.param("0", marks=pytest.mark.long), "200KB", pytest.param("60%", marks=pytest.mark.long)]
)
def test_killed_data_servers_lose_no_sample(start, tmp_path, folder, cache):
    run = start("train", "--data", str(folder), *SIZE, "--epochs", "3", "--cores", "2", "--data-servers", "2",
                "--cache", cache, "--run-dir", str(tmp_path / "run"), "--json")  # fmt: skip
    for number in (0, 1, 0):
        os.kill(run.wait_for_child(f"data server {number}"), signal.SIGKILL)
        wait_until(lambda: "killed by SIGKILL" in run.read(run.err), "the notice")
    ended = run.finish()
    assert ended.code == 0, ended.err
    assert [row["images_trained"] for row in metrics(tmp_path / "run")] == [TRAIN] * 3
    assert ended.summary["images_failed"] == 0
    assert ended.summary["test_accuracy"] > 0.9


@pytest.mark.long
def test_a_run_resumed_in_the_middle_of_an_epoch_trains_what_is_left(start, tmp_path, folder):
    arguments = ("--data", str(folder), *SIZE, "--epochs", "40", "--cores", "1", "--cache", "300KB")
    run = start("train", *arguments, "--run-dir", str(tmp_path / "run"), "--json")
    wait_until(lambda: len(metrics(tmp_path / "run")) >= 2, "two epochs")
    run.signal(signal.SIGTERM)
    assert run.finish().code == 143
    done = len(metrics(tmp_path / "run"))
    ended = start("train", "--resume", str(tmp_path / "run"), "--epochs", str(done + 2), "--json").finish()
    assert ended.code == 0, ended.err
    assert [row["images_trained"] for row in metrics(tmp_path / "run")] == [TRAIN] * (done + 2)
    whole = start("train", *arguments, "--run-dir", str(tmp_path / "whole"), "--lr", "0.02", "--json")
    wait_until(lambda: len(metrics(tmp_path / "whole")) >= done + 2, "as many epochs")
    whole.signal(signal.SIGTERM)
    whole.finish()
    # The same pictures in the same order: with one worker, the same losses, but for how a cut epoch's are summed.
    losses = [row["loss"] for row in metrics(tmp_path / "whole")[: done + 2]]
    assert [row["loss"] for row in metrics(tmp_path / "run")] == pytest.approx(losses, rel=1e-11)


@pytest.mark.long
def test_the_figures_of_an_epoch_are_of_all_machines(start, tmp_path, spoiled):
    place, _ = spoiled
    run = start("train", "--data", str(place), *SIZE, "--epochs", str(EPOCHS), "--validation", "0", "--cores", "2",
                "--servers", "1", "--replicas", "2", "--run-dir", str(tmp_path / "run"), "--json")  # fmt: skip
    ended = run.finish()
    assert ended.code == 0, ended.err
    assert (ended.summary["images_trained"], ended.summary["images_failed"]) == (EPOCHS * 173, EPOCHS * 5)
    rows = metrics(tmp_path / "run")
    assert {(row["images_trained"], row["images_failed"], row["images_skipped"]) for row in rows} == {(173, 5, 0)}
    helper = metrics(tmp_path / "run" / "replica-1")
    assert {(row["images_trained"], row["images_failed"]) for row in helper} <= {(173, 5)}


def test_a_model_of_photographs_is_evaluated_and_predicts_names(here, tmp_path, folder):
    ended = here("train", "--data", str(folder), *SIZE, "--augment", "crop=0.5,reflect=0.5,colour=0.05",
                 "--epochs", "3", "--run-dir", str(tmp_path / "run"), "--json")  # fmt: skip
    assert ended.code == 0, ended.err
    assert ended.summary["test_accuracy"] > 0.9
    evaluated = here("evaluate", str(tmp_path / "run"), "--data", str(folder), "--json")
    assert evaluated.summary["accuracy"] == pytest.approx(ended.summary["test_accuracy"])
    predicted = here("predict", str(tmp_path / "run"), str(folder / "test" / "green" / "0003.jpg"), "--json")
    assert predicted.summary["top"][0]["name"] == "green"


def test_photographs_are_trained_and_predicted_as_viewers_show_them(here, tmp_path):
    """Half of the images are stored on their side, with the mark that has viewers turn them."""
    place = tmp_path / "phone"
    for kind, name in enumerate(("above", "below")):
        (place / name).mkdir(parents=True)
        for number in range(60):
            shown = np.random.default_rng([kind, number]).integers(0, 60, (30, 40, 3), dtype=np.uint8)
            shown[15 * kind : 15 * kind + 15] += 180
            image, exif = Image.fromarray(shown), Image.Exif()
            if number % 2:
                image, exif[0x0112] = image.transpose(Image.Transpose.ROTATE_90), 6  # stored on its side
            image.save(place / name / f"{number:02}.jpg", quality=95, exif=exif)
    command = ("train", "--data", str(place), "--image-size", "32", "--model", "lenet", "--batch-size", "8", "--lr",
               "0.05", "--augment", "none", "--validation", "0.2", "--epochs", "6", "--json")  # fmt: skip
    ended = here(*command, "--run-dir", str(tmp_path / "run"))
    assert ended.code == 0, ended.err
    assert ended.summary["validation_accuracy"] == 1
    files = [str(place / name / f"{number:02}.jpg") for name in ("above", "below") for number in (0, 1)]
    predicted = here("predict", str(tmp_path / "run"), *files, "--top", "1")
    assert [line.split(": ")[1].split()[0] for line in predicted.out.splitlines()] == ["above"] * 2 + ["below"] * 2
    shown = here("show-data", "--data", str(place), "--image-size", "32", "--augment", "none", "--count", "8",
                 "--output", str(tmp_path / "seen.png"))  # fmt: skip
    assert shown.code == 0, shown.err
    stored = here(*command, "--ignore-orientation", "--run-dir", str(tmp_path / "stored"))
    assert stored.code == 0, stored.err
    assert load(tmp_path / "stored").reading["turned"] is False


def test_what_decided_how_training_read_decides_it_afterwards(here, tmp_path):
    for part, count in (("train", 30), ("test", 6)):
        for path in write_folder(tmp_path / "away" / part, count):
            linked = tmp_path / "linked" / path.relative_to(tmp_path / "away")
            linked.parent.mkdir(parents=True, exist_ok=True)
            linked.symlink_to(path)
    run = str(tmp_path / "run")
    ended = here("train", "--data", str(tmp_path / "linked"), *SIZE, "--epochs", "1", "--follow-links",
                 "--pixel-limit", "5000", "--validation", "0", "--run-dir", run, "--json")  # fmt: skip
    assert ended.code == 0, ended.err
    evaluated = here("evaluate", run, "--json")
    assert evaluated.code == 0, evaluated.err
    assert evaluated.summary["images"] == 18
    large = tmp_path / "large.png"
    large.write_bytes(encode(pixels("red", 1, 100, 100), "PNG"))
    refused = here("predict", run, str(large))
    assert refused.code == 2
    assert "100x100 = 10,000 pixels, more pixels than the limit of 5,000; --pixel-limit raises it" in refused.err
    assert here("predict", run, str(large), "--pixel-limit", "10000").code == 0
    none = here("evaluate", run, "--pixel-limit", "100")
    assert none.code == 2
    assert "48x40 = 1,920 pixels, more pixels than the limit of 100" in none.err


def test_what_goes_during_the_run_is_left_out(start, tmp_path):
    place = tmp_path / "pictures"
    paths = write_folder(place, 60)
    run = start("train", "--data", str(place), *SIZE, "--epochs", "30", "--validation", "0", "--cache", "0",
                "--run-dir", str(tmp_path / "run"), "--json")  # fmt: skip
    wait_until(lambda: metrics(tmp_path / "run"), "an epoch")
    for path in paths[::10]:
        path.unlink()
    ended = run.finish()
    assert ended.code == 0, ended.err
    assert ended.summary["bad_samples"] == 18
    rows = metrics(tmp_path / "run")
    assert rows[-1]["images_failed"] == 18
    assert all(row["images_trained"] + row["images_failed"] == 180 for row in rows)


@pytest.mark.parametrize("cache", ["60%", "0"])
def test_what_the_survey_decodes_is_not_decoded_again(here, tmp_path, folder, cache):
    ended = here("train", "--data", str(folder), *SIZE, "--epochs", "2", "--cores", "2", "--cache", cache, "--run-dir",
                 str(tmp_path / "run"), "--json")  # fmt: skip
    assert ended.code == 0, ended.err
    rows = metrics(tmp_path / "run")
    decoded, hits = (sum(row[name] for row in rows) for name in ("images_decoded", "cache_hits"))
    wanted = 2 * TRAIN + VALIDATION  # the second validation comes after the last row
    assert decoded + hits == wanted
    assert decoded == (VALIDATION if cache == "60%" else wanted)  # all training images are surveyed


def test_an_object_that_draws_is_asked_anew_in_each_epoch(tmp_path, forks):
    """Its draws depend on seed, epoch and sample alone, so that a deterministic run can be repeated."""

    class Drawing:
        targets = [number % 2 for number in range(60)]

        def __len__(self):
            return 60

        def __getitem__(self, index):
            return np.random.randint(0, 100, (8, 8)).astype(np.uint8) + 100 * (index % 2), index % 2

    settings = {"epochs": 3, "quiet": True, "validation": 0, "consistency": "deterministic", "cores": 2}
    runs = [
        adam_mp.train("mlp", Drawing(), data_servers=servers, run_dir=tmp_path / str(servers), seed=3, **settings)
        for servers in (1, 2)
    ]
    for run in runs:
        assert (run.images_trained, run.cache_hits) == (180, 0)
        assert run.images_decoded >= 180
    for name, weights in runs[0].model.weights.items():
        np.testing.assert_array_equal(weights, runs[1].model.weights[name])

from __future__ import annotations

import gc
import os
import signal

import numpy as np
import pytest
from PIL import Image

from adam_mp.data import survey as surveys
from adam_mp.data.normalization import Normalization, colour_row, combine_rows
from adam_mp.data.reading.loading import LoadOptions, load_data
from adam_mp.data.reading.sources import RecordSource, SourceSpec, pickle_items
from adam_mp.errors import DataError
from adam_mp.memory.segment import live_segments
from adam_mp.training.data import surveying
from adam_mp.training.data.data_plan import plan_data
from adam_mp.training.data.kept_images import KeptImages
from adam_mp.training.data.surveying import survey_data
from adam_mp.training.settings.events import Notice
from adam_mp.training.settings.settings import make_settings
from tests.data.pictures_on_disk import write_folder
from tests.data.reading.test_loading import Items

pytestmark = pytest.mark.usefixtures("forks")


def own_segments():
    gc.collect()  # an earlier test may have left a segment in a circle of references, and a dying child may hold one
    return sorted((segment.purpose, segment.size) for segment in live_segments() if segment.owner == os.getpid())


def survey(data, processes=2, known=None, items=b"", cache=None):
    events = []
    source = SourceSpec(3, (37, 37), datasets=items)
    training = np.arange(len(data.train))
    found = survey_data(data, training, source, 7 / 8, known, processes, 1, 60.0, events.append, cache)
    assert events[-1].done == events[-1].total
    return found


def test_rows_sum_to_the_moments_of_all_pixels():
    generator = np.random.default_rng(1)
    images = [generator.integers(0, 256, (*generator.integers(2, 30, 2), 3), dtype=np.uint8) for _ in range(20)]
    images[3][..., 0] //= 4
    measured = combine_rows(np.stack([colour_row(image) for image in images]), 3)
    pixels = np.concatenate([image.reshape(-1, 3) for image in images]).astype(float)
    np.testing.assert_allclose(measured.mean, pixels.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(measured.deviation, pixels.std(axis=0), rtol=1e-4)
    directions = np.array(measured.directions)
    np.testing.assert_allclose(directions @ directions.T, np.cov(pixels.T, bias=True), rtol=1e-3, atol=1)


def test_it_is_the_same_with_any_number_of_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(surveying, "_IMAGES_A_PROCESS", 5)
    write_folder(tmp_path, 6, height=50, width=70)
    (tmp_path / "blue" / "0002.jpg").write_bytes(b"no image")
    data = load_data(tmp_path, LoadOptions("32"))
    one, three = survey(data, 1), survey(data, 3)
    assert one.normalization == three.normalization
    np.testing.assert_array_equal(one.examples, three.examples)
    assert len(one.examples) == len(one.labels) == 17
    assert one.examples.shape[1:] == (32, 32, 3)
    assert one.decode_seconds > 0
    assert one.stored_pixels == 37 * 52
    assert one.normalization.mean[0] == pytest.approx(80, abs=15)
    known = Normalization((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), 7.0)
    assert survey(data, 1, known).normalization == known


def test_objects_are_surveyed():
    data = load_data(Items(), LoadOptions("32"))
    assert survey(data, items=pickle_items(data.parts)).normalization.mean == pytest.approx([80.0] * 3)


def test_an_image_that_kills_its_process_is_left_out():
    class Deadly(Items):
        def __getitem__(self, index):
            if index == 80:
                os.abort()
            return np.full(self.shape, 80, np.uint8), self.targets[index]

    data = load_data(Deadly(100), LoadOptions("32"))
    with KeptImages() as kept:
        found = survey(data, items=pickle_items(data.parts), cache=kept.make(1 << 20, 3 * 37 * 37, None, 0))
    assert sorted(found.kept.tolist()) == [sample for sample in range(100) if sample != 80]
    assert found.normalization.mean == pytest.approx([80.0] * 3)
    assert len(found.examples) == min(100, surveys.examples_of(found.examples.shape[1:])) - 1  # the bad one


def test_no_image_is_blamed_for_a_kill_from_outside(tmp_path):
    class Once(Items):
        def __getitem__(self, index):
            if index == 80 and not (tmp_path / "killed").exists():
                (tmp_path / "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return np.full(self.shape, 80, np.uint8), self.targets[index]

    data = load_data(Once(100), LoadOptions("32"))
    (tmp_path / "killed").unlink(missing_ok=True)
    with KeptImages() as kept:
        found = survey(data, items=pickle_items(data.parts), cache=kept.make(1 << 20, 3 * 37 * 37, None, 0))
    assert len(found.kept) == 100


@pytest.mark.parametrize("room", [1 << 20, 20_000, 0])
def test_what_is_decoded_is_kept_as_far_as_there_is_room(tmp_path, room):
    write_folder(tmp_path, 20, height=50, width=70)
    (tmp_path / "blue" / "0002.jpg").write_bytes(b"no image")
    data, before = load_data(tmp_path, LoadOptions("32")), own_segments()
    with KeptImages() as kept:
        found = survey(data, cache=kept.make(room, 3 * 37 * 37, None, 0))
        places = np.zeros(data.count, np.int64)
        places[found.kept] = found.places
        cache = kept.take()
        cache.adopt(places, 0)
    source = RecordSource(SourceSpec(3, (37, 37)), data.train.table)
    for sample in found.kept.tolist():
        begin, height, width = cache.find(sample)
        pixels = cache.pixels[begin : begin + 3 * height * width].reshape(height, width, 3)
        np.testing.assert_array_equal(pixels, source.pixels(sample))
    expected = {1 << 20: 59, 0: 0}
    assert len(found.kept) == expected.get(room, len(found.kept)) < 60
    cache.close()
    assert own_segments() == before


def test_kept_images_that_no_run_takes_are_freed():
    before = own_segments()
    with KeptImages() as kept:
        kept.make(1 << 20, 1000, None, 0)
        assert len(own_segments()) == len(before) + 1
    assert own_segments() == before


def test_when_nothing_can_be_read(tmp_path):
    write_folder(tmp_path, 2)
    data = load_data(tmp_path)
    for path in tmp_path.rglob("*.jpg"):
        path.unlink()
    with pytest.raises(DataError, match=r"none of 6 images of .* can be read; 6 of 6: there is no such file \(.*jpg\)"):
        survey(data)


def test_a_survey_looks_at_a_part_of_many_images():
    samples = surveys.surveyed_samples(np.arange(100_000), surveys.MOST_IMAGES, 1)
    assert len(set(samples.tolist())) == surveys.MOST_IMAGES


@pytest.mark.parametrize("lost", [["blue"], ["blue", "green"]])
def test_a_class_that_cannot_be_read_is_told_and_one_class_alone_refused(tmp_path, lost):
    for path in write_folder(tmp_path, 3):
        if path.parent.name in lost:
            path.write_bytes(b"GIF89a")
    data = load_data(tmp_path, LoadOptions("32"))
    assert any("no image looked at first of the class blue" in notice for notice in data.notices)
    told = []
    source, training = SourceSpec(3, (37, 37)), np.arange(9)

    def look():
        survey_data(data, training, source, 1.0, None, 1, 1, 60.0, told.append, None)

    if len(lost) == 1:
        look()
        assert "none of 3 images of the class blue can be read; 3 of 3: not an image" in told[-1].text
    else:
        with pytest.raises(DataError, match=r"images of one class alone .*: none of 6 images of the class blue, green"):
            look()


def test_images_that_are_all_the_same_are_told(tmp_path):
    sheet = Image.new("RGBA", (16, 16), (200, 0, 0, 0))  # transparent: white, whatever its colour
    for name, colour in (("a", (200, 0, 0, 0)), ("b", (0, 0, 200, 0))):
        (tmp_path / name).mkdir()
        for number in range(2):
            sheet.paste(colour, (0, 0, 16, 16))
            sheet.save(tmp_path / name / f"{number}.png")
    varied = np.random.default_rng(0).integers(0, 9, (6, 4, 4)).astype(np.uint8)
    same = (tmp_path, (np.full((6, 4, 4), 7, np.uint8), [0, 1] * 3))
    for source, told in ((same[0], 4), (same[1], 6), ((varied, [0, 1] * 3), 0)):
        events = []
        plan_data(load_data(source), make_settings({"validation": 0}), None, 1, events.append)
        lines = [event.text for event in events if isinstance(event, Notice)]
        assert [line.split(" of ")[0] for line in lines] == ([f"{told} images"] if told else [])
        assert all(line.endswith("that were looked at are all the same") for line in lines)


def test_classes_that_are_mirror_images_are_told_if_images_are_mirrored(tmp_path):
    for name in ("left", "right"):
        for number in range(3):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.new("RGB", (70, 70), (90 * number, 0, 0)).save(tmp_path / name / f"{number}.png")
    for augment, told in (("auto", True), ("crop=0.5", False)):
        events = []
        settings = make_settings({"validation": 0, "augment": augment})
        plan_data(load_data(tmp_path), settings, None, 1, events.append)
        lines = [event.text for event in events if isinstance(event, Notice)]
        said = "mirror images of the class left are trained as left, and may look like right: to mirror none, give "
        assert lines == ([f"{said}augment crop=0.08,colour=0.1"] if told else [])


def test_a_class_of_blank_images_is_told(tmp_path):
    random = np.random.default_rng(0)
    for number in range(4):
        for name, alpha in (("cat", 255), ("dog", 255), ("eel", 0)):
            (tmp_path / name).mkdir(exist_ok=True)
            sheet = Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8))
            sheet.putalpha(alpha)
            sheet.save(tmp_path / name / f"{number}.png")
    events = []
    plan_data(load_data(tmp_path), make_settings({"validation": 0}), None, 1, events.append)
    (line,) = [event.text for event in events if isinstance(event, Notice)]
    assert line == f"all images of the class eel of {tmp_path} that were looked at are the same"

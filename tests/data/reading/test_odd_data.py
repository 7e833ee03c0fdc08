"""Whatever people give is understood as it is meant, or refused in a line; nothing is understood wrongly."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from adam_mp.data.reading.decoding import decode, image_size
from adam_mp.data.reading.faults import SampleError
from adam_mp.data.reading.loading import load_data
from adam_mp.data.reading.options import LoadOptions
from adam_mp.errors import AdamError, DataError
from adam_mp.training.data.understanding import check_data
from tests.data.reading.odd_data import draw_folder, draw_labels, draw_shards

DRAW = {"folders": draw_folder, "labels": draw_labels, "shards": draw_shards}


def compare(kind: str, random: Random) -> bool:
    """Compare the truth of drawn data with what is understood; tell whether they were understood at all."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name).resolve() / "a" / "b" / "data"
        root.mkdir(parents=True)
        drawn = DRAW[kind](random, root)
        source = str(drawn.source) if isinstance(drawn.source, Path) else drawn.source
        refused = ""
        try:
            found = check_data({"data": source, "validation": 0.0}, lambda event: None)
        except AdamError as error:
            refused = str(error)
    if refused:
        assert drawn.odd or drawn.truth is None, refused
        assert "\n" not in refused
        return False
    assert drawn.truth is not None, f"{drawn.said}: {found}"
    if drawn.truth == {}:
        return True
    understood = {
        part: {name: count for name, count in zip(found.class_names, counts, strict=True) if count}
        for part, counts in found.class_counts.items()
    }
    for part in ("train", "validation", "test"):
        assert understood[part] == drawn.truth.get(part, {}), (part, drawn, found)
        assert found.parts[part] == sum(drawn.truth.get(part, {}).values())
    assert kind == "labels" or found.files_left_out == drawn.left_out, (drawn, found)
    return True


@pytest.mark.parametrize("kind", DRAW)
@given(st.integers(0, 2**32))
def test_a_few_are_understood_as_they_are_meant_or_refused(kind, seed):
    compare(kind, Random(seed))


@pytest.mark.long
@pytest.mark.parametrize("kind", DRAW)
def test_500_are_understood_as_they_are_meant_or_refused(kind):
    understood = sum(compare(kind, Random(seed)) for seed in range(500))
    assert 100 < understood < 500


@settings(max_examples=100)
@given(
    st.integers(2, 90), st.integers(5, 60), st.integers(5, 60), st.sampled_from((1, 3, 4)),
    st.permutations(range(4)),
)  # fmt: skip
def test_axes_in_another_order_are_refused(count, height, width, channels, order):
    assume(len({count, height, width}) == 3)
    # Height and width can be exchanged, and one channel can stand anywhere, without being seen.
    assume(order.index(1) < order.index(2))
    images = np.zeros((count, height, width, channels), np.uint8).transpose(order)
    refused, shape = "", (0, 0, 0)
    try:
        shape = load_data((images, np.arange(count) % 2)).image_shape
    except DataError as error:
        refused = str(error)
    if refused:
        assert list(order) != [0, 1, 2, 3], refused
        if "; write images" in refused:
            line = refused.rpartition("; write images")[2]
            assert eval(f"images{line}.shape", {"images": images}) == (count, height, width, channels)
    else:
        assert shape == (height, width, channels) or (channels == 1 and order[0] == 0)


MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"), "JPEG": ("L", "RGB", "CMYK"), "BMP": ("1", "L", "P", "RGB"),
    "WEBP": ("RGB", "RGBA"), "GIF": ("L", "P"), "TIFF": ("L", "RGB", "I;16", "F"),
}  # fmt: skip


@settings(max_examples=150)
@given(
    st.sampled_from([(kind, mode) for kind, modes in MODES.items() for mode in modes]), st.integers(0, 8),
    st.integers(0, 2**16), st.sampled_from((1, 3)),
)  # fmt: skip
def test_pixels_are_those_that_a_viewer_shows(kind_and_mode, mark, seed, channels):
    kind, mode = kind_and_mode
    image = drawn_image(mode, seed)
    exif = Image.Exif()
    if mark:
        exif[0x0112] = mark
    out = io.BytesIO()
    image.save(out, kind, **({"exif": exif} if kind in ("PNG", "JPEG", "WEBP") else {}), **sharp(kind))
    content = out.getvalue()
    options = LoadOptions(white=65535.0)
    try:
        found = decode(content, channels, None, options)
    except SampleError:
        assert kind in ("GIF", "TIFF")
        return
    shown = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert image_size(content, options)[:2] == found.shape[:2] == (shown.height, shown.width)
    if mode == "I;16":
        wanted = np.asarray(shown).astype(float)[..., None] / 257
    else:
        if shown.has_transparency_data:
            shown = Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown.convert("RGBA"))
        wanted = np.asarray(shown.convert("L" if channels == 1 else "RGB"), float).reshape(found.shape)
    assert np.abs(found - wanted).mean() < (6 if kind in ("JPEG", "WEBP") else 1)


def sharp(kind: str) -> dict[str, object]:
    return {"JPEG": {"quality": 98, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})


def drawn_image(mode: str, seed: int) -> Image.Image:
    """Return an image of one light quarter among dark ones, so that its turns differ."""
    generator = np.random.default_rng(seed)
    height, width = generator.integers(8, 20, 2).tolist()
    values = generator.integers(0, 60, (height, width, 3))
    values[: height // 2, : width // 2] += 180
    if mode in ("I;16", "F"):
        return Image.fromarray((values[..., 0] * 257).astype(np.uint16 if mode == "I;16" else np.float32))
    image = Image.fromarray(values.astype(np.uint8))
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(generator.integers(0, 255, (height, width), dtype=np.uint8)))
    return image.convert(mode)

"""Images and labels of which numpy makes another array than is meant are refused wherever arrays are taken."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import adam_mp
from adam_mp.errors import DataError
from tests.compute.test_model import make

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3)).astype(np.uint8)
LABELS = np.arange(6) % 2
PICTURES = [Image.fromarray(pixels) for pixels in PIXELS]


@pytest.mark.parametrize("mode", ["P", "PA", "LA", "RGBA", "CMYK", "YCbCr", "HSV", "LAB"])
@pytest.mark.parametrize("form", [list, tuple])
def test_pictures_whose_arrays_have_other_values_are_refused(mode, form):
    last = PICTURES[5].convert("L").convert("P") if mode == "PA" else PICTURES[5]
    pictures = form([*PICTURES[:5], last.convert(mode)])
    for refused in (
        lambda: adam_mp.load_data((pictures, LABELS)),
        lambda: make((4, 4, 3)).predict(pictures),
        lambda: make().predict(pictures[5]),
    ):
        with pytest.raises(DataError, match=r"Pillow in mode .*; write image\.convert\('RGB'\), or 'L'"):
            refused()


@pytest.mark.parametrize("mode", ["L", "RGB", "1", "F"])
def test_pictures_whose_arrays_are_what_is_seen_are_taken(mode):
    pictures = [picture.convert(mode) for picture in PICTURES]
    assert len(adam_mp.load_data((pictures, LABELS)).train) == 6
    shape = (4, 4, 3 if mode == "RGB" else 1)
    assert make(shape).predict(pictures).shape == (6, 3)
    assert make(shape).predict(pictures[0]).shape == (1, 3)


def test_masked_values_are_refused():
    masked = np.ma.masked_array(PIXELS, PIXELS > 200)
    for images in (masked, list(masked)):
        with pytest.raises(DataError, match="images are masked"):
            adam_mp.load_data((images, LABELS))
        with pytest.raises(DataError, match="images are masked"):
            make((4, 4, 3)).predict(images)
    assert make((4, 4, 3)).predict(np.ma.masked_array(PIXELS, False)).shape == (6, 3)
    with pytest.raises(DataError, match="labels are masked"):
        make((4, 4, 3)).evaluate(PIXELS, np.ma.masked_array(LABELS, LABELS == 1))
    with pytest.raises(DataError, match="labels are of type complex128"):
        make((4, 4, 3)).evaluate(PIXELS, LABELS + 0j)

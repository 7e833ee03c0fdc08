from __future__ import annotations

import ast
import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from adam_mp.data.reading.decoding import decode, image_size, reduce
from adam_mp.data.reading.faults import Fault, SampleError
from adam_mp.data.reading.options import LoadOptions
from tests.data.pictures_on_disk import encode, pixels

PICTURE = pixels("green", 3, 60, 90)


def fault_of(content, limit=10**7):
    with pytest.raises(SampleError) as caught:
        decode(content, 3, None, LoadOptions(pixel_limit=limit))
    return caught.value.fault


@pytest.mark.parametrize(("kind", "error"), [("PNG", 0), ("BMP", 0), ("JPEG", 12), ("WEBP", 30)])
def test_formats(kind, error):
    out = decode(encode(PICTURE, kind), 3, None)
    assert out.shape == PICTURE.shape
    assert out.flags.c_contiguous
    assert np.abs(out.astype(int) - PICTURE).max() <= error
    grey = decode(encode(PICTURE, kind), 1, None)
    assert grey.shape == (60, 90, 1)
    assert np.abs(grey[..., 0].astype(int) - np.asarray(Image.fromarray(PICTURE).convert("L"))).max() <= error + 1
    assert image_size(encode(PICTURE, kind)) == (60, 90, 3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_modes_of_png(mode):
    source = Image.fromarray(PICTURE)
    image = source.convert("L").convert("I;16") if mode == "I;16" else source.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    out = decode(buffer.getvalue(), 3, None)
    assert out.shape == (60, 90, 3)
    assert image_size(buffer.getvalue())[2] == (1 if mode in ("1", "L", "LA", "I;16") else 3)


def test_other_kinds_of_jpeg():
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).convert("CMYK").save(buffer, "JPEG")
    assert np.abs(decode(buffer.getvalue(), 3, None).astype(int) - PICTURE).mean() < 12
    grey = encode(PICTURE[..., 1])
    assert image_size(grey) == (60, 90, 1)
    assert decode(grey, 3, None).shape == (60, 90, 3)
    progressive = encode(PICTURE, progressive=True)
    np.testing.assert_allclose(decode(progressive, 3, None).astype(int), decode(encode(PICTURE), 3, None), atol=3)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 100), st.integers(1, 100))
def test_images_are_made_smaller_but_not_too_small(height, width, rows, columns):
    image = np.full((height, width, 3), 77, np.uint8)
    out = reduce(image, (rows, columns))
    assert (out == 77).all()
    if max(height, width) > 4 * min(height, width):
        return  # its ends are cut off
    for side, least, now in zip((height, width), (rows, columns), out.shape[:2], strict=True):
        assert now >= min(side, least)
        assert now <= side
    ratio = min(out.shape[0] / rows, out.shape[1] / columns)
    assert ratio < 1.26 or min(out.shape[:2]) == min(height, width)
    assert out.shape[0] / out.shape[1] == pytest.approx(height / width, rel=0.6 / min(out.shape[:2]))


def test_a_large_photograph_is_decoded_small():
    large = encode(pixels("red", 1, 900, 1200))
    out = decode(large, 3, (100, 100))
    assert 100 <= min(out.shape[:2]) <= 125
    whole = decode(large, 3, None)
    expected = np.asarray(Image.fromarray(whole).resize((out.shape[1], out.shape[0]), Image.Resampling.BOX))
    assert np.abs(out.astype(int) - expected).mean() < 4


def test_what_is_no_image_is_told_apart():
    whole = encode(PICTURE)
    assert fault_of(b"") == Fault.EMPTY
    assert fault_of(b"hello, I am a text") == Fault.NOT_AN_IMAGE
    assert fault_of(whole[: len(whole) // 2]) == Fault.DAMAGED
    assert fault_of(whole[:400] + bytes(50) + whole[450:]) == Fault.DAMAGED
    assert fault_of(whole, limit=60 * 90 - 1) == Fault.TOO_LARGE
    png = encode(PICTURE, "PNG")
    assert fault_of(png[: len(png) // 2]) == Fault.DAMAGED
    assert fault_of(png, limit=60 * 90 - 1) == Fault.TOO_LARGE
    assert fault_of(encode(PICTURE, "GIF")) == Fault.NOT_AN_IMAGE


def test_a_bomb_is_refused_before_it_goes_off():
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    assert fault_of(png + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))) == Fault.TOO_LARGE
    jpeg = bytearray(encode(PICTURE))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 60_000, 60_000)
    assert fault_of(bytes(jpeg)) == Fault.TOO_LARGE


def test_the_limit_of_pixels_is_the_one_limit(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # of the image library, which refuses twice as many
    for kind in ("PNG", "BMP", "WEBP", "JPEG"):
        content = encode(PICTURE, kind)
        assert decode(content, 3, None).shape == PICTURE.shape
        assert image_size(content) == PICTURE.shape
        with pytest.raises(SampleError, match="90x60 = 5,400 pixels, more pixels than the limit of 5,399; --pixel"):
            decode(content, 3, None, LoadOptions(pixel_limit=5399))
        with pytest.raises(SampleError, match="more pixels than the limit"):
            image_size(content, LoadOptions(pixel_limit=5399))
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).convert("CMYK").save(buffer, "JPEG")
    assert decode(buffer.getvalue(), 3, None).shape == PICTURE.shape
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_reasons_are_told_apart():
    jpeg = bytearray(encode(PICTURE))
    at = jpeg.index(b"\xff\xc0")
    twelve, lossless = bytearray(jpeg), bytearray(jpeg)
    twelve[at + 4] = 12
    lossless[at + 1] = 0xC3
    assert fault_of(bytes(twelve)) == Fault.UNSUPPORTED
    assert fault_of(bytes(lossless)) == Fault.UNSUPPORTED
    bmp = bytearray(encode(PICTURE, "BMP"))
    bmp[28] = 64  # bits a pixel
    assert fault_of(bytes(bmp)) == Fault.UNSUPPORTED
    assert (
        fault_of(b"BM is how this text begins, and it is long enough for a header of such a file") == Fault.NOT_AN_IMAGE
    )
    assert fault_of(b"RIFF\x10\0\0\0WAVEfmt ") == Fault.NOT_AN_IMAGE


def test_want_of_memory_is_no_damage(monkeypatch):
    def refuse(*_):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", refuse)
    with pytest.raises(MemoryError):
        decode(encode(PICTURE, "PNG"), 3, None)


def test_mutated_files_crash_nothing():
    script = Path(__file__).parents[1] / "fuzz_decoding.py"
    ended = subprocess.run(
        [sys.executable, str(script), "2000", "7"], capture_output=True, text=True, timeout=100, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert sum(ast.literal_eval(ended.stdout).values()) == 2000


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "a pointer of Git LFS"),
        (b"\n<!DOCTYPE html><html>404</html>", "a web page, not an image"), (b"GIF89a" + bytes(9), "a GIF image, not"),
        (b"II*\0" + bytes(9), "a TIFF image"), (b"MM\0*" + bytes(9), "a TIFF image"), (b"<svg/>", "an SVG image"),
        (b"\0\0\0\x1cftypavif", "a HEIC or AVIF image"), (b"text", "not an image of a known kind"),
        (bytes(99), "not an image of a known kind"),
    ],
)  # fmt: skip
def test_what_is_in_place_of_an_image_is_said(content, said):
    with pytest.raises(SampleError, match=f"^{said}") as caught:
        decode(content, 3, None)
    assert caught.value.fault is Fault.NOT_AN_IMAGE

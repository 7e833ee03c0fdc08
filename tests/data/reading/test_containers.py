"""Notes, profiles, thumbnails and unknown chunks decide nothing: whole pixels are used, whatever lies beside them."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from adam_mp.data.reading.containers import (
    PNG_BEGIN,
    is_rare_jpeg,
    is_webp,
    orientation,
    webp_size,
    without_notes,
)
from adam_mp.data.reading.decoding import decode, image_size
from adam_mp.data.reading.faults import Fault, SampleError
from adam_mp.data.reading.options import LoadOptions
from tests.data.pictures_on_disk import encode, pixels

PICTURE = pixels("green", 3, 40, 56)
SQUARES = np.zeros((40, 56, 3), np.uint8)  # JPEG keeps it nearly as it is, and no turn of it looks like another
SQUARES[:16, :24], SQUARES[24:, :8] = 250, 120
STORED = LoadOptions(turned=False)
KINDS = ("JPEG", "PNG", "WEBP")


def exif(mark, more=0, order="<", kind=3):
    """An EXIF block with an orientation and `more` bytes behind it."""
    value = struct.pack(f"{order}HHIHH", 0x0112, 3, 1, mark, 0)
    if kind == 4:
        value = struct.pack(f"{order}HHII", 0x0112, 4, 1, mark)
    begin = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, 8)
    return begin + struct.pack(f"{order}H", 1) + value + bytes(4 + more)


def marked(picture, kind, block):
    options = {"quality": 95} if kind != "PNG" else {}
    return encode(picture, kind, exif=b"Exif\0\0" + block, **options)


def chunk(kind, data, checksum=None):
    checksum = zlib.crc32(kind + data) if checksum is None else checksum
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def after_header(png, *chunks):
    return png[:33] + b"".join(chunks) + png[33:]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mark", range(1, 9))
def test_images_are_turned_as_viewers_show_them(kind, mark):
    content = marked(SQUARES, kind, exif(mark))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB"))
    assert orientation(content) == mark
    out = decode(content, 3, None)
    assert out.shape == expected.shape
    assert out.flags.c_contiguous
    assert np.abs(out.astype(int) - expected).mean() < 3
    assert image_size(content) == expected.shape
    assert decode(content, 3, None, STORED).shape == image_size(content, STORED) == SQUARES.shape


@pytest.mark.parametrize("kind", KINDS)
def test_a_turned_image_is_shrunk_to_the_size_that_is_shown(kind):
    large = np.kron(SQUARES, np.ones((10, 10, 1), np.uint8))  # 400x560, shown as 560x400
    content = marked(large, kind, exif(6))
    out = decode(content, 3, (112, 80))
    assert out.shape[0] > out.shape[1]
    assert 112 <= out.shape[0] < 141
    expected = np.rot90(large, -1)
    whole = np.asarray(Image.fromarray(expected).resize((out.shape[1], out.shape[0]), Image.Resampling.BOX))
    assert np.abs(out.astype(int) - whole).mean() < 8


@pytest.mark.parametrize(
    ("block", "mark"),
    [
        (exif(6, order=">"), 6),
        (exif(6, kind=4), 6),
        (exif(6, more=60_000), 6),
        (exif(0), 1),
        (exif(9), 1),
        (b"", 1),
        (exif(6)[:15], 1),
        (b"XX" + exif(6)[2:], 1),
        (exif(6)[:4] + b"\xff\xff\xff\xff" + exif(6)[8:], 1),
        (exif(6)[:8] + b"\xff\xff" + bytes(60_000), 1),
    ],
)
def test_damaged_marks_are_no_marks(block, mark):
    for kind in KINDS:
        content = marked(SQUARES, kind, block) if block else encode(SQUARES, kind)
        assert orientation(content) == mark
        assert decode(content, 3, None).shape == ((56, 40, 3) if mark == 6 else (40, 56, 3))
    png = encode(SQUARES, "PNG")
    assert orientation(after_header(png, chunk(b"eXIf", exif(6)))) == 6
    assert orientation(png[:-12] + chunk(b"eXIf", exif(6)) + png[-12:]) == 6
    assert orientation(after_header(png, chunk(b"eXIf", exif(6), checksum=1))) == 1


@given(st.binary(max_size=200), st.sampled_from([b"\xff\xd8", PNG_BEGIN, b"RIFF\0\0\0\0WEBP", b""]))
def test_any_bytes_have_a_mark_and_a_bare_form(content, begin):
    assert 1 <= orientation(begin + content) <= 8
    assert len(without_notes(begin + content)) <= len(begin + content) + 1
    is_rare_jpeg(begin + content)
    webp_size(begin + content)


def test_png_with_long_or_damaged_notes_is_read():
    long_text = PngInfo()
    long_text.add_text("workflow", "node " * 600_000, zip=True)
    long_text.add_itxt("more", "x" * 2_000_000, zip=True)
    plain = encode(PICTURE, "PNG")
    bomb = b"bomb\0\0" + zlib.compress(bytes(100_000_000))
    contents = {
        "texts": encode(PICTURE, "PNG", pnginfo=long_text),
        "profile": encode(PICTURE, "PNG", icc_profile=bytes(2_000_000)),
        "exif": encode(PICTURE, "PNG", exif=exif(1, more=3_000_000)),
        "bomb": after_header(plain, *[chunk(b"zTXt", bomb)] * 30),
        "many": after_header(plain, *[chunk(b"tEXt", b"a\0" + bytes(900_000))] * 80),
        "checksum": after_header(plain, chunk(b"tEXt", b"a\0b", 7), chunk(b"iCCP", b"a\0\0junk", 7)),
        "junk": after_header(plain, chunk(b"iTXt", b"\xff" * 99), chunk(b"pHYs", b""), chunk(b"gAMA", b"x")),
        "unknown": after_header(plain, chunk(b"abCd", bytes(100)), chunk(b"acTL", b""), chunk(b"fcTL", b"1")),
        "cut behind": plain[:-12] + chunk(b"tEXt", bytes(500))[:100],
        "behind": plain + bytes(5000),
    }
    for name, content in contents.items():
        np.testing.assert_array_equal(decode(content, 3, None), PICTURE, name)
        assert image_size(content) == PICTURE.shape
    transparent = np.dstack([PICTURE, np.full(PICTURE.shape[:2], 90, np.uint8)])
    noted = after_header(encode(transparent, "PNG"), chunk(b"zTXt", bomb))
    np.testing.assert_array_equal(decode(noted, 3, None), decode(encode(transparent, "PNG"), 3, None))
    palette = io.BytesIO()
    Image.fromarray(PICTURE).quantize(20).save(palette, "PNG", transparency=3)
    noted = after_header(palette.getvalue(), chunk(b"zTXt", bomb))
    np.testing.assert_array_equal(decode(noted, 3, None), decode(palette.getvalue(), 3, None))


def test_other_formats_with_matter_beside_the_pixels_are_read():
    big = bytes(3_000_000)
    for kind in ("JPEG", "WEBP"):
        plain = decode(encode(PICTURE, kind), 3, None)
        for more in ({"icc_profile": big}, {"exif": exif(1, more=60_000)}, {"xmp": bytes(60_000)}):
            np.testing.assert_array_equal(decode(encode(PICTURE, kind, **more), 3, None), plain, str(more.keys()))
    webp = encode(PICTURE, "WEBP", exif=exif(1), xmp=b"x" * 99)
    cut = webp[:-60]  # within the last chunk
    assert is_webp(webp)
    np.testing.assert_array_equal(decode(cut, 3, None), decode(encode(PICTURE, "WEBP"), 3, None))
    unknown = webp + b"ABCD" + struct.pack("<I", 8) + bytes(8)
    np.testing.assert_array_equal(decode(unknown, 3, None), decode(webp, 3, None))
    bmp = encode(PICTURE, "BMP")
    np.testing.assert_array_equal(decode(bmp + big, 3, None), PICTURE)


def test_pixels_that_are_cut_are_still_damaged():
    for kind, more in (("PNG", {"icc_profile": bytes(9000)}), ("WEBP", {"exif": exif(1)})):
        content = encode(PICTURE, kind, **more)
        for share in (0.5, 0.8):
            with pytest.raises(SampleError) as caught:
                decode(encode(pixels("red", 1, 200, 300), kind)[: int(share * len(content))], 3, None)
            assert caught.value.fault is Fault.DAMAGED


def test_sizes_of_webp_are_read_from_the_header():
    for options in ({}, {"lossless": True}, {"exif": exif(1)}):
        assert webp_size(encode(PICTURE, "WEBP", **options)) == PICTURE.shape[:2]

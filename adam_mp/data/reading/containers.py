"""What JPEG, PNG and WebP files hold beside pixels: the EXIF block is found, notes and colour profiles are taken out.

Pixels do not depend on notes, so neither their length nor their contents may decide whether an image is read. The image
library refuses an image whose notes are long or damaged, or unpacks them first. It never sees them here.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

PNG_BEGIN = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"CgBI")
_WEBP_KEPT = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
_WEBP_NOTES = 0x2C  # flags of VP8X that announce a colour profile, EXIF and XMP
_MOST_ENTRIES = 1000  # of an EXIF block that are looked at; they are sorted, and the mark is among the first
_MARK = 0x0112
_SHORT, _LONG = 3, 4


def is_webp(content: bytes) -> bool:
    """Tell whether a file begins as WebP does."""
    return content[:4] == b"RIFF" and content[8:12] == b"WEBP"


def without_notes(content: bytes) -> bytes:
    """Return a PNG or WebP file with nothing but what its pixels need; any other content as it is."""
    if content.startswith(PNG_BEGIN):
        return _bare_png(content)
    return _bare_webp(content) if is_webp(content) else content


def orientation(content: bytes) -> int:
    """Return the EXIF orientation, 1 to 8, of a JPEG, PNG or WebP file; 1 if it has none, or a damaged one."""
    if content.startswith(b"\xff\xd8"):
        exif = _exif_of_jpeg(content)
    elif content.startswith(PNG_BEGIN):
        exif = _exif_of_png(content)
    elif is_webp(content):
        exif = next((content[begin:end] for kind, begin, end in _webp_chunks(content) if kind == b"EXIF"), b"")
    else:
        return 1
    return _mark_in(exif.removeprefix(b"Exif\0\0"))


def is_deep_grey(content: bytes) -> bool:
    """Tell whether a file is a PNG with grey values of 16 bits, without transparency."""
    return content.startswith(PNG_BEGIN) and content[24:26] == b"\x10\x00"


def is_deep_colour(content: bytes) -> bool:
    """Tell whether a file is a PNG of 16 bits in colour or with transparency; the image library keeps 8 bits."""
    return content.startswith(PNG_BEGIN) and content[24:26] in (b"\x10\x02", b"\x10\x04", b"\x10\x06")


def webp_size(content: bytes) -> tuple[int, int] | None:
    """Return (height, width) that a WebP file declares; None if its first chunk does not say."""
    kind, data = content[12:16], content[20:30]
    if len(data) < 10:
        return None
    if kind == b"VP8X":
        return int.from_bytes(data[7:10], "little") + 1, int.from_bytes(data[4:7], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(data[1:5], "little")
        return ((bits >> 14) & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", data[6:10])
        return height & 0x3FFF, width & 0x3FFF
    return None


def is_rare_jpeg(content: bytes) -> bool:
    """Tell whether a JPEG is of a kind that few programs read: lossless, hierarchical, or of more than 8 bits."""
    if not content.startswith(b"\xff\xd8"):
        return False
    for marker, begin, _ in _segments(content):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return marker not in (0xC0, 0xC1, 0xC2, 0xC9, 0xCA) or content[begin : begin + 1] != b"\x08"
    return False


def _segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, begin and end of its data) of the segments of a JPEG before its pixels."""
    at = 2
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:  # fills up
            at += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # has no data
            at += 2
        elif marker in (0xDA, 0xD9):
            return
        else:
            end = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
            if end < at + 4:
                return
            yield marker, at + 4, end
            at = end


def _exif_of_jpeg(content: bytes) -> bytes:
    for marker, begin, end in _segments(content):
        if marker == 0xE1 and content[begin : begin + 6] == b"Exif\0\0":
            return content[begin:end]
    return b""


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (kind, begin and end of its data) of each whole chunk of a PNG."""
    at = len(PNG_BEGIN)
    while at + 12 <= len(content):
        end = at + 8 + int.from_bytes(content[at : at + 4], "big")
        if end + 4 > len(content):
            return
        yield content[at + 4 : at + 8], at + 8, end
        at = end + 4


def _exif_of_png(content: bytes) -> bytes:
    for kind, begin, end in _png_chunks(content):
        if kind == b"eXIf":
            exif = content[begin:end]
            return exif if zlib.crc32(b"eXIf" + exif) == int.from_bytes(content[end : end + 4], "big") else b""
    return b""


def _bare_png(content: bytes) -> bytes:
    view, at = memoryview(content), len(PNG_BEGIN)
    kept: list[bytes | memoryview] = [PNG_BEGIN]
    bare, ended = True, False
    for kind, begin, end in _png_chunks(content):
        if kind in _PNG_KEPT:
            kept.append(view[begin - 8 : end + 4])
        else:
            bare = False
        at = end + 4
        if ended := kind == b"IEND":
            break
    if bare and (ended or at == len(content)):
        return content
    if (
        not ended and content[at + 4 : at + 8] in _PNG_KEPT
    ):  # a chunk that is cut: the image library says what is left of the image
        kept.append(view[at:])
    return b"".join(kept)


def _webp_chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (kind, begin and end of its data) of each whole chunk of a WebP file."""
    at = 12
    while at + 8 <= len(content):
        end = at + 8 + int.from_bytes(content[at + 4 : at + 8], "little")
        if end > len(content):
            return
        yield content[at : at + 4], at + 8, end
        at = end + (end & 1)


def _bare_webp(content: bytes) -> bytes:
    view, kept, at = memoryview(content), [], 12
    bare = True
    for kind, begin, end in _webp_chunks(content):
        if kind in _WEBP_KEPT:
            chunk = bytearray(view[begin - 8 : end])
            if kind == b"VP8X" and len(chunk) > 8:
                chunk[8] &= ~_WEBP_NOTES & 0xFF
            kept.append(bytes(chunk) + b"\0" * (len(chunk) & 1))
        else:
            bare = False
        at = end + (end & 1)
    rest = content[at : at + 4]
    if not kept or rest in _WEBP_KEPT or (bare and at >= len(content)):
        return content  # nothing to take out, or pixels that are cut
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + len(body).to_bytes(4, "little") + body


def _mark_in(exif: bytes) -> int:
    """Return the orientation in an EXIF block, which is a TIFF header and directory; 1 if it has none."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    try:
        if order is None or struct.unpack_from(f"{order}H", exif, 2)[0] != 42:
            return 1
        (at,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, at)
        for entry in range(min(count, _MOST_ENTRIES)):
            tag, kind, values = struct.unpack_from(f"{order}HHI", exif, at + 2 + 12 * entry)
            if tag == _MARK:
                if values != 1 or kind not in (_SHORT, _LONG):
                    return 1
                form = f"{order}H" if kind == _SHORT else f"{order}I"
                (mark,) = struct.unpack_from(form, exif, at + 2 + 12 * entry + 8)
                return mark if 1 <= mark <= 8 else 1
    except struct.error:
        pass  # cut short
    return 1

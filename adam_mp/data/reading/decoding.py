"""From the bytes of an image file to pixels, made as small as the caller allows, with a limit on the image's pixels.

simplejpeg (libjpeg-turbo) decodes JPEG: measured on 256-pixel photographs it takes 190 microseconds where Pillow takes
280 and OpenCV 230, and it can scale the image down while it decodes. Pillow decodes all other formats. Its readers are
called one by one, because `Image.open` has a limit of pixels of its own, which only a change for the whole process of a
user's program would raise.
"""

from __future__ import annotations

import io
import math
import warnings
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from adam_mp.data.reading.containers import is_deep_grey, is_rare_jpeg, is_webp, orientation, webp_size, without_notes
from adam_mp.data.reading.faults import REASONS, Fault, SampleError
from adam_mp.data.reading.options import WHITE, LoadOptions
from adam_mp.data.reading.read_only import for_kernels
from adam_mp.kernels.shrink import shrink

_WORTH_SHRINKING = 1.25  # images are shrunk by this factor or more, not by less
_LONGEST = 4.0  # an image's ratio of sides is at most so many times the pictures'; longer ends would fill the cache
_FASTER_BY = 2.0  # smallest factor by which JPEG decodes faster; it does so to a half, quarter or eighth alone
_COLOURS = {1: "GRAY", 3: "RGB"}
_MODES = {1: "L", 3: "RGB"}
_SIDEWAYS = 5  # EXIF orientations from here on exchange height and width
_USUAL = LoadOptions()
# Files of other kinds may have the name of an image: the bytes with which such a file begins, and what the file is.
_OTHERS = (
    (b"version https://git-lfs", "a pointer of Git LFS, whose file `git lfs pull` fetches"), (b"gif8", "a GIF image"),
    (b"ii*\0", "a TIFF image"), (b"mm\0*", "a TIFF image"), (b"<!doctype", "a web page"), (b"<html", "a web page"),
    (b"\0\0\0 ftyp", "a HEIC or AVIF image"), (b"\0\0\0\x1cftyp", "a HEIC or AVIF image"), (b"%pdf", "a PDF file"),
    (b"<svg", "an SVG image"),
)  # fmt: skip


def decode(content: bytes, channels: int, least: tuple[int, int] | None, options: LoadOptions = _USUAL) -> np.ndarray:
    """Return the image as uint8 [h, w, channels], `channels` 1 (grey) or 3 (red, green, blue).

    The image is turned as its EXIF orientation asks, if `options` say so, and shrunk, in its proportions, as long as it
    keeps at least the size `least` (height, width); with None it keeps its own size. Grey values of 16 bits are divided
    so that `options.white` becomes 255; larger ones become 255 too if `options` clip them. Raises SampleError if the
    content is not a whole image within the limits of `options`, MemoryError if there is not enough memory for it.
    """
    if not content:
        raise SampleError(Fault.EMPTY)
    mark = orientation(content) if options.turned else 1
    stored = (least[1], least[0]) if least is not None and mark >= _SIDEWAYS else least
    pixels = _decode_jpeg(content, channels, stored, options.pixel_limit) if simplejpeg.is_jpeg(content) else None
    if pixels is None:
        pixels = _decode_other(content, channels, options)
    return _turn(reduce(pixels, stored), mark)


def reduce(pixels: np.ndarray, least: tuple[int, int] | None) -> np.ndarray:
    """Return an image [h, w, c] shrunk, in its proportions, as far as `least` (height, width) allows.

    The ends of very long images are cut off before. None: the image is not shrunk.
    """
    pixels = _shorten(pixels, 1.0 if least is None else max(least) / min(least))
    return pixels if least is None else _fit(pixels, least)


def image_size(content: bytes, options: LoadOptions = _USUAL) -> tuple[int, int, int]:
    """Return (height, width, channels), read from the header alone; channels are 1 for grey, 3 for colour.

    Height and width are those of the image as it is turned. Raises SampleError if the content does not begin as an
    image does, or declares more pixels than the limit.
    """
    if not content:
        raise SampleError(Fault.EMPTY)
    with _opened(content, options.pixel_limit) as image:
        grey = image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I")
        sides = image.height, image.width
    if options.turned and orientation(content) >= _SIDEWAYS:
        sides = sides[1], sides[0]
    return (*sides, 1 if grey else 3)


def brightest(content: bytes, options: LoadOptions = _USUAL) -> int | None:
    """Return the largest value of a grey image of 16 bits; None for all others, and those that cannot be decoded."""
    if not is_deep_grey(content):
        return None
    try:
        with _opened(content, options.pixel_limit) as image:
            return int(np.asarray(image).max())
    except Exception:
        return None  # it is reported when it is to be trained


def _turn(pixels: np.ndarray, mark: int) -> np.ndarray:
    """Return an image [h, w, c] turned as the EXIF orientation `mark`, 1 to 8, asks."""
    if mark == 1:
        return pixels
    if mark >= _SIDEWAYS:
        pixels = pixels.swapaxes(0, 1)
    upside_down, mirrored = mark in (3, 4, 7, 8), mark in (2, 3, 6, 7)
    return np.ascontiguousarray(pixels[:: -1 if upside_down else 1, :: -1 if mirrored else 1])


def _decode_jpeg(content: bytes, channels: int, least: tuple[int, int] | None, limit: int) -> np.ndarray | None:
    """Return the pixels of a JPEG image, or None for the rare colour spaces that Pillow must decode."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError:
        return None
    _check_size(height, width, limit)
    if colours not in ("Gray", "YCbCr", "RGB"):
        return None
    smallest = {}
    if least is not None and (ratio := max(least[0] / height, least[1] / width)) < 1:
        smallest = {"min_height": math.ceil(ratio * height), "min_width": math.ceil(ratio * width)}
    try:
        factor = _FASTER_BY if smallest else 1
        pixels: np.ndarray = simplejpeg.decode_jpeg(content, _COLOURS[channels], min_factor=factor, **smallest)
    except ValueError:
        raise SampleError(Fault.UNSUPPORTED if is_rare_jpeg(content) else Fault.DAMAGED) from None
    return pixels


def _decode_other(content: bytes, channels: int, options: LoadOptions) -> np.ndarray:
    with _opened(content, options.pixel_limit) as image:
        try:
            if is_deep_grey(content):
                values, white = np.asarray(image), options.white or WHITE
                if not options.clipped and values.max(initial=0) > white:
                    raise SampleError(Fault.ABOVE_WHITE)
                image = Image.fromarray(_to_bytes(values, white))  # noqa: PLW2901
            pixels = np.asarray(opaque(image).convert(_MODES[channels]), np.uint8)
        except (MemoryError, SampleError):
            raise
        except Exception as error:
            # Pillow's decoders raise nearly anything for files made to break them.
            raise SampleError(_fault(error, content)) from None
    return np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], channels))


def _opened(content: bytes, limit: int) -> Image.Image:
    """Return the image in a file, whose header is read and whose pixels are not; raises SampleError."""
    reader = _reader_of(content)
    if reader is None:
        what = next((what for begin, what in _OTHERS if content[:64].lstrip().lower().startswith(begin)), "")
        raise SampleError(Fault.NOT_AN_IMAGE, f"{what}, {REASONS[Fault.NOT_AN_IMAGE]}" if what else "")
    if is_webp(content) and (size := webp_size(content)) is not None:
        _check_size(*size, limit)  # Pillow takes memory for the pixels as it reads the header
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd but readable files
            try:
                image: Image.Image = reader(io.BytesIO(without_notes(content)))
            except Image.DecompressionBombError:
                image = _large_webp(without_notes(content))
    except MemoryError:
        raise
    except Exception as error:
        fault = _fault(error, content)
        # Only two letters say that a file is BMP: a text may begin with them.
        unsure = content.startswith(b"BM") and fault is Fault.DAMAGED
        raise SampleError(Fault.NOT_AN_IMAGE if unsure else fault) from None
    _check_size(image.height, image.width, limit)
    return image


def _reader_of(content: bytes) -> Any:
    """Return Pillow's reader of a file, by the bytes with which it begins; None if there is none."""
    # Imported here: to start on data that are no images does not need them.
    if content.startswith(b"\x89PNG"):
        from PIL.PngImagePlugin import PngImageFile

        return PngImageFile
    if content.startswith(b"\xff\xd8\xff"):
        from PIL.JpegImagePlugin import JpegImageFile

        return JpegImageFile
    if content.startswith(b"BM"):
        from PIL.BmpImagePlugin import BmpImageFile

        return BmpImageFile
    if is_webp(content):
        from PIL.WebPImagePlugin import WebPImageFile

        return WebPImageFile
    return None


def _large_webp(content: bytes) -> Image.Image:
    """Return a WebP image of so many pixels that Pillow's own reader refuses it, whatever the limit here."""
    from PIL import _webp  # the decoder that Pillow's reader calls

    decoder = _webp.WebPAnimDecoder(content)
    (width, height), *_, mode = decoder.get_info()
    pixels, _ = decoder.get_next()
    return Image.frombuffer("RGB" if mode == "RGBX" else mode, (width, height), pixels, "raw", mode, 0, 1)


def _check_size(height: int, width: int, limit: int) -> None:
    if height * width > limit:
        raise SampleError(
            Fault.TOO_LARGE, f"the image has {width}x{height} = {height * width:,} pixels, more pixels than the limit "
            f"of {limit:,}; --pixel-limit raises it",
        )  # fmt: skip


def _fault(error: Exception, content: bytes) -> Fault:
    """Say what is wrong with a file that begins as an image does, from the error of the image library."""
    if isinstance(error, Image.DecompressionBombError):
        return Fault.GUARDED
    rare = "nsupported" in str(error) or content[12:16] == b"CgBI" or is_rare_jpeg(content)
    return Fault.UNSUPPORTED if rare else Fault.DAMAGED


def _to_bytes(values: np.ndarray, white: float) -> np.ndarray:
    """Return grey values of 16 bits as uint8, of the same shape: `white` and all above it become 255."""
    table = np.minimum(np.rint(np.arange(65536) * (255 / white)), 255).astype(np.uint8)
    out: np.ndarray = table[np.clip(values, 0, 65535)]
    return out


def opaque(image: Image.Image) -> Image.Image:
    """Return an image without transparency, on white."""
    if image.has_transparency_data:
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image


def _shorten(pixels: np.ndarray, shape: float) -> np.ndarray:
    """Cut the ends off an image whose ratio of long to short side is more than `_LONGEST` times `shape`.

    `shape` is the same ratio of the pictures.
    """
    height, width, _ = pixels.shape
    longest = math.ceil(_LONGEST * shape * min(height, width))
    if max(height, width) <= longest:
        return pixels
    top, left = max(0, (height - longest) // 2), max(0, (width - longest) // 2)
    return np.ascontiguousarray(pixels[top : top + longest, left : left + longest])


def _fit(pixels: np.ndarray, least: tuple[int, int]) -> np.ndarray:
    height, width, channels = pixels.shape
    ratio = min(height / least[0], width / least[1])
    if ratio < _WORTH_SHRINKING:
        return pixels
    out = np.empty((max(round(height / ratio), least[0]), max(round(width / ratio), least[1]), channels), np.uint8)
    shrink(for_kernels(np.ascontiguousarray(pixels)), out, np.empty(width * channels, np.float32))
    return out

"""`adam-mp predict`: classify image files with a trained model."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from adam_mp.cli.options import Parser, add_common, add_reading, add_views, parse, reading_of
from adam_mp.compute.model import Model, load
from adam_mp.data.normalization import is_blank, looks_inverted
from adam_mp.data.pictures import picture_of
from adam_mp.data.reading.decoding import brightest
from adam_mp.data.reading.faults import REASONS, Fault, SampleError
from adam_mp.data.reading.image_kinds import is_dropping
from adam_mp.data.reading.options import WHITE, LoadOptions
from adam_mp.data.reading.records import WHOLE_FILE, read_part
from adam_mp.errors import DataError, NetworkError, SettingsError, refusal
from adam_mp.process.output import notice, one_line, standard_output
from adam_mp.report.text import percent


def run(arguments: Sequence[str]) -> int:
    """Classify image files, and all files of folders; return 2 if one of them could not be read, else 0."""
    parser = Parser(prog="adam-mp predict", description="Classify JPEG, PNG, BMP and WebP files of any size.")
    parser.add_argument("run", metavar="RUN", help="run folder or model file")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="image files; or folders, for all files below them")
    parser.add_argument(
        "--top", metavar="N", type=int, default=3, help="classes to print, most probable first (default: 3)"
    )
    parser.add_argument(
        "--invert", choices=("auto", "yes", "no"), default="auto",
        help="exchange light and dark; auto does so for grey images whose background is light where that of all "
        "training images is dark, or the other way round (default: auto)",
    )  # fmt: skip
    add_views(parser)
    add_reading(parser, ("pixel_limit", "ignore_orientation", "white"))
    parser.add_argument("--json", action="store_true", help="print one JSON object a line, one an image")
    add_common(parser)
    values = parse(parser, arguments)
    if values.top < 1:
        raise SettingsError(f"--top is {values.top}; expected at least 1")
    model = load(values.run)
    model.check_files()
    model.check_views(values.views)
    options = reading_of(Path(values.run), model, values)
    code = 0

    def fail(name: str, error: DataError) -> None:
        nonlocal code
        code = error.exit_code
        _show_failure(name, error, values.json)

    for name in _files(values.images, fail):
        try:
            pixels, inverted = read_image(Path(name), model, values.invert, options)
        except DataError as error:
            fail(name, error)
        else:
            _show(name, inverted, model.probabilities(pixels[None], values.views)[0], model, values.top, values.json)
    return code


def _files(names: Sequence[str], fail: Callable[[str, DataError], None]) -> Iterator[str]:
    """Yield the files that are given, and in place of each folder the files in and below it, sorted by their paths.

    `fail` gets the name of each folder that cannot be listed or has no files, and the error to show.
    """
    for name in names:
        if not os.path.isdir(name):
            yield name
            continue
        below: list[str] = []
        unlisted: list[OSError] = []
        for folder, inside, files in os.walk(name, onerror=unlisted.append):
            inside[:] = [each for each in inside if not is_dropping(each)]
            below += [os.path.join(folder, each) for each in files if not is_dropping(each)]
        for error in unlisted:
            fail(error.filename, DataError(f"{error.filename}: cannot be listed: {refusal(error)}"))
        if not below and not unlisted:
            fail(name, DataError(f"{name} is a folder without files; give image files, or a folder that has some"))
        yield from sorted(below)


def _show(name: str, inverted: bool, row: np.ndarray, model: Model, top: int, as_json: bool) -> None:
    best = np.argsort(-row, kind="stable")[:top].tolist()
    names = [model.class_names[index] if index < len(model.class_names) else None for index in best]
    if as_json:
        found = [
            {"class": index, **({"name": said} if said is not None else {}), "probability": float(row[index])}
            for index, said in zip(best, names, strict=True)
        ]
        standard_output().answer(json.dumps({"image": name, "inverted": inverted, "top": found}))
    else:
        classes = "  ".join(
            f"{index if said is None else one_line(said)} {percent(float(row[index]))}"
            for index, said in zip(best, names, strict=True)
        )
        standard_output().answer(f"{one_line(name)}: {classes}{'  (inverted)' if inverted else ''}")


def _show_failure(name: str, error: DataError, as_json: bool) -> None:
    if as_json:
        standard_output().answer(json.dumps({"image": name, "error": str(error)}))
    notice(f"error: {error}")


def read_image(path: Path, model: Model, invert: str, options: LoadOptions) -> tuple[np.ndarray, bool]:
    """Return (pixels, whether they were inverted).

    `pixels` float32 [h, w, c], from 0 to 255, are cut and scaled as for evaluation, but not normalised. Raises
    NetworkError if the network takes no pictures, DataError if the file cannot be read.
    """
    height, width, channels = model.network.input_shape
    if channels not in (1, 3) or (height, width) == (1, 1):
        raise NetworkError(
            f"the network takes {height}x{width}x{channels}, which is no picture; use the library's predict"
        )
    try:
        content = read_part(path, 0, WHOLE_FILE, options.byte_limit)
        _check_depth(path, content, options)
        pixels = picture_of(content, (height, width, channels), model.keep, options)
    except SampleError as error:
        raise DataError(f"{path}: {error}") from None
    except MemoryError:
        raise DataError(f"{path}: {REASONS[Fault.NO_MEMORY]}") from None
    background = float(np.median(pixels[[0, 0, -1, -1], [0, -1, 0, -1]]))
    # Only grey images: the corners of a colour photograph are seldom a background.
    even = model.reading.get("even_background", True)  # earlier versions did not look
    if is_blank(pixels):
        white = "; transparent parts are laid on white" if background == 255 else ""
        notice(f"{path}: the picture has one colour alone{white}")
    elif (doubt := model.doubt_of(pixels)) is not None:
        notice(f"{path}: {doubt}")
    opposite = channels == 1 and even and looks_inverted(background, model.fill) and not is_blank(pixels)
    if invert == "yes" or (invert == "auto" and opposite):
        return 255 - pixels, True
    return pixels, False


def _check_depth(path: Path, content: bytes, options: LoadOptions) -> None:
    """Raise DataError for a grey image of 16 bits that may use fewer, if no such images were trained on.

    Nothing says then which value is white; one image alone may be a dark one.
    """
    largest = brightest(content, options) if options.white is None else None
    if largest and largest <= WHITE / 2:
        bits = (1 << largest.bit_length()) - 1
        raise DataError(
            f"{path}: a grey image of 16 bits whose largest value is {largest:,}; the model was trained on none, so "
            f"which value is white is not known: give --white, such as --white {bits} or --white {WHITE:.0f}"
        )

"""`adam-mp predict`."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from adam_mp.cli.options import Parser, add_common, parse
from adam_mp.compute.model import Model, load
from adam_mp.errors import DataError, NetworkError, SettingsError
from adam_mp.report.text import percent

_MODES = {1: "L", 3: "RGB"}


def run(arguments: Sequence[str]) -> int:
    """Classify image files."""
    parser = Parser(prog="adam-mp predict", description="Classify PNG, JPEG and other image files of any size.")
    parser.add_argument("run", metavar="RUN", help="run folder or model file")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="image files")
    parser.add_argument(
        "--top", metavar="N", type=int, default=3, help="classes to print, most probable first (default: 3)"
    )
    parser.add_argument(
        "--invert", choices=("auto", "yes", "no"), default="auto",
        help="exchange light and dark; auto does so for grey images whose background is light where the training "
        "images' is dark, or the other way round (default: auto)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object a line, one an image")
    add_common(parser)
    values = parse(parser, arguments)
    if values.top < 1:
        raise SettingsError(f"--top is {values.top}; expected at least 1")
    model = load(values.run)
    pictures = [read_image(Path(name), model, values.invert) for name in values.images]
    probabilities = model.predict(np.stack([pixels for pixels, _ in pictures]))
    for name, (_, inverted), row in zip(values.images, pictures, probabilities, strict=True):
        best = np.argsort(-row, kind="stable")[: values.top]
        if values.json:
            top = [{"class": int(index), "probability": float(row[index])} for index in best]
            print(json.dumps({"image": name, "inverted": inverted, "top": top}))
        else:
            classes = "  ".join(f"{index} {percent(float(row[index]))}" for index in best)
            print(f"{name}: {classes}{'  (inverted)' if inverted else ''}")
    return 0


def read_image(path: Path, model: Model, invert: str) -> tuple[np.ndarray, bool]:
    """Return (pixels uint8 [h, w, c] in the network's size, whether they were inverted)."""
    height, width, channels = model.network.input_shape
    if channels not in _MODES or (height, width) == (1, 1):
        raise NetworkError(
            f"the network takes {height}x{width}x{channels}, which is no picture; use the library's predict"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                opaque = _on_paper(image) if image.has_transparency_data else image
                fitted = opaque.convert(_MODES[channels]).resize((width, height), Image.Resampling.LANCZOS)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; expected an image file") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path} is not an image that can be read: {error}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{path} declares too many pixels to be decoded safely: {error}") from None
    pixels = np.asarray(fitted, np.uint8).reshape(height, width, channels)
    background = float(np.median(pixels[[0, 0, -1, -1], [0, -1, 0, -1]]))
    # Grey only: colour photographs have no background to speak of.
    opposite = channels == 1 and abs(background - model.fill) > abs(255 - background - model.fill) + 64
    if invert == "yes" or (invert == "auto" and opposite):
        return 255 - pixels, True
    return pixels, False


def _on_paper(image: Image.Image) -> Image.Image:
    """Lay a picture with transparent parts on white: ink on nothing is meant as ink on paper."""
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))

"""The contact sheet: one picture that shows images beside their augmented pictures, with labels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from adam_mp.process.output import one_line
from adam_mp.training.data.preview import Preview

_SMALLEST, _LARGEST = 96, 256  # pixels of a tile
_GAP, _LINE = 8, 16
_PAPER, _INK, _WARNING = (255, 255, 255), (0, 0, 0), (200, 0, 0)


def contact_sheet(previews: Sequence[Preview], names: Sequence[str], shape: tuple[int, int, int]) -> Image.Image:
    """Draw a pair of original and augmented picture for each preview, in rows.

    Each pair has its class as label: the entry in `names`, or the number if there is none. A sample that cannot be read
    shows its place and fault instead. `shape` is the pictures' (height, width, channels).
    """
    tile = min(max(_SMALLEST, *shape[:2]), _LARGEST)
    across = max(1, math.ceil(math.sqrt(len(previews) / 2)))
    down = math.ceil(len(previews) / across)
    step_x, step_y = 2 * tile + 3 * _GAP, tile + _LINE + 2 * _GAP
    sheet = Image.new("RGB", (across * step_x + _GAP, down * step_y + _GAP), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for number, shown in enumerate(previews):
        left, top = _GAP + number % across * step_x, _GAP + number // across * step_y
        label = one_line(names[shown.label]) if shown.label < len(names) else str(shown.label)
        if shown.original is None or shown.picture is None:
            draw.text((left, top), f"{label}\n{one_line(shown.place)[-40:]}\n{shown.fault}", _WARNING, font)
            continue
        draw.text((left, top), label, _INK, font)
        _paste(sheet, shown.original, left, top + _LINE, tile)
        _paste(sheet, shown.picture, left + tile + _GAP, top + _LINE, tile)
    return sheet


def _paste(sheet: Image.Image, pixels: np.ndarray, left: int, top: int, tile: int) -> None:
    """Paste pixels [h, w, c], from 0 to 255, scaled to a square tile. Enlarged images keep sharp pixels."""
    values = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    image = Image.fromarray(values[..., 0] if values.shape[2] == 1 else np.ascontiguousarray(values[..., :3]))
    ratio = min(tile / image.width, tile / image.height)
    way = Image.Resampling.NEAREST if ratio > 1 else Image.Resampling.BOX
    sheet.paste(
        image.resize((max(1, round(image.width * ratio)), max(1, round(image.height * ratio))), way), (left, top)
    )

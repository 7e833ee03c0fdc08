"""Make a folder of photographs in ten classes, to try things with: parts of those that scikit-image and sklearn bring.

    python tools/make_photographs.py photographs --count 2000 --side 256

Every image is a random part of one of ten photographs, scaled to `side` pixels on its shorter side, with its own
brightness and JPEG quality; five in six go to `train/`, the others to `val/`. Needs `make peers`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

_VALIDATED = 6  # one image in so many


def photographs() -> dict[str, np.ndarray]:
    """Return name -> uint8 [h, w, 3]."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    samples = load_sample_images()
    found = {Path(name).stem: image for name, image in zip(samples.filenames, samples.images, strict=True)}
    for name in ("astronaut", "cat", "coffee", "hubble_deep_field", "immunohistochemistry", "retina", "rocket"):
        found[name] = getattr(data, name)()
    found["motorcycle"] = data.stereo_motorcycle()[0]
    return {name: image[..., :3] for name, image in sorted(found.items())}


def crop(image: np.ndarray, side: int, generator: np.random.Generator) -> Image.Image:
    """Return a random part of `image`, between a quarter and all of it, `side` pixels on its shorter side."""
    height, width, _ = image.shape
    share, aspect = generator.uniform(0.5, 1.0), generator.uniform(0.75, 4 / 3)
    rows = min(height, int(height * share))
    columns = min(width, int(rows * aspect))
    top, left = generator.integers(height - rows + 1), generator.integers(width - columns + 1)
    ratio = side / min(rows, columns)
    part = Image.fromarray(image[top : top + rows, left : left + columns])
    resized = part.resize((max(side, round(columns * ratio)), max(side, round(rows * ratio))), Image.Resampling.LANCZOS)
    return ImageEnhance.Brightness(resized).enhance(generator.uniform(0.8, 1.2))


def write_folder(folder: Path, count: int, side: int, seed: int) -> None:
    """Write `count` images to train on, and a fifth as many to validate with."""
    sources = photographs()
    generator = np.random.default_rng(seed)
    for number in range(count + count // (_VALIDATED - 1)):
        name = list(sources)[number % len(sources)]
        place = folder / ("train" if number < count else "val") / name
        place.mkdir(parents=True, exist_ok=True)
        image = crop(sources[name], side, generator)
        image.save(place / f"{number:06}.jpg", quality=int(generator.integers(75, 96)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make a folder of photographs in ten classes.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=2000, help="images to train on (default: 2000)")
    parser.add_argument("--side", type=int, default=256, help="pixels of the shorter side (default: 256)")
    parser.add_argument("--seed", type=int, default=1)
    values = parser.parse_args()
    write_folder(values.folder, values.count, values.side, values.seed)

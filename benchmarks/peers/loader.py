"""PyTorch's DataLoader on the tasks of data servers: warped digits, and photographs from files.

Run by hand it prints one JSON object a line: python -m benchmarks.peers.loader digits|photographs [FOLDER]
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from adam_mp.data.reading.loading import load_data

TRANSLATE, ROTATE, SCALE = 2.0, 10.0, 0.1
SIDE, SHARE = 224, 0.08
MEAN, DEVIATION = np.float32([120, 110, 100]), np.float32([60, 60, 60])
_WAYS = ("one by one", "whole batches")


def thetas(count: int) -> torch.Tensor:
    """Random maps for `affine_grid`, [count, 2, 3]: translate, rotate, scale."""
    angle = (torch.rand(count) * 2 - 1) * math.radians(ROTATE)
    scale = 1 / (1 + (torch.rand(count) * 2 - 1) * SCALE)
    shift = (torch.rand(count, 2) * 2 - 1) * (2 * TRANSLATE / 28)
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    return torch.stack([torch.stack([cosine, -sine, shift[:, 0]], 1), torch.stack([sine, cosine, shift[:, 1]], 1)], 1)


def warp(images: torch.Tensor) -> torch.Tensor:
    """Warp and normalise uint8 images [n, 1, 28, 28]."""
    grid = functional.affine_grid(thetas(len(images)), list(images.shape), align_corners=False)
    return (functional.grid_sample(images.float(), grid, align_corners=False) - 33.0) / 78.0


class Digits(Dataset[Any]):
    """MNIST's training images, warped one by one, or a whole batch at a time."""

    def __init__(self, whole_batches: bool) -> None:
        train = load_data().train
        self.images = torch.from_numpy(train.images[:, None, :, :, 0].copy())
        self.labels = torch.from_numpy(train.labels.astype(np.int64))
        if whole_batches:
            self.__getitems__ = self.batch

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return warp(self.images[index : index + 1])[0], self.labels[index]

    def batch(self, indices: list[int]) -> Any:
        """A whole batch, warped at once."""
        return warp(self.images[indices]), self.labels[indices]


class Photographs(Dataset[Any]):
    """Class folders of JPEG files: decode, random-resized crop, reflect, normalise, with Pillow and numpy."""

    def __init__(self, folder: Path) -> None:
        classes = sorted(entry for entry in folder.iterdir() if entry.is_dir())
        self.samples = [(path, label) for label, place in enumerate(classes) for path in sorted(place.iterdir())]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        path, label = self.samples[index]
        with Image.open(path) as image:
            colour = image.convert("RGB")
        width, height = colour.size
        share = np.random.uniform(SHARE, 1)
        aspect = math.exp(np.random.uniform(math.log(3 / 4), math.log(4 / 3)))
        across = min(width, math.sqrt(width * height * share * aspect))
        down = min(height, math.sqrt(width * height * share / aspect))
        left, top = np.random.uniform(0, width - across), np.random.uniform(0, height - down)
        picture = colour.resize((SIDE, SIDE), Image.Resampling.BILINEAR, (left, top, left + across, top + down))
        pixels = np.asarray(picture, np.float32)
        if np.random.random() < 0.5:
            pixels = pixels[:, ::-1]
        return torch.from_numpy((pixels - MEAN) / DEVIATION), label


def _together(batch: Any) -> Any:
    """Leave a batch that was made whole as it is."""
    return batch


def rates(dataset: Dataset[Any], workers: int, batch: int, whole: bool = False) -> Iterator[float]:
    """Yield images per second of one epoch after another; the first, in which the workers start, is left out."""
    more: dict[str, Any] = {"collate_fn": _together} if whole else {}
    loader = DataLoader(
        dataset, batch, shuffle=True, num_workers=workers, persistent_workers=True, prefetch_factor=4, **more
    )  # fmt: skip
    first = True
    while True:
        began = time.perf_counter()
        images = sum(len(labels) for _, labels in loader)
        if not first:
            yield images / (time.perf_counter() - began)
        first = False


def main() -> None:
    """Print the rates of some epochs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("digits", "photographs"))
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.task == "digits":
        sides = [(way, Digits(way == _WAYS[1]), way == _WAYS[1]) for way in _WAYS]
    else:
        sides = [("Pillow", Photographs(arguments.folder), False)]
    for name, dataset, whole in sides:
        measured = rates(dataset, arguments.workers, arguments.batch, whole)
        print(json.dumps({"way": name, "images_per_second": [next(measured) for _ in range(arguments.epochs)]}))


if __name__ == "__main__":
    main()

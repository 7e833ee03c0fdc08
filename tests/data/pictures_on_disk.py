"""Small coloured pictures in files, for tests: each class has a colour of its own, so that a network can tell them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40)}


def pixels(name: str, seed: int, height: int = 40, width: int = 48) -> np.ndarray:
    """Return a picture of class `name`, uint8 [height, width, 3]: smooth waves of its colour."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 16.0
    waves = 0.8 + 0.2 * np.sin(x * generator.uniform(0.5, 2) + y * generator.uniform(0.5, 2) + generator.uniform(0, 6))
    return np.clip(waves[..., None] * COLOURS[name], 0, 255).astype(np.uint8)


def encode(image: np.ndarray, kind: str = "JPEG", **options: object) -> bytes:
    """Return the image as the bytes of a file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def write_folder(folder: Path, count: int, kind: str = "JPEG", ending: str = "jpg", **size: int) -> list[Path]:
    """Write `count` pictures of each class into class folders; return their paths, sorted."""
    paths = []
    for name in COLOURS:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            path = folder / name / f"{number:04}.{ending}"
            path.write_bytes(encode(pixels(name, number, **size), kind))
            paths.append(path)
    return sorted(paths)


def write_shard(path: Path, samples: list[dict[str, bytes]]) -> Path:
    """Write a tar shard; each sample is ending -> content, and its key is its number."""
    with tarfile.open(path, "w") as archive:
        for number, members in enumerate(samples):
            for ending, content in members.items():
                entry = tarfile.TarInfo(f"set/{number:05}.{ending}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return path


def add_members(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    """Write a tar file of these members, (name, content) each."""
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path

"""Decode mutated files in this process, and say how many of them failed in which way; a crash is its end.

python tests/data/fuzz_decoding.py COUNT SEED
"""

from __future__ import annotations

import collections
import sys

import numpy as np
from pictures_on_disk import encode, pixels

from adam_mp.data.reading.decoding import decode
from adam_mp.data.reading.faults import SampleError
from adam_mp.data.reading.options import LoadOptions

OPTIONS = LoadOptions(pixel_limit=10_000_000)
KINDS = (("JPEG", {}), ("JPEG", {"progressive": True}), ("JPEG", {"subsampling": 0, "restart_marker_rows": 1}),
         ("PNG", {}), ("WEBP", {}), ("BMP", {}))  # fmt: skip


def mutate(content: bytes, generator: np.random.Generator) -> bytes:
    """Change bytes, cut, double or drop a stretch."""
    data = bytearray(content)
    for _ in range(int(generator.integers(1, 8))):
        at = int(generator.integers(len(data)))
        length = int(generator.integers(1, 40))
        match int(generator.integers(6)):
            case 0 | 1:
                data[at] = int(generator.integers(256))
            case 2:
                data[at : at + length] = generator.bytes(length)
            case 3:
                del data[at : at + length]
            case 4:
                data[at:at] = data[at : at + length]
            case 5:
                data = data[: max(1, at)]
        if not data:
            return b"\xff"
    return bytes(data)


def main(count: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    images = [pixels("red", number, 64, 80) for number in range(4)]
    files = [encode(image, kind, **options) for image in images for kind, options in KINDS]
    jpegs = [encode(image, kind, **options) for image in images for kind, options in KINDS[:3]]
    found: collections.Counter[str] = collections.Counter()
    for number in range(count):
        chosen = jpegs if number % 4 else files
        content = mutate(chosen[int(generator.integers(len(chosen)))], generator)
        try:
            decoded = decode(content, (1, 3)[number % 2], ((32, 32), None)[number % 3 == 0], OPTIONS)
        except SampleError as error:
            found[error.fault.name] += 1
        else:
            assert decoded.dtype == np.uint8
            assert decoded.shape[2] == (1, 3)[number % 2]
            found["GOOD"] += 1
    print(dict(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))

"""Sources: where a process gets the pixels of a sample from, encoded records or items of Python objects."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
import random
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import cloudpickle
import numpy as np

from adam_mp.data.reading.decoding import decode, reduce
from adam_mp.data.reading.faults import Fault, SampleError
from adam_mp.data.reading.items import Items, item_pixels
from adam_mp.data.reading.options import LoadOptions
from adam_mp.data.reading.records import RecordTable
from adam_mp.errors import DataError

_READERS = 4  # threads that read files


@dataclasses.dataclass(frozen=True)
class SourceSpec:
    """What a process is told about how to decode samples.

    `channels` is 1 or 3, `least` the (height, width) below which no image is shrunk, `options` say how images in files
    are read. `datasets` are the pickled data-set objects (see `pickle_items`); it is empty if samples are records.
    """

    channels: int
    least: tuple[int, int] | None
    options: LoadOptions = dataclasses.field(default_factory=LoadOptions)
    datasets: bytes = b""


class RecordSource:
    """Decodes records. Its threads read files ahead, so that they wait for the disk while this process works."""

    def __init__(self, spec: SourceSpec, table: RecordTable) -> None:
        self._spec, self._table, self._limit = spec, table, spec.options.byte_limit
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="read-ahead")
        self._ahead: dict[int, Future[bytes]] = {}

    def prepare(self, samples: Iterable[int]) -> None:
        """Begin to read these samples ahead, and forget all others that were read ahead."""
        self._ahead = {
            sample: self._ahead.get(sample) or self._readers.submit(self._table.read, sample, self._limit)
            for sample in samples
        }

    def pixels(self, sample: int, key: int | None = None) -> np.ndarray:
        """Return the decoded image, uint8 [h, w, c], the same for any `key`; raises SampleError."""
        waiting = self._ahead.pop(sample, None)
        try:
            content = self._table.read(sample, self._limit) if waiting is None else waiting.result()
            return decode(content, self._spec.channels, self._spec.least, self._spec.options)
        except MemoryError:
            raise SampleError(Fault.NO_MEMORY) from None


class ItemSource:
    """Gets the items of data-set objects; samples are numbered one object after the other."""

    def __init__(self, spec: SourceSpec) -> None:
        self._spec = spec
        # Safe to unpickle: the supervisor wrote it, in the file with the task that this process inherited.
        self._datasets: list[tuple[Any, np.ndarray, np.ndarray, int]] = pickle.loads(spec.datasets)

    def prepare(self, samples: Iterable[int]) -> None:
        """Do nothing: items are not read ahead."""

    def pixels(self, sample: int, key: int | None = None) -> np.ndarray:
        """Return the item's image, uint8 [h, w, c]; raises SampleError.

        An object that draws at random draws the same for the same `key`, which stands for seed and epoch; None is that
        of an evaluation. That holds for the generators that Python, numpy and torch have for a whole process.
        """
        _seed_generators(key, sample)
        dataset, numbers, given, first = next(part for part in reversed(self._datasets) if part[3] <= sample)
        place = sample - first
        pixels = item_pixels(dataset, int(numbers[place]), self._spec.channels, given[place])
        return pixels if pixels.shape[:2] == self._spec.least else reduce(pixels, self._spec.least)


def _seed_generators(key: int | None, sample: int) -> None:
    """Seed this process's generators. Processes are forked, so without it all data servers would draw the same."""
    digest = hashlib.blake2b(f"{key} {sample}".encode(), digest_size=16).digest()
    random.seed(int.from_bytes(digest, "little"))
    np.random.seed(int.from_bytes(digest[:4], "little"))
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(int.from_bytes(digest[:7], "little"))


Source = RecordSource | ItemSource


def open_source(spec: SourceSpec, table: RecordTable | None) -> Source:
    """Return the source that `spec` describes; `table` has the records, and is None if samples are items."""
    if table is None:
        return ItemSource(spec)
    return RecordSource(spec, table)


def pickle_items(parts: Sequence[Items]) -> bytes:
    """Return the data-set objects of `parts`, pickled for `SourceSpec.datasets`.

    Each comes with the numbers of its items, their labels, and the number of its first sample. Raises DataError if one
    cannot be pickled.
    """
    first, sent = 0, []
    for part in parts:
        sent.append((part.dataset, part.numbers, part.given, first))
        first += len(part)
    try:
        return bytes(cloudpickle.dumps(sent))
    except Exception as error:
        kind = type(parts[0].dataset).__name__
        raise DataError(
            f"the data set {kind} cannot be sent to the data servers: {error}; keep open files, locks and connections "
            "out of it, or open them in __getitem__"
        ) from None

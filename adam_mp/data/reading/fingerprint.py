"""Fingerprints: what a data set is, wherever it lies, by which a resumed run knows its data again.

A fingerprint of a part has its counts, names, labels and contents. Contents of files are read: all of them where they
are few, some where they are many, and of a long file its beginning, middle and end. Where the files lie is no part of
it. It is kept in checkpoints as plain values.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import stat
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from adam_mp.data.reading.items import Items
from adam_mp.data.reading.records import WHOLE_FILE, Records, RecordTable
from adam_mp.data.reading.samples import Samples
from adam_mp.errors import several

_ALL, _SOME = 2048, 256  # so many samples are all read; of more, so many are
_GROUPS = 256  # of samples read, each with one checksum: so a difference can be placed
_PIECE = 16 << 10  # bytes that are read of the beginning, middle and end of a long sample
_READERS = 8  # threads, for disks and networks that answer slowly
_MOST_CLASSES = 1000  # whose counts are kept; of more, their checksum with the labels is enough
_MOST_SAID = 3
_WHAT = {"train": "to train on", "validation": "to validate on", "test": "to test on"}
_UNKNOWN = "?"  # in place of the checksum of samples that could not be read


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """What one part of a data set is.

    `kind` says in words what samples are. `count` is how many there are, `classes` how many of each class. `names` and
    `labels` are checksums; `contents` has one for each group of samples that were read, in their order.
    """

    kind: str
    count: int
    classes: tuple[int, ...]
    names: int
    labels: int
    contents: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the fingerprint as plain values."""
        return {**dataclasses.asdict(self), "classes": list(self.classes), "contents": " ".join(self.contents)}

    @classmethod
    def of_dict(cls, values: Mapping[str, Any]) -> Fingerprint:
        """Return the fingerprint of plain values; raises KeyError, TypeError or ValueError if they are damaged."""
        return cls(
            str(values["kind"]), int(values["count"]), tuple(map(int, values["classes"])), int(values["names"]),
            int(values["labels"]), tuple(str(values["contents"]).split()),
        )  # fmt: skip


def fingerprint(part: Samples | Records | Items) -> Fingerprint:
    """Return the fingerprint of a part; reads files."""
    counts = np.bincount(part.labels)
    classes = tuple(counts.tolist()) if len(counts) <= _MOST_CLASSES else ()
    labels = zlib.crc32(np.ascontiguousarray(part.labels).data)
    if isinstance(part, Samples):
        shape = "x".join(map(str, part.images.shape[1:]))
        return Fingerprint(f"{part.images.dtype} {shape}", len(part), classes, 0, labels, (f"{part.digest:08x}",))
    if isinstance(part, Items):
        found = [[crc] for crc in part.look.contents]
        return Fingerprint("items", len(part), classes, zlib.crc32(part.numbers.data), labels, _joined(found))
    kind = "files" if not len(part) or part.table.length[0] == WHOLE_FILE else "members of tar shards"
    chosen = _chosen(len(part))
    groups = np.array_split(chosen, min(_GROUPS, len(chosen)))
    with ThreadPoolExecutor(_READERS, thread_name_prefix="fingerprint") as readers:
        read = list(readers.map(lambda sample: sample_checksum(part.table, sample), chosen.tolist()))
    ends = np.cumsum([0, *map(len, groups)]).tolist()
    found = [read[begin:end] for begin, end in itertools.pairwise(ends)]
    return Fingerprint(kind, len(part), classes, part.table.digest, labels, _joined(found))


def _chosen(count: int) -> np.ndarray:
    """Return the numbers of the samples to read: all, or some that are spread over all."""
    return np.arange(count) if count <= _ALL else np.linspace(0, count - 1, _SOME).astype(np.int64)


def _joined(groups: Sequence[Sequence[int | None]]) -> tuple[str, ...]:
    """Return one checksum for each group of checksums; it is unknown if one of the group is."""
    return tuple(
        _UNKNOWN if None in group else f"{zlib.crc32(np.array(group, np.uint32).tobytes()):08x}" for group in groups
    )


def sample_checksum(table: RecordTable, sample: int) -> int | None:
    """Return a checksum of a sample's size and bytes, of a long one's pieces; None if it cannot be read."""
    begin, length = int(table.offset[sample]), int(table.length[sample])
    try:
        descriptor = os.open(table.path(sample), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return None
            length = status.st_size if length == WHOLE_FILE else length
            places = [0]
            if length > 3 * _PIECE:
                places = [0, length // 2, length - _PIECE]
            value = zlib.crc32(length.to_bytes(8, "little"))
            for place in places:
                size = length if len(places) == 1 else _PIECE
                value = zlib.crc32(os.pread(descriptor, size, begin + place), value)
            return value
        finally:
            os.close(descriptor)
    except OSError:
        return None


def difference(
    part: str, before: Fingerprint, now: Fingerprint, name_of: Callable[[int], str], place: Callable[[int], str]
) -> str | None:
    """Say in words how a part differs from what it was; None if it is the same as far as both are known.

    `name_of` is the name of a class by its number, `place` says where a sample is now.
    """
    what = _WHAT[part]
    if before.kind != now.kind:
        return f"the images {what} are {now.kind}, and were {before.kind}"
    counts = _counts(before.classes, now.classes, name_of)
    if before.count != now.count:
        have = several(now.count, f"image {what}", f"images {what}")
        return f"they have {have}, and had {before.count:,}{counts}"
    if before.classes != now.classes:
        return f"the images {what} have other classes{counts}"
    if before.labels != now.labels:
        return f"the images {what} have other labels"
    if before.names != now.names:
        return f"the images {what} have other names or another order"
    if len(before.contents) == len(now.contents):
        for group, (old, new) in enumerate(zip(before.contents, now.contents, strict=True)):
            if old != new and _UNKNOWN not in (old, new):
                return f"the images {what} have other contents{_where(now, group, place)}"
    return None


def _counts(before: Sequence[int], now: Sequence[int], name_of: Callable[[int], str]) -> str:
    """Say which classes have another number of images; "" if it is not known."""
    if not before or not now:
        return ""
    most = max(len(before), len(now))
    old, new = ([*each, *[0] * (most - len(each))] for each in (before, now))
    other = [number for number in range(most) if old[number] != new[number]]
    said = [f"{name_of(number)} has {new[number]:,}, had {old[number]:,}" for number in other[:_MOST_SAID]]
    more = f"; and {len(other) - _MOST_SAID} more classes" if len(other) > _MOST_SAID else ""
    return f" ({'; '.join(said)}{more})" if said else ""


def _where(now: Fingerprint, group: int, place: Callable[[int], str]) -> str:
    if now.kind not in ("files", "members of tar shards"):
        return ""
    numbers = np.array_split(_chosen(now.count), len(now.contents))[group]
    if len(numbers) == 1:
        return f", such as {place(int(numbers[0]))}"
    return f", between {place(int(numbers[0]))} and {place(int(numbers[-1]))}"

"""Records, samples that are encoded images in files: where each sample's bytes are, as arrays for shared memory.

A folder of images and a set of tar shards have the same form here: the names of files, and for each sample the file,
the offset of its first byte and the number of its bytes. A million samples take some 60 MB, most of it file names.
"""

from __future__ import annotations

import dataclasses
import os
import stat
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from adam_mp.data.reading.faults import BadSample, Fault, SampleError

WHOLE_FILE = -1


@dataclasses.dataclass(frozen=True)
class RecordTable:
    """Where n samples are in files below the folder `root`.

    `names` uint8 are all file names, one after the other; file i is `names[starts[i]:starts[i + 1]]`, with `starts`
    int64 [files + 1]. For each sample: `file` int32 [n] is its file, `offset` int64 [n] its first byte, `length` int64
    [n] the number of its bytes, or WHOLE_FILE.
    """

    root: str
    names: np.ndarray
    starts: np.ndarray
    file: np.ndarray
    offset: np.ndarray
    length: np.ndarray

    @classmethod
    def of_files(cls, root: Path, names: Sequence[str]) -> RecordTable:
        """Return a table with one sample for each file."""
        count = len(names)
        whole: np.ndarray = np.full(count, WHOLE_FILE, np.int64)
        return cls(
            os.path.abspath(root), *_pack(names), np.arange(count, dtype=np.int32), np.zeros(count, np.int64), whole
        )

    @classmethod
    def of_parts(cls, root: Path, names: Sequence[str], parts: Sequence[tuple[int, int, int]]) -> RecordTable:
        """Return a table of samples that lie inside of files, as in tar shards.

        `parts` has for each sample: the index of its file in `names`, the offset of its first byte, its bytes.
        """
        columns = np.array(parts, np.int64).reshape(-1, 3)
        file, offset, length = columns[:, 0].astype(np.int32), columns[:, 1].copy(), columns[:, 2].copy()
        return cls(os.path.abspath(root), *_pack(names), file, offset, length)

    @classmethod
    def joined(cls, tables: Sequence[RecordTable]) -> RecordTable:
        """Return a table of the samples of several tables, one table after the other."""
        names, starts, file = [], [np.zeros(1, np.int64)], []
        bytes_before = files_before = 0
        for table in tables:
            root = os.fsencode(table.root)
            absolute = [os.path.join(root, table._name(index)) for index in range(len(table.starts) - 1)]
            names.append(np.frombuffer(b"".join(absolute), np.uint8))
            ends = np.cumsum([len(name) for name in absolute], dtype=np.int64)
            starts.append(bytes_before + ends)
            file.append(table.file + files_before)
            bytes_before += int(ends[-1]) if len(ends) else 0
            files_before += len(absolute)
        return cls(
            "", np.concatenate(names), np.concatenate(starts), np.concatenate(file).astype(np.int32),
            np.concatenate([table.offset for table in tables]), np.concatenate([table.length for table in tables]),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.file)

    def _name(self, file: int) -> bytes:
        return self.names[self.starts[file] : self.starts[file + 1]].tobytes()

    def path(self, sample: int) -> str:
        """Return the path of the file that holds a sample."""
        return os.path.join(self.root, os.fsdecode(self._name(int(self.file[sample]))))

    def place(self, sample: int) -> str:
        """Say where a sample is: its file and, in a tar shard, the byte where it begins."""
        begin = "" if self.length[sample] == WHOLE_FILE else f", byte {self.offset[sample]}"
        return self.path(sample) + begin

    def read(self, sample: int, limit: int) -> bytes:
        """Return a sample's bytes; raises SampleError if they cannot be read, or are more than `limit`."""
        return read_part(self.path(sample), int(self.offset[sample]), int(self.length[sample]), limit)

    @property
    def digest(self) -> int:
        """A fingerprint of file names below `root`, offsets and lengths; the images themselves are not read."""
        return self._digest(self.names, self.starts)

    @property
    def digest_with_paths(self) -> int:
        """The digest by which earlier versions knew tar shards: it has their whole paths."""
        return self._digest(*_pack([os.path.join(self.root, os.fsdecode(self._name(i))) for i in range(self.files)]))

    def _digest(self, names: np.ndarray, starts: np.ndarray) -> int:
        value = 0
        for part in (names, starts, self.file, self.offset, self.length):
            value = zlib.crc32(np.ascontiguousarray(part).data, value)
        return value

    @property
    def files(self) -> int:
        """How many files there are."""
        return len(self.starts) - 1

    def arrays(self) -> Mapping[str, np.ndarray]:
        """Return the table's arrays by name, to be copied into shared memory; `in_arrays` finds them there."""
        return {f"record_{name}": getattr(self, name) for name in _ARRAYS}

    @classmethod
    def in_arrays(cls, arrays: Mapping[str, np.ndarray]) -> RecordTable | None:
        """Return the table whose arrays are among `arrays`, without a copy; None if there is none.

        Its file names must be absolute, as those of `joined` are.
        """
        if f"record_{_ARRAYS[0]}" not in arrays:
            return None
        return cls("", *(arrays[f"record_{name}"] for name in _ARRAYS))

    def selected(self, samples: np.ndarray) -> RecordTable:
        """Return a table of these samples alone, numbered from 0 in the order given."""
        names, file = [self.path(sample) for sample in samples.tolist()], np.arange(len(samples), dtype=np.int32)
        return RecordTable("", *_pack(names), file, self.offset[samples], self.length[samples])


_ARRAYS = ("names", "starts", "file", "offset", "length")


@dataclasses.dataclass(frozen=True)
class Records:
    """A part of a data set: n encoded images with labels int32 [n].

    `rejected` are files that reading the data set found beside them and left out.
    """

    table: RecordTable
    labels: np.ndarray
    rejected: tuple[BadSample, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)


def read_part(path: str | os.PathLike[str], begin: int, length: int, limit: int) -> bytes:
    """Return `length` bytes of a regular file from `begin` on, or all of it for WHOLE_FILE.

    Raises SampleError if the bytes cannot be read, or are more than `limit`; also for a file that is not regular, such
    as a named pipe, which could make this process wait.
    """
    try:
        with open(path, "rb", buffering=0, opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise SampleError(Fault.UNREADABLE)
            length = status.st_size if length == WHOLE_FILE else length
            if length > limit:
                raise SampleError(
                    Fault.TOO_MANY_BYTES, f"the file has {length:,} bytes, more than the {limit:,} that an image "
                    "within the limit of pixels can take; --pixel-limit raises it",
                )  # fmt: skip
            content = os.pread(file.fileno(), length, begin)
            while len(content) < length:  # one call reads 2 GB at most
                more = os.pread(file.fileno(), length - len(content), begin + len(content))
                if not more:
                    break
                content += more
    except FileNotFoundError:
        raise SampleError(Fault.MISSING) from None
    except OSError:
        raise SampleError(Fault.UNREADABLE) from None
    if len(content) < length:
        raise SampleError(Fault.DAMAGED)
    return content


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _pack(names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    joined = "".join(names)
    # A million encoded names take 80 MB; in plain letters each is as long as before.
    encoded = names if joined.isascii() else [os.fsencode(name) for name in names]
    starts: np.ndarray = np.zeros(len(names) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, encoded), np.int64, len(names)), out=starts[1:])
    return np.frombuffer(os.fsencode(joined), np.uint8), starts

"""The messages between a replica that trains and a data server on another machine.

A replica first describes its data set and how its pictures look (DESCRIBE). With that the data server opens a
*session*. The session's number is computed from the description, so every data server gives it the same number. Then
the replica asks for pictures:

    FETCH     int64: augmented (0 or 1), draw key (64 bits), then sample numbers
    PICTURES  int64: kept, bad | bad x (position, fault) | int32 labels [kept], padded to 8 bytes |
              float32 images [kept, h, w, c]

`position` is an index into the samples of the request; bad samples, which cannot be read or decoded, are missing from
labels and images. Neither side trusts what it receives: a message that is not valid raises a child of AdamError with a
reason.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from adam_mp.data.augmentation import Augmentation
from adam_mp.data.normalization import Normalization
from adam_mp.data.reading.faults import Fault
from adam_mp.data.reading.options import WHITE, LoadOptions
from adam_mp.errors import TransportError
from adam_mp.kernels.draw import RANGES
from adam_mp.transport.forms import (
    Flag,
    Inner,
    ListOf,
    Made,
    MalformedError,
    Number,
    Numbers,
    Seen,
    Text,
    Whole,
    Wholes,
    entry,
    read,
    short,
)
from adam_mp.transport.messages import shown

_LONGEST_NAME, _MOST_NAMES = 100, 200  # characters of the name of a class, and names, that are sent
MOST_SAMPLES = 4096  # in a request
PART_BYTES = 8 << 20  # bytes of a request's pictures; a larger batch takes several requests, for several picture makers


def _channels(seen: Seen) -> int:
    channels: int = seen["channels"]
    return channels


@dataclasses.dataclass(frozen=True)
class Look:
    """How the pictures of a session look."""

    normalization: Normalization
    augmentation: Augmentation
    keep: float
    turned: bool
    white: float
    clipped: bool = True

    @property
    def decoded(self) -> tuple[float, bool, float, bool]:
        """What decides how images look once they are decoded: `keep`, `turned`, `white` and `clipped`."""
        return self.keep, self.turned, self.white, self.clipped

    @property
    def number(self) -> int:
        """The number of the session with such pictures, 32 bits."""
        text = json.dumps([dataclasses.asdict(self.normalization), self.augmentation.ranges.tolist(), *self.decoded])
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")


@dataclasses.dataclass(frozen=True)
class Colours:
    """A `Normalization`, with forms for DESCRIBE."""

    mean: tuple[float, ...] = entry(Numbers(_channels))
    deviation: tuple[float, ...] = entry(Numbers(_channels))
    fill: tuple[float, ...] = entry(Made(lambda value, seen: Numbers(1).read([value], seen), lambda fill: fill[0]))
    directions: tuple[tuple[float, ...], ...] = entry(ListOf(Numbers(_channels), "rows"), ())


@dataclasses.dataclass(frozen=True)
class Describing:
    """What DESCRIBE holds: the data set, and how its pictures look.

    `digest` and `count` are those of the data set, `image_shape` is the shape of pictures, `ranges` those of the
    augmentation, `keep` see `PictureSpec`, `turned`, `white` and `clipped` see `LoadOptions`; a replica that sends none
    of them is of a version that turned no image. `classes` are the names of the classes, none if they are too many to
    send; they only serve to say what differs.
    """

    digest: int = entry(Whole(0, (1 << 64) - 1))
    count: int = entry(Whole(0, 1 << 62))
    image_shape: tuple[int, ...] = entry(Wholes("height, width and channels", 1, 1 << 30))
    normalization: Colours = entry(Inner(Colours))
    ranges: tuple[float, ...] = entry(Numbers(len(RANGES)))
    keep: float = entry(Number(0, 1))
    turned: bool = entry(Flag(), False)
    white: float = entry(Number(0, WHITE), WHITE)
    clipped: bool = entry(Flag(), True)
    classes: tuple[str, ...] = entry(ListOf(Text(_LONGEST_NAME), "names"), ())

    def __post_init__(self) -> None:
        colours = self.normalization
        if min(colours.deviation) <= 0:
            raise MalformedError(f"deviation is {short(colours.deviation)}; expected numbers above 0")
        if len(colours.directions) not in (0, len(colours.mean)):
            raise MalformedError(
                f"directions have {len(colours.directions)} rows; expected none or {len(colours.mean)}"
            )

    @classmethod
    def of(
        cls, digest: int, count: int, shape: tuple[int, ...], normalization: Normalization,
        augmentation: Augmentation, keep: float, options: LoadOptions, classes: Sequence[str] = (),
    ) -> Describing:  # fmt: skip
        """Return the description of pictures with this normalisation, augmentation and `keep`."""
        colours = Colours(
            normalization.mean, normalization.deviation, (normalization.fill,), normalization.directions
        )  # fmt: skip
        return cls(digest, count, shape, colours, tuple(augmentation.ranges.tolist()), keep, options.turned,
                   options.white or WHITE, options.clipped, sent_names(classes))  # fmt: skip

    @property
    def look(self) -> Look:
        """How the pictures look; raises a child of AdamError if a range is outside its limits."""
        colours = self.normalization
        return Look(
            Normalization(colours.mean, colours.deviation, colours.fill[0], colours.directions),
            Augmentation.of(self.ranges),
            self.keep, self.turned, self.white, self.clipped,
        )  # fmt: skip


def sent_names(classes: Sequence[str]) -> tuple[str, ...]:
    """Return the names of classes as a replica sends them; none if they are too many."""
    return tuple(shown(name, _LONGEST_NAME) for name in classes) if len(classes) <= _MOST_NAMES else ()


def read_description(content: Any, channels: int) -> Describing:
    """Return the description in the JSON object of a DESCRIBE, for pictures with `channels` channels.

    Raises TransportError if it is not valid.
    """
    return read(Describing, content, TransportError, seen={"channels": channels})


@dataclasses.dataclass(frozen=True)
class Opened:
    """What DESCRIPTION holds: the number of the session that was opened."""

    session: int = entry(Whole(0, (1 << 32) - 1))


def most_samples(shape: tuple[int, int, int]) -> int:
    """Return how many pictures of `shape` (height, width, channels) a request may ask for."""
    return min(MOST_SAMPLES, max(1, PART_BYTES // (4 * math.prod(shape))))


def samples_in(payload: Any) -> int:
    """Return how many samples the payload of a FETCH names, from its size alone."""
    return max(0, memoryview(payload).nbytes // 8 - 2)


def pack_request(samples: np.ndarray, key: int | None) -> np.ndarray:
    """Return the payload of a FETCH; with `key` None the pictures are not augmented."""
    words: np.ndarray = np.zeros(2 + len(samples), "<i8")
    words[0] = key is not None
    words[1:2].view("<u8")[0] = key or 0
    words[2:] = samples
    return words


def unpack_request(payload: Any) -> tuple[np.ndarray, int | None]:
    """Return (sample numbers int64 [n], key) of the payload of a FETCH; raises TransportError if it is not valid."""
    size = memoryview(payload).nbytes
    if size % 8 or not 24 <= size <= 8 * (2 + MOST_SAMPLES):
        raise TransportError(
            f"request has {size} bytes; expected 8 for each of 1 to {MOST_SAMPLES} samples and two more"
        )
    words = np.frombuffer(payload, "<i8").astype(np.int64)  # a copy, as kernels need writable arrays
    if words[0] not in (0, 1):
        raise TransportError(f"request begins with {words[0]}; expected 0, or 1 for augmented pictures")
    return words[2:], int(words[1:2].view(np.uint64)[0]) if words[0] else None


@dataclasses.dataclass(frozen=True)
class Answer:
    """The pictures that a request asked for.

    `positions` int64 [bad] are the indices of the request's bad samples, `faults` int64 [bad] say what is wrong with
    each. `labels` int32 [kept] and `images` float32 [kept, h, w, c] are those of the other samples, in order.
    """

    positions: np.ndarray
    faults: np.ndarray
    labels: np.ndarray
    images: np.ndarray


def answer_bytes(kept: int, bad: int, shape: tuple[int, int, int]) -> int:
    """Return the bytes of an answer with `kept` pictures of `shape` and `bad` bad samples."""
    return _images_at(kept, bad) + 4 * kept * math.prod(shape)


def _images_at(kept: int, bad: int) -> int:
    return 16 + 16 * bad + -(-4 * kept // 8) * 8


def unpack_answer(payload: Any, count: int, shape: tuple[int, int, int]) -> Answer:
    """Return the answer in the payload of PICTURES, as views, to a request for `count` samples.

    Raises TransportError if the payload is not such an answer.
    """
    size = memoryview(payload).nbytes
    if size < 16:
        raise TransportError(f"answer has {size} bytes; expected at least 16")
    kept, bad = np.frombuffer(payload, "<i8", 2).tolist()
    if kept < 0 or bad < 0 or kept + bad != count or size != answer_bytes(kept, bad, shape):
        raise TransportError(
            f"answer of {size} bytes has {kept} pictures and {bad} bad samples; {count} were asked for"
        )
    pairs = np.frombuffer(payload, "<i8", 2 * bad, 16).reshape(bad, 2)
    positions, faults = pairs[:, 0], pairs[:, 1]
    if bad and not (positions[0] >= 0 and positions[-1] < count and (np.diff(positions) > 0).all()):
        raise TransportError(f"answer names bad samples that are not among the {count} asked for")
    if not np.isin(faults, [int(fault) for fault in Fault if fault]).all():
        raise TransportError("answer names an unknown fault")
    labels = np.frombuffer(payload, "<i4", kept, 16 + 16 * bad)
    images = np.frombuffer(payload, "<f4", kept * math.prod(shape), _images_at(kept, bad))
    return Answer(positions, faults, labels, images.reshape(kept, *shape))


def longest_answer(count: int, shape: tuple[int, int, int]) -> int:
    """Return the most bytes of an answer to a request for `count` samples, which may all be good or all be bad."""
    return max(answer_bytes(count, 0, shape), answer_bytes(0, count, shape))


def lay_out(
    content: np.ndarray, kept: int, bad: int, shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Write the head of an answer into `content`, uint8; return views for its faults int64 [bad, 2], labels, images."""
    begin, images = 16 + 16 * bad, _images_at(kept, bad)
    end = answer_bytes(kept, bad, shape)
    content[:16].view(np.int64)[:] = kept, bad
    content[begin + 4 * kept : images] = 0  # padding, so that no byte of an earlier answer is sent
    return (
        content[16:begin].view(np.int64).reshape(bad, 2),
        content[begin : begin + 4 * kept].view(np.int32),
        content[images:end].view(np.float32).reshape(kept, *shape),
    )

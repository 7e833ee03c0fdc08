"""How a value lies over partitions: which box of its rows and channels each of them has.

A value of shape (height, width, channels) is cut by rows, by channels, or not at all; its columns are never cut. A flat
value of n units counts as an image of one pixel with n channels. A flattened image keeps its height, width and channels
here, so that a part of it is still a box.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import NamedTuple

from adam_mp.network.layer import Shape

Image = tuple[int, int, int]  # height, width, channels


class Interval(NamedTuple):
    """The numbers from `begin` up to, not including, `end`."""

    begin: int
    end: int

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return max(0, self.end - self.begin)

    def meet(self, other: Interval) -> Interval:
        """Return the numbers that are in both."""
        begin = max(self.begin, other.begin)
        return Interval(begin, max(begin, min(self.end, other.end)))

    def covers(self, other: Interval) -> bool:
        """Return whether all numbers of `other` are in this one."""
        return self.begin <= other.begin and other.end <= self.end


class Box(NamedTuple):
    """Some rows and channels of an image, all columns. Rows outside of the image are padding."""

    rows: Interval
    channels: Interval

    def meet(self, other: Box) -> Box:
        """Return what is in both boxes."""
        return Box(self.rows.meet(other.rows), self.channels.meet(other.channels))

    def covers(self, other: Box) -> bool:
        """Return whether all of `other` is in this one."""
        return self.rows.covers(other.rows) and self.channels.covers(other.channels)

    def numbers(self, width: int) -> int:
        """Return how many numbers the box has in an image of `width` columns."""
        return self.rows.size * width * self.channels.size


def even(count: int, parts: int) -> tuple[Interval, ...]:
    """Cut `count` things into `parts` intervals, whose sizes differ by one at most."""
    ends = [count * part // parts for part in range(parts + 1)]
    return tuple(Interval(begin, end) for begin, end in itertools.pairwise(ends))


def box_of(image: Image) -> Box:
    """Return the box of a whole image."""
    return Box(Interval(0, image[0]), Interval(0, image[2]))


@dataclasses.dataclass(frozen=True)
class Spread:
    """The box of a value that each partition has. Together they cover the value.

    No number is in two boxes, with two exceptions: either every box is the whole value, or the value is `shared`. That
    is one between a convolution and its pooling: each partition computes all rows that its own pooling reads, and some
    are computed twice.
    """

    image: Image
    boxes: tuple[Box, ...]
    flat: bool
    shared: bool = False

    @classmethod
    def whole(cls, image: Image, parts: int, flat: bool) -> Spread:
        """Every partition has all of the value."""
        return cls(image, (box_of(image),) * parts, flat)

    @classmethod
    def by_rows(cls, image: Image, rows: tuple[Interval, ...], shared: bool = False) -> Spread:
        """Each partition has some rows of an image."""
        return cls(image, tuple(Box(each, Interval(0, image[2])) for each in rows), False, shared)

    @classmethod
    def by_channels(cls, image: Image, channels: tuple[Interval, ...], flat: bool) -> Spread:
        """Each partition has some channels of all rows."""
        return cls(image, tuple(Box(Interval(0, image[0]), each) for each in channels), flat)

    @property
    def is_whole(self) -> bool:
        """Whether every partition has all of the value."""
        return all(box == box_of(self.image) for box in self.boxes)

    @property
    def is_by_rows(self) -> bool:
        """Whether each partition has some of the rows."""
        return not self.is_whole and all(box.channels == (0, self.image[2]) for box in self.boxes)

    @property
    def is_by_channels(self) -> bool:
        """Whether each partition has some of the channels, or units."""
        return not self.is_whole and all(box.rows == (0, self.image[0]) for box in self.boxes)

    def shape_at(self, part: int) -> Shape:
        """Return the shape of what a partition has."""
        box = self.boxes[part]
        shape = (box.rows.size, self.image[1], box.channels.size)
        return (box.numbers(self.image[1]),) if self.flat else shape

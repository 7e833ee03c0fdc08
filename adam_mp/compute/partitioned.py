"""The operations of `network.part_layers`: what a partition sends to others, and makes of what it receives.

Each runs in two stages, as a batch norm does: it sends in the first, and the second begins when what others sent has
arrived. Between the two, the process may run another batch. Sums over partitions are added up in the order of the
partitions everywhere, so that all partitions have the same numbers to the last bit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from adam_mp.compute.fusion import Group
from adam_mp.compute.mail import Posts
from adam_mp.compute.normalizing import BatchNormalization
from adam_mp.compute.operation import BatchOperation, Call, Span, Tensors
from adam_mp.kernels import box as kernels
from adam_mp.network.part_layers import ERRORS, VALUES
from adam_mp.network.spread import Box, box_of


class _View(NamedTuple):
    """Images [n, height, width, channels] that hold `box`, with `margin` columns of padding on both sides."""

    images: np.ndarray
    box: Box
    margin: int = 0


class Fetching(BatchOperation):
    """`Fetch`: copies to others what they need, and makes its own box of what it has and what came."""

    reads_inputs = reads_output = False
    adds_errors = True
    of_statistics = False
    remade = True
    posts: Posts

    def __init__(self, group: Group, weights: Tensors, gradients: Tensors, batch: int, block: int, real: type) -> None:
        super().__init__(group, weights, gradients, batch, block, real)
        self.posts = Posts(self.layer, group.name)
        self.part = self.layer.part
        self.own, self.need = self.layer.source.boxes[self.part], self.layer.needs[self.part]
        self.kept = self.layer.piece(self.part, self.part)  # what it needs of its own box
        if group.batchwise and group.wanted[0]:
            self.keeps = self.layer.numbers(self.kept)

    def take(self, span: Span) -> list[Call]:
        has = self._view(span.x, self.own)
        pieces = [(self.layer.piece(self.part, message.receiver), array) for message, array in self.posts.sent(VALUES)]
        return [self._copy(has, self._view(_images(array, span), piece), piece, False) for piece, array in pieces]

    def settle(self, images: int) -> list[Call]:
        return self.posts.send(VALUES)

    def forward(self, span: Span, training: bool) -> list[Call]:
        out = self._view(span.out, self.need, self.layer.margin)
        calls = self._fill(out)
        if self.layer.numbers(self.kept):
            calls.append(self._copy(self._view(span.x, self.own), out, self.kept, False))
        for sender, array in self.posts.received(VALUES).items():
            piece = self.layer.piece(sender, self.part)
            calls.append(self._copy(self._view(_images(array, span), piece), out, piece, False))
        return calls

    def take_errors(self, span: Span) -> list[Call]:
        error = self._view(span.error, self.need, self.layer.margin)
        pieces = [(self.layer.piece(message.receiver, self.part), array) for message, array in self.posts.sent(ERRORS)]
        calls = [self._copy(error, self._view(_images(array, span), piece), piece, False) for piece, array in pieces]
        if span.kept is not None:
            calls.append(self._copy(error, self._view(span.kept, self.kept), self.kept, False))
        return [*calls, *(self.posts.send(ERRORS) if span.last else [])]

    def backward(self, span: Span) -> list[Call]:
        if span.x_error is None:
            return []
        own = self._view(span.error, self.need, self.layer.margin)
        sources = {self.part: (self.kept, own if span.kept is None else self._view(span.kept, self.kept))}
        for sender, array in self.posts.received(ERRORS).items():
            piece = self.layer.piece(self.part, sender)
            sources[sender] = piece, self._view(_images(array, span), piece)
        target, calls, add = self._view(span.x_error, self.own), list[Call](), span.adds[0]
        # If all have the whole value, all must add in one order, to have the same bits. Else this partition alone has
        # the sum, and begins with its own piece: that is the largest, and needs no zeros below it.
        order = sorted(sources, key=lambda part: part if self.layer.source.is_whole else (part != self.part, part))
        if not add and sources[order[0]][0] != self.own:
            calls.append((span.x_error.fill, (0.0,)))
            add = True
        for part in order:
            piece, errors = sources[part]
            if self.layer.numbers(piece):
                calls.append(self._copy(errors, target, piece, add))
            add = True
        return calls

    def _view(self, array: np.ndarray, box: Box, margin: int = 0) -> _View:
        """View values [n, ...] of a box as images."""
        shape = (box.rows.size, self.layer.source.image[1] + 2 * margin, box.channels.size)
        return _View(array.reshape(len(array), *shape), box, margin)

    def _copy(self, source: _View, target: _View, piece: Box, add: bool) -> Call:
        """Return the call that copies a piece, or adds it."""
        places: list[Any] = []
        for images, box, margin in (source, target):
            begins = (piece.rows.begin - box.rows.begin, margin, piece.channels.begin - box.channels.begin)
            places += [images, *begins]
        sizes = (piece.rows.size, self.layer.source.image[1], piece.channels.size)
        return kernels.copy_box, (*places, *sizes, add)

    def _fill(self, out: _View) -> list[Call]:
        """Return the call that writes the padding, if there is any."""
        inside = out.box.rows.meet(box_of(self.layer.source.image).rows)
        if inside == out.box.rows and not out.margin:
            return []
        first = inside.begin - out.box.rows.begin
        columns = (out.margin, out.margin + self.layer.source.image[1])
        fill = out.images.dtype.type(self.layer.fill)
        return [(kernels.fill_around, (out.images, first, first + inside.size, *columns, fill))]


class AddingParts(BatchOperation):
    """`SumOfParts`: sends its part of a mean to all others, and adds up all parts."""

    reads_inputs = reads_output = False
    adds_errors = True
    of_statistics = False
    posts: Posts

    def __init__(self, group: Group, weights: Tensors, gradients: Tensors, batch: int, block: int, real: type) -> None:
        super().__init__(group, weights, gradients, batch, block, real)
        self.posts = Posts(self.layer, group.name)
        self.shares = [real(share) for share in self.layer.shares]

    def take(self, span: Span) -> list[Call]:
        return [(np.copyto, (_images(array, span), span.x)) for _, array in self.posts.sent(VALUES)]

    def settle(self, images: int) -> list[Call]:
        return self.posts.send(VALUES)

    def forward(self, span: Span, training: bool) -> list[Call]:
        received = {part: _images(array, span) for part, array in self.posts.received(VALUES).items()}
        parts = {**received, self.layer.part: span.x}
        return [
            (kernels.add_share, (parts[part].reshape(-1), self.shares[part], span.out.reshape(-1), part > 0))
            for part in sorted(parts)
        ]

    def take_errors(self, span: Span) -> list[Call]:
        return []

    def backward(self, span: Span) -> list[Call]:
        if span.x_error is None:
            return []
        share = self.shares[self.layer.part]
        return [(kernels.add_share, (span.error.reshape(-1), share, span.x_error.reshape(-1), span.adds[0]))]


class PartBatchNormalization(BatchNormalization):
    """Batch norm of rows of images, by the statistics of all partitions."""

    posts: Posts

    def __init__(self, group: Group, weights: Tensors, gradients: Tensors, batch: int, block: int, real: type) -> None:
        super().__init__(group, weights, gradients, batch, block, real)
        self.posts = Posts(self.layer, group.name)
        self.of_parts: np.ndarray = np.zeros((2, len(self.layer.pixels), self.layer.channels))
        self.pixels_of_all = sum(self.layer.pixels)

    def settle(self, images: int) -> list[Call]:
        own = self.of_parts[:, self.layer.part]
        calls: list[Call] = [(np.copyto, (own, self.moments))]
        calls += [(np.copyto, (array.reshape(own.shape), self.moments)) for _, array in self.posts.sent(VALUES)]
        return [*calls, *self.posts.send(VALUES)]

    def forward(self, span: Span, training: bool) -> list[Call]:
        calls: list[Call] = []
        if training and span.first == 0:
            pixels = np.array([span.batch * each for each in self.layer.pixels], np.int64)
            calls += self._receive(VALUES)
            calls.append((kernels.merge_moments, (*self.of_parts, pixels, *self.moments)))
            calls.append(self._scales(int(pixels.sum())))
        return [*calls, *super().forward(span, training)]

    def batch_moments(self, images: int) -> tuple[np.ndarray, np.ndarray]:
        return self.moments[0].copy(), self.moments[1] / (images * self.pixels_of_all)

    def take_errors(self, span: Span) -> list[Call]:
        calls = self._sum_errors(span)
        if span.last:
            own = self.of_parts[:, self.layer.part]
            calls.append((np.copyto, (own, self.sums)))
            calls += [(np.copyto, (array.reshape(own.shape), self.sums)) for _, array in self.posts.sent(ERRORS)]
            calls += self.posts.send(ERRORS)
        return calls

    def backward(self, span: Span) -> list[Call]:
        calls: list[Call] = []
        if not span.accumulate:
            calls += self._receive(ERRORS)
            calls.append((kernels.sum_of_parts, (self.of_parts, self.sums)))
            calls += self._gradients()
        return [*calls, *super().backward(span)]

    def _receive(self, purpose: str) -> list[Call]:
        return [
            (np.copyto, (self.of_parts[:, part], array.reshape(2, -1)))
            for part, array in self.posts.received(purpose).items()
        ]


def _images(array: np.ndarray, span: Span) -> np.ndarray:
    """Return the part of a message [batch, numbers] that is of a span's images."""
    return array[span.first : span.first + len(span.out)]

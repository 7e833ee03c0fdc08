"""The operations of layers that join several values: their sum, their product, and the values side by side."""

from __future__ import annotations

import numpy as np

from adam_mp.compute.fusion import Group
from adam_mp.compute.operation import Call, Operation, Span, Tensors, rows
from adam_mp.kernels import join


class Sum(Operation):
    """The sum of values, with the ReLU after it, if there is one: `out = max(first + second + ..., 0)`."""

    reads_inputs = False
    adds_errors = True

    def __init__(self, group: Group, weights: Tensors, gradients: Tensors, batch: int, block: int, real: type) -> None:
        super().__init__(group, weights, gradients, batch, block, real)
        self.reads_output = self.rectify

    def forward(self, span: Span, training: bool) -> list[Call]:
        out = span.out.reshape(-1)
        first, *others = (each.reshape(-1) for each in span.inputs)
        calls: list[Call] = []
        for number, other in enumerate(others, 1):
            rectify = self.rectify and number == len(others)
            calls.append((join.add_forward, (first, other, out, rectify)))
            first = out
        return calls

    def backward(self, span: Span) -> list[Call]:
        error, out = span.error.reshape(-1), span.out.reshape(-1)
        calls: list[Call] = []
        # Errors that overwrite are written first: two inputs may be the same value, and the second error is then added.
        for add in (False, True):
            each = zip(span.input_errors, span.adds, strict=True)
            targets = [x_error.reshape(-1) for x_error, adds in each if x_error is not None and adds == add]
            while targets:
                target, *targets = targets
                if targets:
                    calls.append((join.pass_error_twice, (error, out, target, targets[0], self.rectify, add)))
                    targets = targets[1:]
                else:
                    calls.append((join.pass_error, (error, out, target, self.rectify, add)))
        return calls


class Product(Operation):
    """The product of two values, of which the second may have one factor a channel for all pixels of an image."""

    reads_output = False
    adds_errors = True

    def _shaped(self, image: np.ndarray, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """View values of the first input as [n, pixels, m], and those of the second as [n, m]."""
        flat = factors.reshape(len(factors), -1)
        return image.reshape(len(image), -1, flat.shape[1]), flat

    def forward(self, span: Span, training: bool) -> list[Call]:
        x, factors = self._shaped(*span.inputs)
        return [(join.multiply, (x, factors, span.out.reshape(x.shape), False))]

    def backward(self, span: Span) -> list[Call]:
        x, factors = self._shaped(*span.inputs)
        error, (x_error, factors_error) = span.error.reshape(x.shape), span.input_errors
        calls: list[tuple[bool, Call]] = []
        if x_error is not None:
            add = span.adds[0]
            calls.append((add, (join.multiply, (error, factors, x_error.reshape(x.shape), add))))
        if factors_error is not None:
            add = span.adds[1]
            arrays = (error, x, factors_error.reshape(factors.shape))
            calls.append((add, (join.multiply_backward, (*arrays, add))))
        # An error that overwrites is written first: both inputs may be the same value.
        return [call for _, call in sorted(calls, key=lambda each: each[0])]


class SideBySide(Operation):
    """Values side by side: each has its channels in every pixel of the output, or its features in every row."""

    reads_inputs = reads_output = False
    adds_errors = True

    def forward(self, span: Span, training: bool) -> list[Call]:
        each = zip(span.inputs, self._begins(), strict=True)
        return [(join.put_columns, (rows(x), rows(span.out), begin, False)) for x, begin in each]

    def backward(self, span: Span) -> list[Call]:
        each = zip(span.input_errors, span.adds, self._begins(), strict=True)
        return [
            (join.take_columns, (rows(span.error), begin, rows(x_error), add))
            for x_error, add, begin in each
            if x_error is not None
        ]

    def _begins(self) -> list[int]:
        """Return the first channel of each input in the output."""
        widths = [shape[-1] for shape in self.group.input_shapes]
        return [sum(widths[:number]) for number in range(len(widths))]

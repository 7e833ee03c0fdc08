"""What shares of the learning rate and of the weight decay each tensor takes, as the update kernels read them.

Tensors of one axis (biases; scale and shift of norms) have no weight decay by default (He et al. 2019, "Bag of Tricks
for Image Classification", section 3.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from adam_mp.kernels.update import END
from adam_mp.memory.layout import Layout


class Share(NamedTuple):
    """The shares of the learning rate and of the weight decay that a tensor takes."""

    rate: float = 1.0
    decay: float = 1.0


Shares = Mapping[str, Share]  # by the tensors' names
WHOLE = Share()


def shares_of(parameters: Mapping[str, tuple[int, ...]], decay_all: bool) -> dict[str, Share]:
    """Return the shares of tensors of these names and shapes; with `decay_all`, those of one axis are decayed too."""
    return {name: Share(decay=float(decay_all or len(shape) > 1)) for name, shape in parameters.items()}


def stretches_of(layout: Layout, shares: Shares) -> np.ndarray:
    """Return the table of the update kernels for a layout, float64 [k, 3].

    Neighbours with the same shares are one row. The padding behind a tensor belongs to it.
    """
    rows: list[tuple[float, float, float]] = []
    for tensor, behind in zip(layout.tensors, [*layout.tensors[1:], None], strict=True):
        share, end = shares[tensor.name], layout.size if behind is None else behind.offset
        if rows and rows[-1][1:] == share:
            rows.pop()
        rows.append((end, *share))
    return np.array(rows)


def whole_stretch(size: int) -> np.ndarray:
    """Return the table of the update kernels for `size` numbers that all take the whole rate and decay."""
    return np.array([(size, *WHOLE)])


def cut_stretches(stretches: np.ndarray, part: slice) -> np.ndarray:
    """Return the table for a part of the flat space, which begins at 0 there; a table without rows if it is empty."""
    begins = np.maximum(np.append(0, stretches[:-1, END]), part.start)
    ends = np.minimum(stretches[:, END], part.stop)
    cut: np.ndarray = stretches[begins < ends]
    cut[:, END] = (ends - part.start)[begins < ends]
    return cut

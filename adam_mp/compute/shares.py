"""What shares of the learning rate and of the weight decay each tensor takes, as the update kernels read them.

Tensors of one axis (biases; scale and shift of norms) have no weight decay by default (He et al. 2019, "Bag of Tricks
for Image Classification", section 3.1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import numpy as np

from adam_mp.errors import SettingsError, shown
from adam_mp.kernels.update import END
from adam_mp.memory.layout import Layout
from adam_mp.proposals import nearest


class Share(NamedTuple):
    """The shares of the learning rate and of the weight decay that a tensor takes."""

    rate: float = 1.0
    decay: float = 1.0


Shares = Mapping[str, Share]  # by the tensors' names
WHOLE = Share()


def shares_of(
    parameters: Mapping[str, tuple[int, ...]], decay_all: bool, rates: Sequence[tuple[str, float]] = ()
) -> dict[str, Share]:
    """Return the shares of tensors of these names and shapes; with `decay_all`, those of one axis are decayed too.

    `rates` are pairs (pattern, share of the learning rate), of which the last that fits a tensor counts. A pattern is
    one of `fnmatch`, for the tensor's name, such as conv1.weight, or its layer's. Raises SettingsError for a pattern
    that fits nothing, and if no tensor is left to train.
    """
    shares = {name: Share(decay=float(decay_all or len(shape) > 1)) for name, shape in parameters.items()}
    for pattern, rate in rates:
        fitting = [name for name in shares if fnmatchcase(name, pattern) or fnmatchcase(_layer(name), pattern)]
        if not fitting:
            known = list(shares) if "." in pattern else list(dict.fromkeys(map(_layer, shares)))
            what = "tensor" if "." in pattern else "layer with weights"
            raise SettingsError(f"--rates: {shown(pattern)} fits no {what} of the network; {nearest(pattern, known)}")
        shares.update({name: shares[name]._replace(rate=rate) for name in fitting})
    if shares and not any(share.rate for share in shares.values()):
        raise SettingsError("--rates gives all tensors a share of 0, so nothing would be trained; leave some out")
    return shares


def _layer(tensor: str) -> str:
    return tensor.rpartition(".")[0]


def of_own_rate(shares: Shares) -> frozenset[str]:
    """Return the names of the tensors whose share of the learning rate is not 1."""
    return frozenset(name for name, share in shares.items() if share.rate != 1)


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

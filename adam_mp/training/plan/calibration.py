"""The shared arrays by which a run's processes agree on the statistics of norms (`compute/calibration.py`).

`calibrated_on` int64 [k] has the numbers of training samples, `statistics` float32 the statistics in the layout of
`Network.statistics`, `calibrated` int64 [2] the number of the evaluation in which a worker has last written them, and
by how many images. All workers write the same numbers: from the same weights, samples and kernels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from adam_mp.memory.layout import Layout
from adam_mp.memory.run_memory import Field
from adam_mp.network.network import Network

# So many images, and more if a norm then had fewer values of each channel. After 4 epochs `cifar-fast`, whose last
# norms have 9 pixels an image, named 91.4% of the test images with 256, and 91.6% with 1,000 and with 5,000.
_IMAGES, _MOST_IMAGES, _VALUES = 256, 2048, 8192
SAMPLES, STATISTICS, CALIBRATED = "calibrated_on", "statistics", "calibrated"


def calibration_fields(network: Network, training: np.ndarray, known: bool) -> dict[str, Field]:
    """Return name -> (type, shape) of the arrays; none without norms. `known`: statistics are given, not measured."""
    if not network.statistics:
        return {}
    return {
        SAMPLES: ("<i8", (0 if known else min(images_for(network), len(training)),)),
        STATISTICS: ("<f4", (Layout.of(network.statistics).size,)), CALIBRATED: ("<i8", (2,)),
    }  # fmt: skip


def images_for(network: Network) -> int:
    """Return on how many images the norms of a network are measured."""
    pixels = [
        math.prod(shape[:-1])
        for node, shape in zip(network.nodes, network.input_shapes, strict=True)
        if node.layer.statistics(shape)
    ]
    return max(_IMAGES, min(_MOST_IMAGES, math.ceil(_VALUES / min(pixels, default=_VALUES))))


def fill_calibration(
    arrays: Mapping[str, np.ndarray], network: Network, training: np.ndarray, known: Mapping[str, np.ndarray] | None
) -> None:
    """Choose samples evenly from the numbers `training`; put in the `known` statistics, if these are given."""
    if SAMPLES not in arrays:
        return
    samples = arrays[SAMPLES]
    samples[...] = training[np.arange(len(samples)) * len(training) // max(len(samples), 1)]
    arrays[CALIBRATED][:] = -1
    for name, view in statistics_in(arrays, network).items():
        view[...] = known[name] if known is not None else 0


def statistics_in(arrays: Mapping[str, np.ndarray], network: Network) -> dict[str, np.ndarray]:
    """Return views of the statistics by name; none without norms."""
    if STATISTICS not in arrays:
        return {}
    return Layout.of(network.statistics).views(arrays[STATISTICS])

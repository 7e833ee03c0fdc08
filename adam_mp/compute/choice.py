"""Which kernels a network's layers use where there are several: the likely faster ones, and the measured ones.

`measurement` makes a choice once for each machine, network and batch size: it times each way on the layer's own shapes.
This module keeps the outcome in a small file beside the compiled kernels. A run notes its choices in its folder, and
keeps them when it is resumed.

Functions import kernels only where they need them, so that commands which only read noted choices load none.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adam_mp import __version__
from adam_mp.compute.fusion import Group, fuse
from adam_mp.compute.tensor_file import write_file
from adam_mp.machine import cpu_name, l2_bytes
from adam_mp.network.description import to_json
from adam_mp.network.graph import Graph
from adam_mp.network.layers import Conv
from adam_mp.network.network import Network

_FILE = "choices.json"
_MOST_IMAGES, _LEAST_PIXELS = 64, 32


@dataclasses.dataclass(frozen=True)
class KernelChoices:
    """`block`: how many images go through the image layers at a time. `ways_back`: layer's name -> backward way.

    A way is a key of `conv_backward.BACKWARD_WAYS`.
    """

    block: int
    ways_back: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"block": self.block, "ways_back": dict(self.ways_back)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> KernelChoices:
        """Rebuild the choices from `as_dict`; raises KeyError, TypeError or ValueError if the values are malformed."""
        return cls(int(values["block"]), {str(name): str(way) for name, way in dict(values["ways_back"]).items()})


def likely_choices(network: Graph) -> KernelChoices:
    """Return choices by shapes alone: the likely faster ways, and a block that fits the L2 cache.

    The largest layer's input, output and error for the images of a block fill three quarters of the L2 cache at most.
    But a convolution whose weights do not fit into that cache reads them anew for each block: such a block has so many
    images that the convolution has at least 32 pixels to compute.
    """
    from adam_mp.compute.conv_backward import ways_back

    bytes_per_image, least, ways = 1, 1, {}
    for group in fuse(network):
        layer: Any = group.layers[0]
        if not isinstance(layer, Conv):
            continue
        before, after = group.input_shape, layer.output_shape(group.input_shape)
        if layer.groups == 1:
            ways[group.name] = ways_back(layer, group.wanted[0])[0]
        bytes_per_image = max(bytes_per_image, 4 * (math.prod(before) + 2 * math.prod(after)))
        if 4 * math.prod(layer.parameters(before)["weight"]) > l2_bytes():
            least = max(least, math.ceil(_LEAST_PIXELS / math.prod(after[:2])))
    return KernelChoices(max(least, min(_MOST_IMAGES, l2_bytes() * 3 // 4 // bytes_per_image)), ways)


def convolutions(network: Graph) -> list[Group]:
    """Return the groups that begin with a convolution of all channels, which has a choice of ways, in their order."""
    first = ((group, group.layers[0]) for group in fuse(network))
    return [group for group, layer in first if isinstance(layer, Conv) and layer.groups == 1]


def read_choices(network: Network, batch: int) -> KernelChoices | None:
    """Return the choices that were measured for this network, batch and machine; None if there are none."""
    from adam_mp.kernels.compilation import cache_folder

    try:
        return KernelChoices.from_dict(_read_file(cache_folder())[_key(network, batch)])
    except (KeyError, TypeError, ValueError):
        return None


def keep_choices(network: Network, batch: int, choices: KernelChoices) -> None:
    """Note measured choices. If the folder cannot be written, the next run measures again."""
    from adam_mp.kernels.compilation import cache_folder

    try:
        folder = cache_folder()
        if folder is not None:
            known = {**_read_file(folder), _key(network, batch): choices.as_dict()}
            write_file(folder / _FILE, (json.dumps(known, indent=1) + "\n").encode())
    except OSError:
        pass


def _read_file(folder: Path | None) -> dict[str, Any]:
    try:
        known = json.loads((folder / _FILE).read_text(encoding="utf-8")) if folder is not None else {}
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _key(network: Network, batch: int) -> str:
    """Return a digest of all that a choice depends on: layers and shapes, batch, machine, kernels and compiler."""
    from adam_mp.kernels.compilation import sources_stamp
    from adam_mp.kernels.vector import VECTOR_BYTES

    versions = [__version__, importlib.metadata.version("numba")]
    parts = [json.dumps(json.loads(to_json(network)), sort_keys=True), str(batch), cpu_name(), str(l2_bytes())]
    kernels = [str(VECTOR_BYTES), sources_stamp()]
    return hashlib.sha256("\n".join([*parts, *versions, *kernels]).encode()).hexdigest()[:24]

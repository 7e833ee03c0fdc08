"""Where the tensors of a network lie that is cut over the partitions of one machine, in one flat space.

Parameters that all partitions have in full lie there once, first those of which each computes a part of the gradient.
Behind them each partition has a block: its columns of all other parameters. So what a partition alone updates is one
stretch, and what all share is another, of which each updates a slice.

    conv1.weight  norm1.scale   | dense1.weight#1 dense1.bias#1 | dense1.weight#2 dense1.bias#2
    shared, summed  shared        block of partition 0            block of partition 1
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from adam_mp.memory.layout import ALIGNMENT, Held, Layout
from adam_mp.network.layer import Shape
from adam_mp.network.partition import PartitionPlan


class ColumnBlocks:
    """A tensor whose columns (last axis) lie in several arrays, side by side; it is read and written as one.

    `np.asarray` makes a copy of the whole. It has what `compute.tensor_file` needs of an array.
    """

    def __init__(self, blocks: Sequence[Any]) -> None:
        self.blocks = blocks
        self.shape: Shape = (*blocks[0].shape[:-1], sum(block.shape[-1] for block in blocks))
        self.dtype = blocks[0].dtype
        self.itemsize = self.dtype.itemsize
        self.nbytes = sum(block.nbytes for block in blocks)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(np.concatenate(self.blocks, axis=-1), dtype)

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Return some rows, or of a tensor of one axis the whole's, as a new array."""
        if len(self.shape) == 1:
            found: np.ndarray = np.asarray(self)[rows]
            return found
        return np.concatenate([block[rows] for block in self.blocks], axis=-1)

    def __setitem__(self, rows: Any, values: Any) -> None:
        """Set some rows (of the first axis), or all with `...`; of a tensor of one axis, some columns."""
        whole = np.asarray(values)
        if len(self.shape) == 1 and rows is not ...:
            self._set_columns(range(*rows.indices(self.shape[0])), whole)
            return
        begin = 0
        for block in self.blocks:
            end = begin + block.shape[-1]
            block[rows] = whole[..., begin:end] if whole.ndim else whole
            begin = end

    def _set_columns(self, columns: range, values: np.ndarray) -> None:
        begin = 0
        for block in self.blocks:
            first, last = max(columns.start, begin), min(columns.stop, begin + len(block))
            if first < last:
                block[first - begin : last - begin] = values[first - columns.start : last - columns.start]
            begin += len(block)

    def copy(self) -> np.ndarray:
        """Return the whole as a new array."""
        return np.concatenate(self.blocks, axis=-1)


WholeTensors = Mapping[str, Any]  # name -> array, ColumnBlocks, or another that is read and written as one


@dataclasses.dataclass(frozen=True)
class PartStorage:
    """The flat space of a network cut as `plan` says.

    `layout` has its tensors by their names there, such as `dense1.weight#2`. The flat space of the gradient of a
    partition (`part_layout`) begins with the shared tensors as well, in the same places, and then has its own block.
    """

    plan: PartitionPlan

    @cached_property
    def shared(self) -> tuple[str, ...]:
        """The names of the parameters that all partitions have in full, those with summed gradients first."""
        names = [name for name in self.plan.network.parameters if name not in self.plan.columns]
        return tuple(sorted(names, key=lambda name: name not in self.plan.summed))

    @cached_property
    def cut(self) -> tuple[str, ...]:
        """The names of the parameters of which each partition has some columns."""
        return tuple(name for name in self.plan.network.parameters if name in self.plan.columns)

    @cached_property
    def layout(self) -> Layout:
        """The layout of the whole flat space."""
        shapes = {name: self.plan.network.parameters[name] for name in self.shared}
        for part, graph in enumerate(self.plan.graphs):
            shapes.update({self.stored_name(name, part): graph.parameters[name] for name in self.cut})
        return Layout.of(shapes)

    def part_layout(self, part: int) -> Layout:
        """Return the layout of a partition's gradient."""
        own = self.plan.graphs[part].parameters
        return Layout.of({name: own[name] for name in (*self.shared, *self.cut)})

    def stored_name(self, name: str, part: int) -> str:
        """Return the name in the layout of what a partition has of a parameter."""
        return name if name in self.shared else f"{name}#{part + 1}"

    def name_of(self, stored: str) -> str:
        """Return the name of the parameter of which a tensor of the layout is a part."""
        return stored.partition("#")[0]

    @property
    def summed_size(self) -> int:
        """Where the shared tensors with summed gradients end."""
        return self._end_of([name for name in self.shared if name in self.plan.summed])

    @property
    def shared_size(self) -> int:
        """Where the shared tensors end."""
        return self._end_of(self.shared)

    def block(self, part: int) -> slice:
        """Return the place of a partition's own block in the flat space."""
        size = self.part_layout(part).size - self.shared_size
        begin = self.shared_size + sum(self.part_layout(each).size - self.shared_size for each in range(part))
        return slice(begin, begin + size)

    def slices(self, part: int) -> tuple[slice, slice]:
        """Return the slices of the summed and of the other shared tensors that a partition updates."""
        found = []
        for begin, end in ((0, self.summed_size), (self.summed_size, self.shared_size)):
            lines = (end - begin) // ALIGNMENT
            low, high = (begin + ALIGNMENT * (lines * each // self.plan.parts) for each in (part, part + 1))
            found.append(slice(low, high))
        return found[0], found[1]

    @cached_property
    def exchanged(self) -> Layout:
        """The same flat space as groups exchange it with parameter servers: matrices of what each partition updates.

        Its matrices have the slices of the shared tensors, and the blocks: their rows are cache lines, so no shard has
        numbers of two partitions. Which tensor a number belongs to does not matter to a server.
        """
        parts = range(self.plan.parts)
        places = {
            **{f"summed/{part + 1}": self.slices(part)[0] for part in parts},
            **{f"shared/{part + 1}": self.slices(part)[1] for part in parts},
            **{f"block/{part + 1}": self.block(part) for part in parts},
        }
        return Layout.of(
            {
                name: ((place.stop - place.start) // ALIGNMENT, ALIGNMENT)
                for name, place in places.items()
                if place.stop > place.start
            }
        )

    def held(self, part: int, servers: int) -> Held:
        """Return the shards that a partition exchanges which is alone on its machine, as it is in `part_layout`."""
        summed, shared = self.slices(part)
        offsets = {
            f"summed/{part + 1}": summed.start, f"shared/{part + 1}": shared.start,
            f"block/{part + 1}": self.shared_size,
        }  # fmt: skip
        return Held.some_of(self.exchanged.for_servers(servers), offsets, self.part_layout(part).size)

    def part_views(self, flat: np.ndarray, part: int) -> dict[str, np.ndarray]:
        """Return what a partition has of the parameters in `flat` [layout.size], as views by their names."""
        views = self.layout.views(flat)
        return {name: views[self.stored_name(name, part)] for name in self.plan.network.parameters}

    def part_statistics(self, statistics: Mapping[str, np.ndarray], part: int) -> dict[str, np.ndarray]:
        """Return what a partition's norms know of the training images, as views into those of the whole network."""
        found = {}
        for name, whole in statistics.items():
            columns = self.plan.columns.get(f"{name.rpartition('.')[0]}.scale")
            found[name] = whole if columns is None else whole[slice(*columns[part])]
        return found

    def whole_views(self, flat: np.ndarray) -> dict[str, np.ndarray | ColumnBlocks]:
        """Return the parameters in `flat` [layout.size] by their names: views, and those that are cut as one each."""
        views, parts = self.layout.views(flat), range(self.plan.parts)
        whole: dict[str, np.ndarray | ColumnBlocks] = {}
        for name in self.plan.network.parameters:
            if name in self.plan.columns:
                whole[name] = ColumnBlocks([views[self.stored_name(name, part)] for part in parts])
            else:
                whole[name] = views[name]
        return whole

    def _end_of(self, names: Any) -> int:
        sizes = Layout.of({name: self.plan.network.parameters[name] for name in names})
        return sizes.size if names else 0

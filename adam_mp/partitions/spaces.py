"""The tensors of a network whose partitions are on several machines, read and written as one, on the leader's machine.

Each machine has a flat space of what its partition has (`PartStorage.part_layout`). What another has of a tensor is
fetched when it is read, and sent when it is written, one tensor or some of its rows at a time: so no process ever has
all of the network. A tensor that all have in full is read here and written everywhere. Of its optimizer state each
partition has the slice that it updates.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from adam_mp.compute.part_storage import ColumnBlocks, PartStorage
from adam_mp.network.layer import Shape
from adam_mp.partitions.frames import WEIGHTS


class RemoteParts(Protocol):
    """The flat spaces of the partitions on other machines, by name of the space (`frames.space_names`)."""

    def read(self, part: int, space: str, begin: int, end: int) -> np.ndarray:
        """Return the numbers from `begin` to `end` of a partition's flat space, float32."""

    def write(self, part: int, space: str, begin: int, values: np.ndarray) -> None:
        """Set the numbers from `begin` on."""


class _Remote:
    """A tensor of shape `shape` that begins at number `offset` of some partition's flat space."""

    def __init__(self, remote: RemoteParts, space: str, offset: int, shape: Shape) -> None:
        self._remote, self._space, self._offset = remote, space, offset
        self.shape, self.dtype = shape, np.dtype(np.float32)
        self.itemsize = self.dtype.itemsize
        self.nbytes = self.itemsize * int(np.prod(shape))

    def __len__(self) -> int:
        return self.shape[0]

    def _range(self, rows: Any) -> tuple[int, int, Shape]:
        """Return the numbers that some rows have, from the tensor's first, and their shape; `rows` may be `...`."""
        first, last, _ = (slice(None) if rows is ... else rows).indices(self.shape[0])
        row = int(np.prod(self.shape[1:]))
        return first * row, last * row, (last - first, *self.shape[1:])


class RemoteBlock(_Remote):
    """What partition `part` has of a tensor; a block of `ColumnBlocks`."""

    def __init__(self, remote: RemoteParts, part: int, space: str, offset: int, shape: Shape) -> None:
        super().__init__(remote, space, offset, shape)
        self._part = part

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        count = self.nbytes // self.itemsize
        found = self._remote.read(self._part, self._space, self._offset, self._offset + count)
        return np.asarray(found.reshape(self.shape), dtype)

    def __getitem__(self, rows: slice) -> np.ndarray:
        first, last, shape = self._range(rows)
        return self._remote.read(self._part, self._space, self._offset + first, self._offset + last).reshape(shape)

    def __setitem__(self, rows: Any, values: Any) -> None:
        first, _, shape = self._range(rows)
        whole = np.ascontiguousarray(np.broadcast_to(np.asarray(values, np.float32), shape)).reshape(-1)
        self._remote.write(self._part, self._space, self._offset + first, whole)


class SharedTensor(_Remote):
    """A tensor that all partitions have in full; `own` is this machine's. The optimizer state `slices[part]` may have.

    `slices` are, by partition, the numbers of the tensor of which that partition alone has the present values; empty
    for weights, which are the same everywhere.
    """

    def __init__(
        self, remote: RemoteParts, space: str, offset: int, own: np.ndarray, slices: dict[int, list[slice]],
        parts: int,
    ) -> None:  # fmt: skip
        super().__init__(remote, space, offset, own.shape)
        self._own, self._slices, self._parts = own, slices, parts

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        found = self._own.copy().reshape(-1)
        for part, places in self._slices.items():
            for place in places:
                found[place] = self._remote.read(
                    part, self._space, self._offset + place.start, self._offset + place.stop
                )
        return np.asarray(found.reshape(self.shape), dtype)

    def copy(self) -> np.ndarray:
        """Return the whole as a new array."""
        return np.asarray(self)

    def __getitem__(self, rows: slice) -> np.ndarray:
        found: np.ndarray = np.asarray(self)[rows]
        return found

    def __setitem__(self, rows: Any, values: Any) -> None:
        self._own[rows] = values
        first, last, _ = self._range(rows)
        whole = self._own.reshape(-1)[first:last]
        for part in range(1, self._parts):
            self._remote.write(part, self._space, self._offset + first, whole)


def level(storage: PartStorage, remote: RemoteParts, own: np.ndarray) -> None:
    """Give all machines the same shared tensors, `own` among them: each slice is that of the partition that updates it.

    `own` is the flat space of the weights of partition 0, here. Members must be idle.
    """
    parts = range(storage.plan.parts)
    for owner in parts:
        for place in storage.slices(owner):
            if place.stop == place.start:
                continue
            if owner:
                own[place] = remote.read(owner, WEIGHTS, place.start, place.stop)
            for part in parts[1:]:
                if part != owner:
                    remote.write(part, WEIGHTS, place.start, own[place])


def tensors_of(
    storage: PartStorage, remote: RemoteParts, space: str, own: np.ndarray, is_state: bool
) -> dict[str, SharedTensor | ColumnBlocks]:
    """Return name -> tensor of the whole network, of the flat space `space`; `own` is that of partition 0, here.

    `is_state` says that it is an optimizer state.
    """
    plan, layouts = storage.plan, [storage.part_layout(part) for part in range(storage.plan.parts)]
    views = layouts[0].views(own)
    places = [{tensor.name: tensor.offset for tensor in layout.tensors} for layout in layouts]
    found: dict[str, SharedTensor | ColumnBlocks] = {}
    for name in plan.network.parameters:
        offset = places[0][name]
        if name in plan.columns:
            others = [
                RemoteBlock(remote, part, space, places[part][name], plan.graphs[part].parameters[name])
                for part in range(1, plan.parts)
            ]
            found[name] = ColumnBlocks([views[name], *others])
        else:
            slices = _slices_in(storage, offset, views[name].size) if is_state else {}
            found[name] = SharedTensor(remote, space, offset, views[name], slices, plan.parts)
    return found


def _slices_in(storage: PartStorage, offset: int, size: int) -> dict[int, list[slice]]:
    """Return partition -> what it updates of a shared tensor that has the numbers from `offset` on; without 0."""
    found = {}
    for part in range(1, storage.plan.parts):
        meets = [(max(each.start, offset) - offset, min(each.stop, offset + size) - offset)
                 for each in storage.slices(part)]  # fmt: skip
        found[part] = [slice(begin, end) for begin, end in meets if begin < end]
    return found

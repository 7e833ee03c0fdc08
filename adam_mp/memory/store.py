"""The parameter store: weights and optimizer state in an arena, updated in place by many processes with no lock.

Races between workers are intended: two workers may add to one weight at once, and one addition may be lost. Updates
commute, and training absorbs the noise (paper, section 3.2.2). Only the count of updates is atomic. A worker reads it
before it reads the weights and again when it updates them; the difference is the staleness of its update.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from adam_mp.kernels.atomic import fetch_add, observe, publish
from adam_mp.memory.arena import Arena, ArenaHandle
from adam_mp.memory.layout import Layout

_UPDATES, _ELSEWHERE = 0, 8  # indices into the arena's counters, each on its own cache line


@dataclasses.dataclass(frozen=True)
class StoreHandle:
    """What a child needs to attach to a parameter store."""

    arena: ArenaHandle
    state_names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class StoreStatistics:
    """What a store holds: updates applied so far, how many weights (`numbers`), optimizer states per weight."""

    updates: int
    numbers: int
    states: int


class ParameterStore:
    """Weights and optimizer state of one network.

    `weights` is a flat space, float32 [layout.size]; `states[name]` is another for each state name of the optimizer.
    `tensors` are views of the weights by name. Any process may read and write all of them at any time.
    """

    def __init__(self, arena: Arena, state_names: tuple[str, ...]) -> None:
        self._arena = arena
        self.layout = arena.layout
        self.weights = arena.spaces[0]
        self.states = dict(zip(state_names, arena.spaces[1:], strict=True))
        self.tensors = self.layout.views(self.weights)

    @classmethod
    def create(cls, layout: Layout, state_names: tuple[str, ...], folder: Path | None = None) -> ParameterStore:
        """Make a zeroed store; the calling process owns it. Raises SpaceError if there is no room."""
        return cls(Arena.create("store", layout, 1 + len(state_names), folder), state_names)

    @classmethod
    def attach(cls, handle: StoreHandle) -> ParameterStore:
        """Map a store that the supervisor made; raises ProcessError if it differs from the handle."""
        return cls(Arena.attach(handle.arena), handle.state_names)

    @property
    def handle(self) -> StoreHandle:
        """What to send to a child, which must also inherit the segment's descriptor."""
        return StoreHandle(self._arena.handle, tuple(self.states))

    def load(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Copy named weights into the store; names and shapes must be those of the layout."""
        for name, view in self.tensors.items():
            view[...] = tensors[name]

    def read_updates(self) -> int:
        """Return how many updates all workers of this machine have applied so far."""
        return int(observe(self._arena.counters, _UPDATES))

    def read_step(self) -> int:
        """Return how many updates the whole run has made: those applied here, and those of other replicas."""
        return self.read_updates() + int(observe(self._arena.counters, _ELSEWHERE))

    def set_elsewhere(self, updates: int) -> None:
        """Set how many updates other replicas have made so far."""
        publish(self._arena.counters, _ELSEWHERE, updates)

    def count_update(self) -> int:
        """Count one more update, atomically; return how many there were before it."""
        return int(fetch_add(self._arena.counters, _UPDATES, 1))

    def set_updates(self, updates: int) -> None:
        """Set the count of updates, while no other process counts one.

        It is set when a run resumes, when it goes back to its last good state, and at each synchronous step.
        """
        self._arena.counters[_UPDATES] = updates

    def statistics(self) -> StoreStatistics:
        """Return what the store holds now."""
        return StoreStatistics(self.read_updates(), self.layout.size, len(self.states))

    def close(self) -> None:
        """Give up this process's mapping."""
        del self.weights, self.states, self.tensors
        self._arena.close()

"""The parameter store: weights and optimizer state in an arena, updated in place by many processes with no lock.

Races happen and are meant to: two workers may add to one weight at once and one addition may be lost; updates commute
and training absorbs the noise (paper, section 3.2.2). Only the count of updates is atomic: it numbers them, and the
difference between two readings is staleness.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from adam_mp.kernels.atomic import fetch_add, observe, publish
from adam_mp.memory.arena import Arena, ArenaHandle
from adam_mp.memory.layout import Layout

_UPDATES, _ELSEWHERE = 0, 8  # indices into the arena's counters, on cache lines of their own


@dataclasses.dataclass(frozen=True)
class StoreHandle:
    """What a child needs to attach to a parameter store."""

    arena: ArenaHandle
    state_names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class StoreStatistics:
    """A store's counters: updates applied so far, numbers of weights, optimizer state tensors per weight."""

    updates: int
    numbers: int
    states: int


class ParameterStore:
    """Weights and optimizer state of one network.

    `weights` is the flat space [layout.size], `states[name]` one more for each name the optimizer asks for;
    `tensors` are the weights by name. Any process may read and write all of them at any time.
    """

    def __init__(self, arena: Arena, state_names: tuple[str, ...]) -> None:
        self._arena = arena
        self.layout = arena.layout
        self.weights = arena.spaces[0]
        self.states = dict(zip(state_names, arena.spaces[1:], strict=True))
        self.tensors = self.layout.views(self.weights)

    @classmethod
    def create(cls, layout: Layout, state_names: tuple[str, ...], folder: Path | None = None) -> ParameterStore:
        """Make a zeroed store, owned by the calling process. Raises SpaceError if there is no room."""
        return cls(Arena.create("store", layout, 1 + len(state_names), folder), state_names)

    @classmethod
    def attach(cls, handle: StoreHandle) -> ParameterStore:
        """Map a store made by the supervisor."""
        return cls(Arena.attach(handle.arena), handle.state_names)

    @property
    def handle(self) -> StoreHandle:
        """What to send to a child."""
        return StoreHandle(self._arena.handle, tuple(self.states))

    def load(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Copy named weights into the store; names and shapes must be those of the layout."""
        for name, view in self.tensors.items():
            view[...] = tensors[name]

    def read_updates(self) -> int:
        """Return the number of updates applied so far by all processes."""
        return int(observe(self._arena.counters, _UPDATES))

    def read_step(self) -> int:
        """Return the number of updates of the whole run: those applied here, and those of other replicas."""
        return self.read_updates() + int(observe(self._arena.counters, _ELSEWHERE))

    def set_elsewhere(self, updates: int) -> None:
        """Say how many updates other replicas have made so far."""
        publish(self._arena.counters, _ELSEWHERE, updates)

    def count_update(self) -> int:
        """Count one more update, atomically; return how many there were before it."""
        return int(fetch_add(self._arena.counters, _UPDATES, 1))

    def set_updates(self, updates: int) -> None:
        """Set the count, while nobody counts: on resume, on going back, at each step of all workers."""
        self._arena.counters[_UPDATES] = updates

    def statistics(self) -> StoreStatistics:
        """Return the store's counters as of now."""
        return StoreStatistics(self.read_updates(), self.layout.size, len(self.states))

    def close(self) -> None:
        """Give up this process's mapping."""
        del self.weights, self.states, self.tensors
        self._arena.close()

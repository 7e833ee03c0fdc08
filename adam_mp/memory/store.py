"""The parameter store: weights and optimizer state in an arena, updated in place by many processes with no lock.

Races between workers are intended: two workers may add to one weight at once, and one addition may be lost. Updates
commute, and training absorbs the noise (paper, section 3.2.2). Only the count of updates is atomic. A worker reads it
before it reads the weights and again when it updates them; the difference is the staleness of its update.

Of an optimizer state that is a worker's own, such as a velocity, the store has one for each worker. What counts for the
run is their sum: the weights will still move by it, whoever has which part. So a checkpoint has the sum, and a run that
begins with it gives each of its workers an equal part, however many there are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from adam_mp.kernels.atomic import exchange, fetch_add, observe, publish
from adam_mp.memory.arena import Arena, ArenaHandle
from adam_mp.memory.layout import Layout

_UPDATES, _ELSEWHERE, _AVERAGED = 0, 8, 16  # indices into the arena's counters, each on its own cache line


@dataclasses.dataclass(frozen=True)
class StoreHandle:
    """What a child needs to attach to a parameter store."""

    arena: ArenaHandle
    state_names: tuple[str, ...]
    own_names: tuple[str, ...] = ()
    workers: int = 1


@dataclasses.dataclass(frozen=True)
class StoreStatistics:
    """What a store holds: updates applied so far, how many weights (`numbers`), optimizer states per weight.

    Each worker's own states count.
    """

    updates: int
    numbers: int
    states: int


def store_spaces(state_names: Collection[str], own_names: Collection[str], workers: int) -> int:
    """Return how many flat spaces a store has: weights, states, and the own states of all workers but the first."""
    return 1 + len(state_names) + len(own_names) * (workers - 1)


class ParameterStore:
    """Weights and optimizer state of one network.

    `weights` is a flat space, float32 [layout.size]; `states[name]` is another for each state name of the optimizer. Of
    the names in `own_names`, each of `workers` workers has a space of its own, and `states` has those of worker 0.
    `tensors` are views of the weights by name. Any process may read and write all of them at any time.
    """

    def __init__(
        self, arena: Arena, state_names: tuple[str, ...], own_names: tuple[str, ...] = (), workers: int = 1
    ) -> None:
        self._arena = arena
        self.layout = arena.layout
        self.own_names, self.workers = own_names, workers
        self.weights = arena.spaces[0]
        first = 1 + len(state_names)
        self.states = dict(zip(state_names, arena.spaces[1:first], strict=True))
        self._others = {  # own states of the workers from worker 1 on
            name: arena.spaces[first + number * (workers - 1) :][: workers - 1] for number, name in enumerate(own_names)
        }
        self.tensors = self.layout.views(self.weights)

    @classmethod
    def create(
        cls, layout: Layout, state_names: tuple[str, ...], folder: Path | None = None,
        own_names: tuple[str, ...] = (), workers: int = 1,
    ) -> ParameterStore:  # fmt: skip
        """Make a zeroed store; the calling process owns it. Raises SpaceError if there is no room.

        `own_names` are those of `state_names` of which each of the workers has its own.
        """
        arena = Arena.create("store", layout, store_spaces(state_names, own_names, workers), folder)
        return cls(arena, state_names, own_names, workers)

    @classmethod
    def attach(cls, handle: StoreHandle) -> ParameterStore:
        """Map a store that the supervisor made; raises ProcessError if it differs from the handle."""
        return cls(Arena.attach(handle.arena), handle.state_names, handle.own_names, handle.workers)

    @property
    def handle(self) -> StoreHandle:
        """What to send to a child, which must also inherit the segment's descriptor."""
        return StoreHandle(self._arena.handle, tuple(self.states), self.own_names, self.workers)

    def states_of(self, worker: int) -> dict[str, np.ndarray]:
        """Return the optimizer states with which a worker updates: those that all share, and its own."""
        own = {name: others[worker - 1] for name, others in self._others.items()} if worker else {}
        return {**self.states, **own}

    def add_own(self, name: str, total: np.ndarray) -> None:
        """Add the own states `name` of all workers but worker 0 to `total`, a flat space [layout.size]."""
        for other in self._others.get(name, ()):
            total += other

    def share_out(self) -> None:
        """Give each worker an equal part of what worker 0 has of its own states, while no process updates."""
        for name, others in self._others.items():
            self.states[name] /= self.workers
            for other in others:
                other[...] = self.states[name]

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

    def note_average(self, step: int) -> int:
        """Note, atomically, that the average of weights moves at step `step` of the run; return the step noted before.

        The caller moves the average by the updates between the two. If two processes do so at the same time, each has
        other updates.
        """
        return int(exchange(self._arena.counters, _AVERAGED, step))

    def statistics(self) -> StoreStatistics:
        """Return what the store holds now."""
        return StoreStatistics(self.read_updates(), self.layout.size, len(self._arena.spaces) - 1)

    def close(self) -> None:
        """Give up this process's mapping."""
        del self.weights, self.states, self.tensors, self._others
        self._arena.close()

"""How many updates the run has made, by replica.

Each update counts once, also when its replica leaves, comes back, or brings a checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping

_MOST_DEPARTED = 10_000
_OTHERS = 0  # key of a sum: updates of replicas that left long ago, and those that only a checkpoint counts


class UpdateCounts:
    """`departed` has, by identity, the updates of replicas that left or are presumed dead.

    `made` in the methods below has those of the present replicas, by their last reports.
    """

    def __init__(self, departed: Mapping[int, int] | None = None) -> None:
        self.departed = dict(departed or {})

    def total(self, made: Mapping[int, int]) -> int:
        """Return how many updates the run has made."""
        return sum(made.values()) + sum(self.departed.values())

    def depart(self, identity: int, updates: int) -> None:
        """Keep the count of a replica that is no member any more."""
        self.departed[identity] = updates
        if len(self.departed) > _MOST_DEPARTED:
            oldest = next(key for key in self.departed if key != _OTHERS)
            self.departed[_OTHERS] = self.departed.get(_OTHERS, 0) + self.departed.pop(oldest)

    def come_back(self, identity: int) -> int | None:
        """Remove and return the count of a replica that is back; None if it never left. It reports its count again."""
        return self.departed.pop(identity, None)

    def bring(self, updates: int) -> None:
        """Add updates that a checkpoint counts and `total` does not."""
        self.departed[_OTHERS] = self.departed.get(_OTHERS, 0) + updates

    def snapshot(self, made: Mapping[int, int]) -> dict[str, int]:
        """Return all counts as plain values. After a restart, today's members count as departed until they rejoin."""
        return {str(identity): updates for identity, updates in {**self.departed, **made}.items()}

"""How many updates the run has made, by replica: each counts once, whoever left, came back or brought a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

_MOST_DEPARTED = 10_000
_OTHERS = 0  # under which the updates of those that left long ago are summed


class UpdateCounts:
    """`departed` has, by identity, the updates of replicas that left or are taken for dead; members tell theirs."""

    def __init__(self, departed: Mapping[int, int] | None = None) -> None:
        self.departed = dict(departed or {})

    def total(self, made: Mapping[int, int]) -> int:
        """Return all updates, where `made` are those of the members."""
        return sum(made.values()) + sum(self.departed.values())

    def depart(self, identity: int, updates: int) -> None:
        """Keep the updates of a replica that is no member any more."""
        self.departed[identity] = updates
        if len(self.departed) > _MOST_DEPARTED:
            oldest = next(key for key in self.departed if key != _OTHERS)
            self.departed[_OTHERS] = self.departed.get(_OTHERS, 0) + self.departed.pop(oldest)

    def come_back(self, identity: int) -> int | None:
        """Return the updates of a replica that departed and is here again; it tells of them itself from here on."""
        return self.departed.pop(identity, None)

    def bring(self, updates: int) -> None:
        """Count updates that a checkpoint has and nobody here knows of."""
        self.departed[_OTHERS] = self.departed.get(_OTHERS, 0) + updates

    def snapshot(self, made: Mapping[int, int]) -> dict[str, int]:
        """Return all counts as plain values; after a restart, members of now have departed."""
        return {str(identity): updates for identity, updates in {**self.departed, **made}.items()}

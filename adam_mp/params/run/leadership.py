"""Which replica of a run is the leader: the one that validates, and keeps checkpoints and the model.

Part of the coordinator.
"""

from __future__ import annotations

from collections.abc import Sequence

from adam_mp.params.run.member import MEMBER_DEADLINE, Member


class Leadership:
    """`identity` is the leader's, 0 for none.

    After a restart of the coordinator, the former leader has `MEMBER_DEADLINE` seconds to join again. Times are seconds
    in which the coordinator listened. `replicas` are the members with this role, in any order.
    """

    def __init__(self, identity: int = 0) -> None:
        self.identity = identity
        self._awaited_until: float | None = MEMBER_DEADLINE if identity else None

    def choose(self, replicas: Sequence[Member]) -> bool:
        """Make the oldest of `replicas` the leader, unless one of them is, or the former leader may still rejoin.

        Return whether a choice was made now.
        """
        if any(replica.identity == self.identity for replica in replicas):
            self._awaited_until = None
        elif self._awaited_until is None:
            oldest = _oldest(replicas)
            self.identity = oldest.identity if oldest is not None else 0
            return True
        return False

    def step(self, replicas: Sequence[Member], listened: float) -> bool:
        """Choose another leader if the former one has not joined again in time; return whether one was chosen."""
        if self._awaited_until is None or listened <= self._awaited_until:
            return False
        self._awaited_until = None
        return self.choose(replicas)

    def holder(self, replicas: Sequence[Member], done: bool) -> Member | None:
        """Return the leader, None if it is no member; in a run that is `done`, the oldest replica then stands in."""
        leader = next((replica for replica in replicas if replica.identity == self.identity), None)
        return _oldest(replicas) if leader is None and done else leader


def _oldest(replicas: Sequence[Member]) -> Member | None:
    return min(replicas, key=lambda member: member.number, default=None)

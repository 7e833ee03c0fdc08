"""A member of a run as the coordinator knows it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from adam_mp.params.run.statements import Joining
from adam_mp.params.run.wishes import Lag

MEMBER_DEADLINE = 15.0  # seconds of silence after which the coordinator presumes a member dead
LIVING = 3.0  # seconds of silence after which a newcomer may have a server's address; servers report twice a second
_MOST_DOUBLINGS = 5
_FORGIVEN = 4  # times as long as it had to wait for copies: without a loss for that, earlier ones do not count
LIFE = 32  # the lower bits of a sequence count a member's messages; the bits above are its life, new at each start


@dataclasses.dataclass
class Member:
    """A replica or a parameter server of the run. `number` is its place in the order of joining, from 1.

    `seen` is when its last message came, in seconds in which the coordinator listened; `joined` is the time by the
    clock. `sequence` and `answer` are those of its last request; `report` holds the statistics of its last REPORT.
    A server of a run with copies `joined_with` what it had; `behind` tells how far behind the copies of its groups are.
    """

    identity: int
    number: int
    role: str
    name: str
    address: str
    seen: float
    joined: float
    sequence: int = 0
    answer: dict[str, Any] = dataclasses.field(default_factory=dict)
    report: dict[str, Any] = dataclasses.field(default_factory=dict)
    trained: int = 0  # images of this run that it was the first to train
    epoch: int = 0  # the epoch of training that it is in, as it last said
    joined_with: Joining | None = None
    behind: Sequence[Lag] = ()
    full: bool = False  # a server that has no memory for another copy
    lost: float = float("-inf")  # when another server found it silent
    losses: int = 0
    gone: bool = False  # it was removed, but has a place in the bucket map and may come back

    @property
    def copies(self) -> str:
        """Where a server listens for copies; "" in a run without them."""
        return self.joined_with.copies if self.joined_with is not None else ""

    @property
    def updates(self) -> int:
        """How many updates it has made since it joined, by its last report."""
        return int(self.report.get("updates", 0))

    def lives_in(self, sequence: int) -> bool:
        """Tell whether `sequence` was made by the same start of the member as the one that joined."""
        return sequence >> LIFE == self.sequence >> LIFE

    def may_take_copies(self, listened: float) -> bool:
        """Tell whether a new copy may be made on this server: it lives, and other servers reach it.

        One that others found silent again and again, because only the coordinator reaches it, waits longer each time.
        """
        return listened - self.seen < LIVING and self.seen > self.lost and listened - self.lost > self._again

    @property
    def _again(self) -> float:
        """Seconds after a loss for which this server gets no new copies."""
        return LIVING * 2.0 ** min(max(self.losses - 1, 0), _MOST_DOUBLINGS)

    def lose(self, listened: float) -> None:
        """Note that another server found this one silent. Several find it at about the same time: that is one loss."""
        since = listened - self.lost
        if since >= LIVING:
            self.losses = self.losses + 1 if since < _FORGIVEN * self._again else 1
        self.lost = listened

    def as_dict(self, now: float, listened: float) -> dict[str, Any]:
        """Return what `status` shows at `now` by the clock; `listened` is how long the coordinator has listened."""
        return {
            **self.report, **self.as_missing(listened), "silent": listened - self.seen >= LIVING,
            "number": self.number, "seconds": round(now - self.joined, 3), "images": self.trained,
        }  # fmt: skip

    def as_missing(self, listened: float) -> dict[str, Any]:
        """Return what `status` shows if it is no member now."""
        return {
            "name": self.name, "role": self.role, "address": self.address, "identity": self.identity,
            "silent_seconds": round(listened - self.seen, 3),
        }  # fmt: skip

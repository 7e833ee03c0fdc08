"""A member of a run as the coordinator knows it."""

from __future__ import annotations

import dataclasses
from typing import Any

MEMBER_DEADLINE = 15.0  # seconds of silence after which a member is taken for dead
LIVING = 3.0  # seconds: a server that was heard so lately may live, and keeps its address; they report twice a second
LIFE = 32  # bits of a sequence that count messages; those above are another life of the sender


@dataclasses.dataclass
class Member:
    """A part of the run that lives: `number` counts members since the start.

    `seen` is when it was last heard, in seconds in which the coordinator listened; `joined` is by the clock.
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
    trained: int = 0  # images of this run
    epoch: int = 0  # in which it believes the run to be
    gone: bool = False  # it is no member now, and may come back

    @property
    def updates(self) -> int:
        """How many updates it has made since it joined, as far as it has told."""
        return int(self.report.get("updates", 0))

    def lives_in(self, sequence: int) -> bool:
        """Tell whether a sequence is of the life in which the member joined."""
        return sequence >> LIFE == self.sequence >> LIFE

    def as_dict(self, now: float, listened: float) -> dict[str, Any]:
        """Return what `status` shows, at `now` by the clock, after `listened` seconds."""
        return {
            **self.report, **self.as_missing(listened), "silent": listened - self.seen >= LIVING,
            "number": self.number, "seconds": round(now - self.joined, 3), "images": self.trained,
        }  # fmt: skip

    def as_missing(self, listened: float) -> dict[str, Any]:
        """Return what `status` shows of one that is no member now."""
        return {
            "name": self.name, "role": self.role, "address": self.address, "identity": self.identity,
            "silent_seconds": round(listened - self.seen, 3),
        }  # fmt: skip

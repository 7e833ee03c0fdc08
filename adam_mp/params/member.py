"""A member of a run as the coordinator knows it."""

from __future__ import annotations

import dataclasses
from typing import Any

from adam_mp.params.statements import RefusedError

_LIVING = 3.0  # seconds: a server that was heard so lately may live, and keeps its address; they report twice a second
_LIFE = 32  # bits of a sequence that count messages; those above are another life of the sender


@dataclasses.dataclass
class Member:
    """A part of the run that lives: `number` counts members since the start, `seen` is when it was last heard."""

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
    claimed: tuple[str, float] = ("", 0.0)  # another address at which one with this identity is, and since when

    def lives_in(self, sequence: int) -> bool:
        """Tell whether a sequence is of the life in which the member joined."""
        return sequence >> _LIFE == self.sequence >> _LIFE

    def claimed_from(self, address: str, now: float) -> str | None:
        """Another at `address` says that it is this server. Return what it waits for; None if it may take the place.

        It is this one started again if this one is silent. Raises RefusedError if it is heard meanwhile.
        """
        if address == self.address or now - self.seen >= _LIVING:
            return None
        if self.claimed[0] != address:
            self.claimed = (address, now)
        elif self.seen > self.claimed[1]:
            raise RefusedError(
                f"the server at {address} has the identity of the one at {self.address}, which runs; "
                "give each a --snapshots folder of its own"
            )
        return f"the same server was heard at {self.address} {now - self.seen:.1f} s ago"

    def as_dict(self, now: float) -> dict[str, Any]:
        """Return what `status` shows."""
        return {
            **self.report,
            "name": self.name, "role": self.role, "address": self.address, "identity": self.identity,
            "number": self.number, "silent_seconds": round(now - self.seen, 3),
            "seconds": round(now - self.joined, 3), "images": self.trained,
        }  # fmt: skip

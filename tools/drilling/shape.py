"""Which parts a run has."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Shape:
    """The parts of a run, by name: each has a machine of its own, in this order; the run is watched from one more.

    `forgetful` are servers without snapshots. With `copies` above 1, all weights are on so many servers. If there are
    parts of the kind "etcd", those are its members, and the coordinator is elected there; else server 0 has it.
    """

    parts: tuple[str, ...]
    forgetful: tuple[str, ...] = ()
    copies: int = 1

    def machine(self, name: str) -> int:
        """Return the number of a part's machine, from 1."""
        return self.parts.index(name) + 1

    @property
    def desk(self) -> int:
        """The machine from which the run is watched."""
        return len(self.parts) + 1

    def of(self, kind: str) -> tuple[str, ...]:
        """Return the parts of a kind: "server", "replica", "data" or "etcd"."""
        return tuple(name for name in self.parts if name.rsplit(" ", 1)[0] == kind)

    def with_etcd(self, members: int) -> Shape:
        """Return the shape with so many members of etcd."""
        return dataclasses.replace(self, parts=(*self.parts, *(f"etcd {number}" for number in range(members))))


PLAIN = Shape(("server 0", "server 1", "server 2", "replica 0", "replica 1", "data 0"), ("server 2",))
COPIED = Shape(
    ("server 0", "server 1", "server 2", "server 3", "replica 0", "replica 1", "replica 2", "data 0", "data 1"),
    ("server 2", "server 3"), copies=3,
)  # fmt: skip

"""The present members of a run, and former members that may come back.

Times called `listened` are seconds in which the coordinator listened.
"""

from __future__ import annotations

from adam_mp.params.run.member import MEMBER_DEADLINE, Member
from adam_mp.params.run.statements import REPLICA, SERVER

RETURNING = 60.0  # seconds of silence in which a replica may still come back: as long as it tries to, by default
_TELLING = 5.0  # seconds that replicas have to find a coordinator that was restarted or elected


class Roster:
    """Members by identity. `missing` are no members now: servers in the bucket map, and replicas that may come back."""

    def __init__(self) -> None:
        self.members: dict[int, Member] = {}
        self.missing: dict[int, Member] = {}
        self._joined = 0

    def add(self, identity: int, role: str, name: str, address: str, listened: float, now: float) -> Member:
        """Add and return a new member; `now` is the time by the clock."""
        self._joined += 1
        member = self.members[identity] = Member(identity, self._joined, role, name, address, listened, now)
        self.missing.pop(identity, None)
        return member

    def expect(self, identity: int, role: str, name: str, address: str) -> None:
        """Add to `missing` a member of the time before the coordinator was restarted."""
        self.missing[identity] = Member(identity, 0, role, name, address, 0.0, 0.0, gone=role == SERVER)

    def known(self, identity: int) -> Member | None:
        """Return the present or missing member with this identity, None if there is none."""
        return self.members.get(identity) or self.missing.get(identity)

    def servers(self) -> list[Member]:
        """The parameter servers that are members, in the order in which they joined."""
        servers = (member for member in self.members.values() if member.role == SERVER)
        return sorted(servers, key=lambda member: member.number)

    def replicas(self) -> list[Member]:
        """The replicas that are members."""
        return [member for member in self.members.values() if member.role == REPLICA]

    def replicas_missing(self) -> list[Member]:
        """The replicas that fell silent without a LEAVE, and may come back."""
        return [member for member in self.missing.values() if member.role == REPLICA]

    def has_to_tell(self, listened: float) -> bool:
        """Whether some replica of the time before a restart may still come and tell which batches it has."""
        return listened < _TELLING and any(member.number == 0 for member in self.replicas_missing())

    def made(self) -> dict[int, int]:
        """Return, by identity, how many updates each replica has made since it joined, by its last report."""
        return {member.identity: member.updates for member in self.replicas()}

    def silent(self, listened: float) -> list[Member]:
        """Return the members that have been silent for longer than `MEMBER_DEADLINE`."""
        return [member for member in self.members.values() if listened - member.seen > MEMBER_DEADLINE]

    def give_up_replicas(self, listened: float) -> None:
        """Remove from `missing` the replicas that have been silent for longer than `RETURNING`."""
        for member in self.replicas_missing():
            if listened - member.seen > RETURNING:
                del self.missing[member.identity]

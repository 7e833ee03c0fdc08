"""Who is a member of a run, and who was one and may come back. Times are seconds in which the coordinator listened."""

from __future__ import annotations

from adam_mp.params.run.member import MEMBER_DEADLINE, Member
from adam_mp.params.run.statements import REPLICA, SERVER

RETURNING = 60.0  # seconds for which a replica that is silent may come back; its own patience by default


class Roster:
    """`members`, and `missing`: no members now, but servers of the map, and replicas that may come back."""

    def __init__(self) -> None:
        self.members: dict[int, Member] = {}
        self.missing: dict[int, Member] = {}
        self._joined = 0

    def add(self, identity: int, role: str, name: str, address: str, listened: float, now: float) -> Member:
        """Make somebody a member, and return it; `now` is the time by the clock."""
        self._joined += 1
        member = self.members[identity] = Member(identity, self._joined, role, name, address, listened, now)
        self.missing.pop(identity, None)
        return member

    def expect(self, identity: int, role: str, name: str, address: str) -> None:
        """Note somebody as missing who was a member before the coordinator was restarted."""
        self.missing[identity] = Member(identity, 0, role, name, address, 0.0, 0.0, gone=role == SERVER)

    def known(self, identity: int) -> Member | None:
        """Return who has this identity, a member or missing."""
        return self.members.get(identity) or self.missing.get(identity)

    def servers(self) -> list[Member]:
        """The parameter servers, in the order in which they came."""
        servers = (member for member in self.members.values() if member.role == SERVER)
        return sorted(servers, key=lambda member: member.number)

    def replicas(self) -> list[Member]:
        """The replicas that are members."""
        return [member for member in self.members.values() if member.role == REPLICA]

    def replicas_missing(self) -> list[Member]:
        """Those that are silent but did not leave, and may come back."""
        return [member for member in self.missing.values() if member.role == REPLICA]

    def made(self) -> dict[int, int]:
        """Return how many updates each replica has made since it joined, as far as it has told."""
        return {member.identity: member.updates for member in self.replicas()}

    def silent(self, listened: float) -> list[Member]:
        """Return the members that are to be taken for dead."""
        return [member for member in self.members.values() if listened - member.seen > MEMBER_DEADLINE]

    def give_up_replicas(self, listened: float) -> None:
        """Expect those replicas no more that were silent for too long."""
        for member in self.replicas_missing():
            if listened - member.seen > RETURNING:
                del self.missing[member.identity]

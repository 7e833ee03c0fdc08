"""The coordinator: who is a member, who has which bucket, who trains which batch. A pure state machine.

Messages go in, answers come out. The clock is an argument and there are no sockets, so tests need no network and can
try every order of events. The first parameter server runs the coordinator in its own process (`coordinator_service`).

A member sends JOIN once, then REPORT at intervals. If a member is silent for `MEMBER_DEADLINE` seconds, the coordinator
presumes it dead and frees the batches leased to it. Only seconds in which the coordinator listened count (`listening`).
Each answer to REPORT tells a replica the batches granted to it, the epoch, and the bucket map.

A restarted coordinator continues from its snapshot. It asks members that it does not know to join again; they then tell
it which batches they have trained and leased.

Anyone may send anything. So the coordinator checks all of a message (`statements`) before any part of it changes the
state: it takes a message whole or refuses it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from adam_mp.errors import several
from adam_mp.machine import free_memory
from adam_mp.memory.ledger import LEASED
from adam_mp.params.run.bucket_map import COMMIT_COPIED, BucketMap
from adam_mp.params.run.copy_roles import newest
from adam_mp.params.run.course import Course
from adam_mp.params.run.leadership import Leadership
from adam_mp.params.run.listening import Listening
from adam_mp.params.run.member import LIFE, Member
from adam_mp.params.run.news import ENDED, News
from adam_mp.params.run.role_changes import RoleChanges
from adam_mp.params.run.roster import RETURNING, Roster
from adam_mp.params.run.run_facts import LARGEST, RunFacts
from adam_mp.params.run.server_places import ServerPlaces
from adam_mp.params.run.statements import REPLICA, SERVER, Joining, Leaving, read_joining, read_reporting
from adam_mp.params.run.update_counts import UpdateCounts
from adam_mp.transport.forms import MalformedError, read, write
from adam_mp.transport.refusal import RefusedError

_MOST_MEMBERS = 10_000
_MOST_NOTICES = 1000  # lines for the user that wait to be shown


class Coordinator:
    """The state of one run. No replica may begin before `expected` parameter servers have joined.

    Each bucket is on `copies` of them, which commit as `commit` says (`BucketMap`). `room` returns the bytes of memory
    that a server has for weights. `notices` are lines for the user, and `role_notices` those of roles; the
    caller removes those that it has shown.
    """

    def __init__(
        self, run: int, expected: int, room: Callable[[], int] = free_memory, copies: int = 1,
        commit: str = COMMIT_COPIED,
    ) -> None:  # fmt: skip
        self.run, self._room = run, room
        self.places = ServerPlaces(expected, copies=copies, commit=commit)
        self.roster = Roster()
        self.course = Course()
        self.updates = UpdateCounts()
        self.leadership = Leadership()
        self.notices: deque[str] = deque(maxlen=_MOST_NOTICES)
        self.role_notices: deque[str] = deque(maxlen=_MOST_NOTICES)
        self.changed = False  # since the last snapshot
        self._listening = Listening()
        self.roles = RoleChanges(self.places, self.roster, self.role_notices)
        self._accompanied = 0.0  # when the run last had a replica as a member, in seconds of listening

    # Messages.

    def join(self, identity: int, facts: Mapping[str, Any], now: float, sequence: int = 0) -> dict[str, Any]:
        """Answer JOIN. A repeated `sequence` has no effect (0: the message has none). Raises RefusedError."""
        asked, member = read_joining(facts), self.roster.members.get(identity)
        self._check_place(identity, member, asked)
        repeated = member is not None and 0 < sequence <= member.sequence and member.lives_in(sequence)
        if member is not None and repeated and identity not in self.roles.anew:
            return self._welcome(member)
        self.roles.anew.discard(identity)
        before = self.map
        if asked.role == SERVER and (waiting := self._place_server(identity, member, asked, sequence >> LIFE)):
            return write(News(waiting=waiting))
        begins = self.course.facts is None
        if asked.facts is not None and (waiting := self._agree(asked, asked.facts, now)):
            return write(News(waiting=waiting))
        if self.map is not before:
            self.roles.need(identity)
        if member is None:
            member = self.roster.add(identity, asked.role, asked.name, asked.address, self.listened, now)
            self.notices.append(f"{member.name} joined")
        member.seen, member.sequence, member.answer = self.listened, sequence, {}
        member.joined_with, member.lost, member.losses = asked, float("-inf"), 0
        if asked.role == REPLICA:
            if (made := self.updates.come_back(identity)) is not None:  # it was presumed dead, and lives
                member.report = {"updates": made}
            member.epoch = asked.epoch
            self.changed |= self.leadership.choose(self.roster.replicas())
            self._take_up(member, asked, begins, now)
        return self._welcome(member)

    def report(self, identity: int, sequence: int, facts: Mapping[str, Any], now: float) -> dict[str, Any]:
        """Answer REPORT: note the trained batches, lease more. A repeated sequence gets the same answer, no effect."""
        course, member = self.course, self.roster.members.get(identity)
        if member is None or not member.lives_in(sequence):
            raise RefusedError("this member is not known here", rejoin=True)
        if sequence <= member.sequence:
            member.seen = self.listened
            return member.answer
        said = read_reporting(facts, course.facts if member.role == REPLICA else None)
        member.seen = self.listened
        member.sequence, member.report = sequence, dict(said.statistics)
        granted: Sequence[int] = ()
        if member.role == SERVER:
            member.behind, member.full = said.behind, said.full
            wishes = () if self.over else said.wishes  # servers that end at the end of a run are not missed
            lines = self.roles.grant(identity, wishes, self.listened)
            self.changed |= bool(lines)
            self.role_notices.extend(lines)
        if member.role == REPLICA:
            member.epoch = said.epoch
            if member.epoch == course.epoch:
                self._note_trained(member, said.trained, said.failed)
                self._end_epoch_at_quorum(now)
        present = member.epoch == course.epoch and course.phase == "training"
        if present and said.wanted and not self.roster.has_to_tell(self.listened):
            granted = course.batches.grant(identity, said.wanted, len(self.roster.replicas()))
        news = dataclasses.replace(self._news(member), granted=tuple(granted))
        if said.states and present:
            done = bytes.fromhex(course.batches.done())
            news = dataclasses.replace(news, done=done, failed_in=course.batches.failed)
        member.answer = write(news)
        return member.answer

    def leave(self, identity: int, facts: Mapping[str, Any] | None = None, sequence: int = 0) -> None:
        """Take LEAVE: the sender goes, or says that the member named in `facts` is dead.

        The batches leased to the member that goes are free again; its updates stay counted. Raises RefusedError unless
        the sender is a member and `sequence` is of that member's life. `status` shows identities to everybody, but not
        lives, so nobody can send LEAVE in the name of a member.
        """
        said, sender = read(Leaving, facts or {}, RefusedError), self.roster.known(identity)
        named = identity if said.member is None else said.member
        if sender is None or not sender.lives_in(sequence):
            raise RefusedError("who says that a member goes is no member itself")
        member = self._part_with(named)
        if member is None and (missing := self.roster.missing.get(named)) is not None and missing.role == REPLICA:
            member = missing
        if member is not None:
            if member.role == REPLICA:
                self.roster.missing.pop(named, None)
            self.notices.append(f"{member.name} left" if named == identity else f"{member.name} died")

    def is_replica(self, identity: int) -> bool:
        """Tell whether a replica with this identity is a member, or may be by what an earlier coordinator knew."""
        member = self.roster.known(identity)
        return member is not None and member.role == REPLICA and self._may_send(member)

    def step(self, now: float, behind: bool = False) -> list[Member]:
        """Remove the members that have been silent too long; return them. Silent servers keep their buckets.

        The caller calls it each time it has read messages; `behind` says that it left some unread.
        """
        listened = self._listening.step(now, behind)
        if self.roster.replicas() or self.phase == "done":
            self._accompanied = listened
        self.roster.give_up_replicas(listened)
        self.changed |= self.leadership.step(self.roster.replicas(), listened)
        silent = self.roster.silent(listened)
        for member in silent:
            self._part_with(member.identity)
            if member.role == REPLICA:
                self.roster.missing[member.identity] = member
            leased = ": what it had leased is free again" if member.role == REPLICA else ""
            self.notices.append(f"{member.name} is silent{leased}")
        if self.phase == "training":
            self.changed |= self.roles.make_copies(self.listened)
        return silent

    def state(self, now: float) -> dict[str, Any]:
        """Return what `status` shows of the run, at `now` by the clock, as plain values."""
        course, told = self.course, self.roles.told()
        return {
            "run": f"{self.run:016x}",
            "phase": course.phase,
            "epoch": course.epoch,
            "epochs": course.facts.epochs if course.facts else None,
            "images": course.facts.images if course.facts else None,
            "trained": course.trained,
            "leased": course.batches.images_in(LEASED),
            "finished": ENDED.write(course.finished),
            "map": told.as_dict() if told else None,
            "behind": [[lag.group, lag.place, lag.shards] for each in self.roster.servers() for lag in each.behind],
            "members": [
                {**member.as_dict(now, self.listened), "leader": member is self._leader()}
                for member in sorted(self.roster.members.values(), key=lambda member: member.number)
            ],
            "missing": [member.as_missing(self.listened) for member in self.roster.missing.values()],
        }  # fmt: skip

    @property
    def awaited(self) -> str | None:
        """Whom the run waits for, in words; None if it waits for nobody."""
        if self.map is None and (missing := self.places.expected - len(self.roster.servers())) > 0:
            return several(missing, "more parameter server")
        if self.phase == "waiting":
            return "the first replica"
        if self.roster.replicas():
            return None
        if self.phase == "training":
            return "a replica"
        # A replica that lost its connection at the end of the run may still bring its last updates.
        silent = min((member.name for member in self.roster.replicas_missing()), default=None)
        return silent and f"{silent}, which is silent: it may be back within {RETURNING:g} s of its last word"

    @property
    def alone(self) -> float:
        """Seconds of listening since the run last had a replica; a run that is done does not count them."""
        return self.listened - self._accompanied

    @property
    def awaited_replicas(self) -> int:
        """How many replicas the servers wait for before they end: members, and silent ones that may come back."""
        return len(self.roster.replicas()) + len(self.roster.replicas_missing())

    @property
    def over(self) -> bool:
        """Whether the run is done, and no replica is in it or may come back to it."""
        return self.phase == "done" and not self.awaited_replicas

    @property
    def map(self) -> BucketMap | None:
        """Which server has which bucket, as is decided; None before a replica has told the layout."""
        return self.places.map

    @property
    def phase(self) -> str:
        """One of "waiting" (for servers or a first replica), "training", "done"."""
        return self.course.phase

    @property
    def listened(self) -> float:
        """Seconds in which the coordinator listened; the silence of members is measured in these."""
        return self._listening.seconds

    # A snapshot of it.

    def snapshot(self) -> dict[str, Any]:
        """Return all that must outlive the process, as plain values."""
        self.changed = False
        replicas = (*self.roster.replicas_missing(), *self.roster.replicas())
        everybody = (*self.roster.missing.values(), *self.roster.members.values())
        return {
            "run": self.run, **self.places.snapshot(), **self.course.snapshot(),
            "departed": self.updates.snapshot(self.roster.made()),
            "replicas": {str(member.identity): member.name for member in replicas},
            "lives": {str(member.identity): member.sequence >> LIFE for member in everybody},
            "leader": self.leadership.identity,
        }  # fmt: skip

    @classmethod
    def restored(cls, facts: Mapping[str, Any]) -> Coordinator:
        """Rebuild a coordinator from its snapshot, without members; raises RefusedError if it is malformed."""
        try:
            self = cls(int(facts["run"]), int(facts["expected"]))
            self.updates = UpdateCounts({int(each): int(updates) for each, updates in facts["departed"].items()})
            self.places = ServerPlaces.restored(facts)
            self.roles = RoleChanges(self.places, self.roster, self.role_notices)
            for server in self.map.servers if self.map is not None else ():
                self.roster.expect(server.identity, SERVER, f"params {server.address}", server.address)
            for identity, name in facts.get("replicas", {}).items():
                self.roster.expect(int(identity), REPLICA, str(name), "")
            for member in self.roster.missing.values():  # so that LEAVE from one that has not rejoined can be checked
                member.sequence = int(facts.get("lives", {}).get(str(member.identity), 0)) << LIFE
            self.leadership = Leadership(int(facts.get("leader", 0)))
            self.course = Course.restored(facts)
            return self
        except (KeyError, TypeError, ValueError, IndexError, OverflowError, AttributeError, MalformedError) as error:
            raise RefusedError(f"the coordinator's snapshot is malformed: {error!r}") from None

    # The effects of messages.

    def _check_place(self, identity: int, member: Member | None, asked: Joining) -> None:
        """Raise RefusedError if the identity is none, the run has too many members, or the member had another role."""
        if not 0 < identity <= LARGEST:
            raise RefusedError(f"the sender is {identity}; expected a number of its own, above 0")
        if member is None and len(self.roster.members) + len(self.roster.missing) >= _MOST_MEMBERS:
            raise RefusedError(f"the run has {_MOST_MEMBERS} members already")
        known = self.roster.known(identity)
        if known is not None and known.role != asked.role:
            raise RefusedError(f"{known.name} has the role {known.role}, and joins as {asked.role}; start it again")

    def _place_server(self, identity: int, member: Member | None, asked: Joining, life: int) -> str | None:
        """Give a joining server a place, and write it into the map. Raises RefusedError if there is no place for it.

        Return what the server has to wait for, in words, if the present holder of the place may still live; else None.
        """
        held = self.roster.servers()
        if self.map is not None:
            known = {**self.roster.missing, **self.roster.members}
            held = [known[server.identity] for server in self.map.servers]
        address = asked.address
        if self.places.copies > 1 and not asked.copies:
            raise RefusedError(f"this run keeps {self.places.copies} copies; start the server with --copies too")
        entry = self.places.enter(identity, address, held, self.listened, asked.copies)
        if entry.waiting:
            return entry.waiting
        if entry.moved_from:
            self.changed = True
            self.notices.append(f"a parameter server has moved from {entry.moved_from} to {address}")
        if (old := entry.replaced) is not None:
            self.changed = True
            self._part_with(old.identity)
            self.roster.missing.pop(old.identity, None)
            silent = f"silent for {self.listened - old.seen:.0f} s"
            self.notices.append(f"the parameter server at {address} takes the place of {old.name}, {silent}")
        if member is not None:
            member.address, member.name = address, member.name.replace(member.address, address)
        if self.map is not None and self.map.copied:
            if asked.run == self.run:
                self.changed |= self.roles.learn(asked.map, self.listened)
            self.changed |= self.roles.lose_memory(identity, life, asked.kept, self.listened)
        return None

    def _agree(self, asked: Joining, offered: RunFacts, now: float) -> str | None:
        """Check that a replica agrees with the run, or begin the run with its facts; make the bucket map.

        Return what the replica has to wait for, in words, or None. Raises RefusedError if the replica does not fit.
        """
        facts = self.course.facts
        if facts is not None and (difference := facts.difference(offered)):
            raise RefusedError(f"this replica has {difference}; start it with the settings of the run")
        if self.roles.elected and asked.run not in (0, self.run):
            raise RefusedError(
                f"this replica is of run {asked.run:x}, the run in etcd is {self.run:x}; start the replica again"
            )
        if self.phase == "done" and asked.run != self.run:  # a replica of this run may still have to validate
            raise RefusedError("the run is done; start new parameter servers for another")
        if facts is None:
            offered.check_room(self.places.expected, self._room())
        if self.map is None:
            servers = self.roster.servers()
            if asked.run and asked.map is not None and len(asked.map.servers) != self.places.expected:
                return (
                    f"the run has {several(len(asked.map.servers), 'parameter server')}, and this coordinator was "
                    "started for "
                    f"{self.places.expected}; start it again with --servers {len(asked.map.servers)}"
                )
            if len(servers) < self.places.expected:
                return f"parameter servers there so far: {len(servers)} of {self.places.expected}"
            self._make_map(servers, asked)
        elif asked.run == self.run and self.map.copied:
            self.changed |= self.roles.learn(asked.map, self.listened)
        elif self.places.outgrow(asked.map if asked.run == self.run else None):
            self.changed = True
        if facts is None:
            self.run, self.changed = asked.run or self.run, True
            self.course.begin(offered, asked.epoch, now)
        return None

    def _make_map(self, servers: Sequence[Member], asked: Joining) -> None:
        """Make the bucket map, like the newest that a replica and the servers were told before, if they were."""
        self.changed = True
        if not asked.run or asked.map is None:
            self.places.make_map(servers, None)
            return
        joined = {server.identity: server.joined_with for server in servers}
        told = [each.map for each in joined.values() if each is not None and each.run == asked.run]
        made = self.places.make_map(servers, functools.reduce(newest, told, asked.map))
        for server in made.servers if made.copied else ():
            each = joined[server.identity]
            kept = each.kept if each is not None else ()
            self.roles.lose_memory(
                server.identity, self.roster.members[server.identity].sequence >> LIFE, kept, self.listened
            )

    def _take_up(self, member: Member, asked: Joining, begins: bool, now: float) -> None:
        """Note what a joining replica did before: in this run, until the coordinator restarted, or in a checkpoint.

        The replica that `begins` the run may bring a checkpoint: the batches trained in it count. Batches that any
        other newcomer trained do not count, because the run's weights do not have their updates.
        """
        course, was_here = self.course, asked.run == self.run
        if was_here:
            self.changed |= course.catch_up(asked.epoch, asked.finished, now)
        # The run has made all updates that a checkpoint counts. Those that our counts lack were made before the run was
        # resumed, or their count was lost with a snapshot.
        unknown = asked.updates - self.updates.total(self.roster.made())
        if unknown > 0 and (begins or (not was_here and asked.epoch <= course.epoch)):
            self.updates.bring(unknown)
            self.changed = True
        course.batches.free(member.identity)  # a batch that we granted but the replica does not list never reached it
        if asked.epoch != course.epoch or not (begins or was_here):
            return
        # If these batches complete the epoch, it does not end here but at the next REPORT: by then the replica has
        # opened the epoch, and will validate it.
        self._note_trained(member, asked.trained, asked.failed)
        course.batches.take(member.identity, asked.leased)

    def _note_trained(self, member: Member, batches: Sequence[int], failed: Mapping[int, int]) -> None:
        if batches:
            member.trained += self.course.batches.note_trained(member.identity, batches, failed)
            self.changed = True

    def _end_epoch_at_quorum(self, now: float) -> None:
        if (line := self.course.end_epoch_at_quorum(now)) is not None:
            self.notices.append(line)
            self.changed = True
            if self.phase == "done":
                self.notices.append("the run is done")

    def _part_with(self, identity: int) -> Member | None:
        """Remove a member and return it: batches leased to it are free again, its updates stay counted."""
        self.course.batches.free(identity)
        member = self.roster.members.pop(identity, None)
        if member is None:
            return None
        if member.role == REPLICA:
            self.updates.depart(identity, member.updates)
        elif self.map is not None and any(server.identity == identity for server in self.map.servers):
            member.gone = True
            self.roster.missing[identity] = member
        self.changed |= self.leadership.choose(self.roster.replicas())
        return member

    # What members are told.

    def _welcome(self, member: Member) -> dict[str, Any]:
        lacks_map = member.role == REPLICA and self.roles.told() is None
        if lacks_map or self.roles.has_to_wait(member.identity):
            return write(News(waiting="the coordinator has to write the bucket map first"))
        return write(self._news(member))

    def _news(self, member: Member) -> News:
        course, is_server = self.course, member.role == SERVER
        others = {identity: made for identity, made in self.roster.made().items() if identity != member.identity}
        return News(
            run=self.run, epoch=course.epoch, phase=course.phase, trained=course.trained, failed=course.failed,
            finished=tuple(entry for entry in course.finished if entry.epoch >= member.epoch),
            leader=member is self._leader(), replicas=self.awaited_replicas, updates=self.updates.total(others),
            map=self.roles.told(), elected=self.roles.elected,
            layout=course.facts.layout if course.facts and is_server else None,
            senders=self._senders() if is_server else (),
        )  # fmt: skip

    def _senders(self) -> tuple[int, ...]:
        """Return the replicas whose updates servers take."""
        replicas = (*self.roster.replicas(), *self.roster.replicas_missing())
        return tuple(replica.identity for replica in replicas if self._may_send(replica))

    def _may_send(self, replica: Member) -> bool:
        """Whether servers take a replica's updates: also before it has found a coordinator that was just elected."""
        return replica.identity in self.roster.members or (self.roles.elected and replica.number == 0)

    def _leader(self) -> Member | None:
        return self.leadership.holder(self.roster.replicas(), self.phase == "done")

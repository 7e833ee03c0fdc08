"""The coordinator: who is a member, who has which bucket, who trains which batch. A pure state machine.

Messages in, answers out; the clock is an argument, there are no sockets, so it is tested without a network and under
every order of events. The first parameter server runs it beside its other duties. Members say JOIN and then REPORT at
intervals; who is silent for `MEMBER_DEADLINE` seconds is taken for dead, and what it had leased is free again. Only
seconds in which the coordinator listened count (`listening`). Each answer to REPORT carries what a replica needs to
know: batches granted, the epoch, whether the map has changed.

A restarted coordinator takes up its snapshot; members that it does not know are asked to join again, and tell what they
have trained and leased.

Anyone may send anything: all that a message says is checked (`statements`) before any of it changes the state, so that
a message is taken whole or refused.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from adam_mp.machine import free_memory
from adam_mp.params.run.bucket_map import BucketMap
from adam_mp.params.run.epoch_batches import LEASED, TRAINED, EpochBatches
from adam_mp.params.run.leadership import Leadership
from adam_mp.params.run.listening import Listening
from adam_mp.params.run.member import LIFE, MEMBER_DEADLINE, Member
from adam_mp.params.run.server_places import ServerPlaces
from adam_mp.params.run.statements import (
    LARGEST,
    REPLICA,
    SERVER,
    Joining,
    RefusedError,
    Reporting,
    RunFacts,
    member_named,
)
from adam_mp.params.run.update_counts import UpdateCounts

RETURNING = 60.0  # seconds for which a replica that is silent may come back; its own patience by default
_MOST_MEMBERS = 10_000
_MOST_NOTICES = 1000  # that wait to be shown


class Coordinator:
    """The state of one run. `expected` parameter servers are waited for before a replica may begin.

    `room` returns the bytes that a server has for weights. `notices` are lines for the user, who takes them away.
    """

    def __init__(self, run: int, expected: int, room: Callable[[], int] = free_memory) -> None:
        self.run, self._room = run, room
        self.places = ServerPlaces(expected)
        self.notices: deque[str] = deque(maxlen=_MOST_NOTICES)
        self.facts: RunFacts | None = None
        self.epoch = 0
        self.batches = EpochBatches()  # of the epoch
        self.members: dict[int, Member] = {}
        self.missing: dict[int, Member] = {}  # no members now: servers of the map, and replicas that may come back
        self.finished: list[dict[str, Any]] = []  # an entry for each epoch: images trained, failed, ...
        self.updates = UpdateCounts()
        self.changed = False  # since the last snapshot
        self.leadership = Leadership()
        self._joined = 0
        self._now, self._listening = 0.0, Listening()
        self._accompanied = 0.0  # when a replica was a member last, in seconds of listening
        self._opened: float | None = None  # when the epoch began; None if that was before a restart

    # Messages.

    def join(self, identity: int, facts: Mapping[str, Any], now: float, sequence: int = 0) -> dict[str, Any]:
        """Answer JOIN; raises RefusedError. What comes again under a `sequence` (0 for none) has no effect."""
        asked, member, self._now = Joining.from_dict(facts), self.members.get(identity), now
        self._check_place(identity, member, asked)
        if member is not None and 0 < sequence <= member.sequence and member.lives_in(sequence):
            return self._welcome(member)
        if asked.role == SERVER and (waiting := self._place_server(identity, member, asked.address)):
            return {"waiting": waiting}
        begins = self.facts is None
        if asked.facts is not None and (waiting := self._agree(asked, asked.facts)):
            return {"waiting": waiting}
        if member is None:
            self._joined += 1
            member = Member(identity, self._joined, asked.role, asked.name, asked.address, self.listened, now)
            self.members[identity] = member
            self.missing.pop(identity, None)
            self.notices.append(f"{member.name} joined")
        member.seen, member.sequence, member.answer = self.listened, sequence, {}
        if asked.role == REPLICA:
            if (made := self.updates.come_back(identity)) is not None:  # it was not dead
                member.report = {"updates": made}
            member.epoch = asked.epoch
            self.changed |= self.leadership.choose(self._replicas())
            self._take_up(member, asked, begins)
        return self._welcome(member)

    def report(self, identity: int, sequence: int, facts: Mapping[str, Any], now: float) -> dict[str, Any]:
        """Answer REPORT: note what is trained, lease more. The same sequence gets the same answer, with no effect."""
        member = self.members.get(identity)
        if member is None or not member.lives_in(sequence):
            raise RefusedError("this member is not known here", rejoin=True)
        if sequence <= member.sequence:
            member.seen = self.listened
            return member.answer
        said = Reporting.from_dict(facts, self.facts if member.role == REPLICA else None)
        self._now, member.seen = now, self.listened
        member.sequence, member.report = sequence, dict(said.statistics)
        granted: list[int] = []
        if member.role == REPLICA:
            member.epoch = said.epoch
            if member.epoch == self.epoch:
                self._note_trained(member, said.trained, said.failed)
                self._end_epoch_at_quorum()
        present = member.epoch == self.epoch and self.phase == "training"
        if present:
            granted = self.batches.grant(identity, said.wanted, len(self._replicas())) if said.wanted else []
        member.answer = {**self._news(member), "granted": granted}
        if said.states and present:
            member.answer |= {"done": self.batches.done(), "failed_in": sorted(self.batches.failed.items())}
        return member.answer

    def leave(self, identity: int, facts: Mapping[str, Any] | None = None, sequence: int = 0) -> None:
        """A member goes, or the one that `facts` name is dead: what it leased is free, its updates stay counted.

        Raises RefusedError if no member says so: what `status` shows is enough to take a member's name, but not to know
        the life that its sequences have.
        """
        named, sender = member_named(identity, facts), self.members.get(identity) or self.missing.get(identity)
        if sender is None or not sender.lives_in(sequence):
            raise RefusedError("who says that a member goes is no member itself")
        member = self._part_with(named) or self._replicas_missing().get(named)
        if member is not None:
            if member.role == REPLICA:
                self.missing.pop(named, None)
            self.notices.append(f"{member.name} left" if named == identity else f"{member.name} died")

    def is_replica(self, identity: int) -> bool:
        """Tell whether a replica with this identity is a member."""
        member = self.members.get(identity)
        return member is not None and member.role == REPLICA

    def tick(self, now: float, behind: bool = False) -> list[Member]:
        """Take leave of members that are silent; return them. Servers keep their buckets: they may come back.

        To be called after each look for messages; `behind` says that the look left some unread.
        """
        listened = self._listening.look(now, behind)
        if self._replicas() or self.phase == "done":
            self._accompanied = listened
        for member in self._replicas_missing().values():
            if listened - member.seen > RETURNING:
                del self.missing[member.identity]
        self.changed |= self.leadership.look(self._replicas(), listened)
        silent = [member for member in self.members.values() if listened - member.seen > MEMBER_DEADLINE]
        for member in silent:
            self._part_with(member.identity)
            if member.role == REPLICA:
                self.missing[member.identity] = member
            leased = ": what it had leased is free again" if member.role == REPLICA else ""
            self.notices.append(f"{member.name} is silent{leased}")
        return silent

    def state(self, now: float) -> dict[str, Any]:
        """Return what `status` shows."""
        done = self.images_in(TRAINED)
        return {
            "run": f"{self.run:016x}",
            "phase": self.phase,
            "epoch": self.epoch,
            "epochs": self.facts.epochs if self.facts else None,
            "images": self.facts.images if self.facts else None,
            "trained": done,
            "leased": self.images_in(LEASED),
            "finished": self.finished,
            "map": self.map.as_dict() if self.map else None,
            "members": [
                {**member.as_dict(now, self.listened), "leader": member is self._leader()}
                for member in sorted(self.members.values(), key=lambda member: member.number)
            ],
            "missing": [member.as_missing(self.listened) for member in self.missing.values()],
        }  # fmt: skip

    @property
    def awaited(self) -> str | None:
        """Who has to come before the run goes on; None if nobody has to."""
        if self.map is None and (missing := self.places.expected - len(self._servers())) > 0:
            return f"{missing} more parameter server{'s' if missing > 1 else ''}"
        if self.facts is None:
            return "the first replica"
        if (
            self.phase == "done" and not self._replicas()
        ):  # those that were cut off at the end of the run have their last updates to give
            silent = min((member.name for member in self._replicas_missing().values()), default=None)
            return silent and f"{silent}, which is silent: it may be back within {RETURNING:g} s of its last word"
        return None if self.phase == "done" or self._replicas() else "a replica"

    @property
    def alone(self) -> float:
        """Seconds of listening without any replica, in a run that is not done."""
        return self.listened - self._accompanied

    @property
    def map(self) -> BucketMap | None:
        """Which server has which bucket; None before a replica has told the layout."""
        return self.places.map

    @property
    def phase(self) -> str:
        """One of "waiting" (for servers or a first replica), "training", "done"."""
        if self.facts is None:
            return "waiting"
        return "done" if self.epoch >= self.facts.epochs else "training"

    def images_in(self, state: int) -> int:
        """Return how many images the batches in `state` hold."""
        return self.batches.images_in(state)

    # A snapshot of it.

    def snapshot(self) -> dict[str, Any]:
        """Return all that must outlive the process, as plain values."""
        self.changed = False
        return {
            "run": self.run, **self.places.snapshot(), "epoch": self.epoch, "finished": self.finished,
            "departed": self.updates.snapshot(self._made()),
            "replicas": {str(m.identity): m.name for m in (*self._replicas_missing().values(), *self._replicas())},
            "lives": {str(m.identity): m.sequence >> LIFE for m in (*self.missing.values(), *self.members.values())},
            "leader": self.leadership.identity, "facts": self.facts.as_dict() if self.facts else None,
            "trained": self.batches.done(), "failed": sorted(self.batches.failed.items()),
        }  # fmt: skip

    @classmethod
    def restored(cls, facts: Mapping[str, Any]) -> Coordinator:
        """Rebuild a coordinator from its snapshot, without members; raises RefusedError if it is malformed."""
        try:
            self = cls(int(facts["run"]), int(facts["expected"]))
            self.finished = [{"failed": 0, **entry} for entry in facts["finished"]]
            self.updates = UpdateCounts({int(each): int(updates) for each, updates in facts["departed"].items()})
            self.places = ServerPlaces.restored(facts)
            for server in self.map.servers if self.map is not None else ():
                self._miss(Member(server.identity, 0, SERVER, f"params {server.address}", server.address, 0.0, 0.0))
            for identity, name in facts.get("replicas", {}).items():
                self.missing[int(identity)] = Member(int(identity), 0, REPLICA, str(name), "", 0.0, 0.0)
            for member in self.missing.values():  # who goes before it has joined again is known by its life
                member.sequence = int(facts.get("lives", {}).get(str(member.identity), 0)) << LIFE
            self.leadership = Leadership(int(facts.get("leader", 0)))
            if facts["facts"]:
                self.facts = RunFacts.from_dict(facts["facts"])
                self._open(int(facts["epoch"]))
                self.batches.restore(facts["trained"], {int(b): int(images) for b, images in facts.get("failed", [])})
                self._opened = None
            return self
        except (KeyError, TypeError, ValueError, IndexError, OverflowError, AttributeError) as error:
            raise RefusedError(f"the coordinator's snapshot is malformed: {error!r}") from None

    # What the messages come to.

    def _check_place(self, identity: int, member: Member | None, asked: Joining) -> None:
        """Raise RefusedError if there is no place for this member."""
        if not 0 < identity <= LARGEST:
            raise RefusedError(f"the sender is {identity}; expected a number of its own, above 0")
        if member is None and len(self.members) + len(self.missing) >= _MOST_MEMBERS:
            raise RefusedError(f"the run has {_MOST_MEMBERS} members already")
        known = member or self.missing.get(identity)
        if known is not None and known.role != asked.role:
            raise RefusedError(f"{known.name} has the role {known.role}, and joins as {asked.role}; start it again")

    def _place_server(self, identity: int, member: Member | None, address: str) -> str | None:
        """Have a server at its address, and in the map; return what it waits for if another may be there.

        Raises RefusedError if there is no place for it.
        """
        held = self._servers()
        if self.map is not None:
            known = {**self.missing, **self.members}
            held = [known[server.identity] for server in self.map.servers]
        entry = self.places.enter(identity, address, held, self.listened)
        if entry.waiting:
            return entry.waiting
        if entry.moved_from:
            self.changed = True
            self.notices.append(f"a parameter server has moved from {entry.moved_from} to {address}")
        if (old := entry.replaced) is not None:
            self.changed = True
            self._part_with(old.identity)
            self.missing.pop(old.identity, None)
            silent = f"silent for {self.listened - old.seen:.0f} s"
            self.notices.append(f"the parameter server at {address} takes the place of {old.name}, {silent}")
        if member is not None:
            member.address, member.name = address, member.name.replace(member.address, address)
        return None

    def _agree(self, asked: Joining, offered: RunFacts) -> str | None:
        """Agree with a replica on the run, and make the map; return what is waited for, if anything."""
        if self.facts is not None and (difference := self.facts.difference(offered)):
            raise RefusedError(f"this replica has {difference}; start it with the settings of the run")
        if self.phase == "done" and asked.run != self.run:  # who was in it may still have to validate it
            raise RefusedError("the run is done; start new parameter servers for another")
        if self.facts is None:
            offered.check_room(self.places.expected, self._room())
        if self.map is None:
            servers = self._servers()
            if asked.run and asked.map is not None and len(asked.map.servers) != self.places.expected:
                return (
                    f"the run has {len(asked.map.servers)} parameter servers, and this coordinator was started for "
                    f"{self.places.expected}; start it again with --servers {len(asked.map.servers)}"
                )
            if len(servers) < self.places.expected:
                return f"{len(servers)} of {self.places.expected} parameter servers are there"
            self.places.make_map(servers, asked.map if asked.run else None)
            self.changed = True
        elif self.places.outgrow(asked.map if asked.run == self.run else None):
            self.changed = True
        if self.facts is None:
            self.facts, self.changed = offered, True
            self.run = asked.run or self.run
            self._open(min(asked.epoch, offered.epochs - 1))
        return None

    def _take_up(self, member: Member, asked: Joining, begins: bool) -> None:
        """Note what a replica brings: what it did before the coordinator was restarted.

        One that `begins` the run may bring a checkpoint, with what is trained in it. What others bring that never were
        in this run is not in its weights.
        """
        assert self.facts is not None
        if asked.run == self.run and self.epoch < asked.epoch <= self.facts.epochs:
            # The snapshot was older than the end of the epoch before.
            self.finished += [entry for entry in asked.finished if self.epoch <= entry["epoch"] < asked.epoch]
            self._open(asked.epoch)
            self.changed = True
        # What a checkpoint counts, the run has made; what of it is not known here came before, or its count was lost.
        unknown = asked.updates - self.updates.total(self._made())
        if unknown > 0 and (begins or (asked.run != self.run and asked.epoch <= self.epoch)):
            self.updates.bring(unknown)
            self.changed = True
        self.batches.free(member.identity)  # what it was granted and does not name, it never heard of
        if asked.epoch != self.epoch or not (begins or asked.run == self.run):
            return
        # An epoch that is all trained so ends with the next report: by then a replica has opened it, and validates it.
        self._note_trained(member, asked.trained, asked.failed)
        self.batches.take(member.identity, asked.leased)

    def _welcome(self, member: Member) -> dict[str, Any]:
        return {"run": self.run, **self._news(member)}

    def _news(self, member: Member) -> dict[str, Any]:
        others = {identity: updates for identity, updates in self._made().items() if identity != member.identity}
        return {
            "epoch": self.epoch,
            "phase": self.phase,
            "trained": self.images_in(TRAINED),
            "failed": sum(self.batches.failed.values()),
            "finished": [entry for entry in self.finished if entry["epoch"] >= member.epoch],
            "leader": member is self._leader(),
            "replicas": len(self._replicas()) + len(self._replicas_missing()),  # for which servers stay
            "updates": self.updates.total(others),
            "map": self.map.as_dict() if self.map else None,
            "layout": self.facts.layout.as_list() if self.facts and member.role == SERVER else None,
            "senders": [replica.identity for replica in self._replicas()] if member.role == SERVER else [],
        }

    @property
    def listened(self) -> float:
        """Seconds in which messages were taken, by which members are judged."""
        return self._listening.seconds

    def _servers(self) -> list[Member]:
        """The parameter servers, in the order in which they came."""
        servers = (member for member in self.members.values() if member.role == SERVER)
        return sorted(servers, key=lambda member: member.number)

    def _made(self) -> dict[int, int]:
        """Return how many updates each replica has made since it joined, as far as it has told."""
        return {member.identity: int(member.report.get("updates", 0)) for member in self._replicas()}

    def _replicas(self) -> list[Member]:
        return [member for member in self.members.values() if member.role == REPLICA]

    def _replicas_missing(self) -> dict[int, Member]:
        """Those that are silent but did not leave, and may come back."""
        return {identity: member for identity, member in self.missing.items() if member.role == REPLICA}

    def _leader(self) -> Member | None:
        return self.leadership.holder(self._replicas(), self.phase == "done")

    def _open(self, epoch: int) -> None:
        assert self.facts is not None
        self.epoch = epoch
        self.batches = EpochBatches(self.facts.batches, self.facts.batch_size, self.facts.images)
        self._opened = self._now

    def _note_trained(self, member: Member, batches: Sequence[int], failed: Mapping[int, int]) -> None:
        if batches:
            member.trained += self.batches.note_trained(member.identity, batches, failed)
            self.changed = True

    def _end_epoch_at_quorum(self) -> None:
        if self.facts is None or self.phase == "done":
            return
        trained = self.images_in(TRAINED)
        if trained < math.ceil(self.facts.quorum * self.facts.images):
            return
        entry = {"epoch": self.epoch, "trained": trained, "skipped": self.facts.images - trained}
        self.finished.append({**entry, "failed": sum(self.batches.failed.values()), "twice": self.batches.twice})
        self._tell_of_epoch(trained)
        self._open(self.epoch + 1)
        self.changed = True
        if self.phase == "done":
            self.notices.append("the run is done")

    def _tell_of_epoch(self, trained: int) -> None:
        assert self.facts is not None
        took = "" if self._opened is None else f" in {self._now - self._opened:,.1f} s"
        self.notices.append(f"epoch {self.epoch + 1} of {self.facts.epochs}: {trained:,} images{took}")

    def _miss(self, member: Member) -> None:
        """Note one that is no member now and may come back."""
        if self.map is not None and any(server.identity == member.identity for server in self.map.servers):
            member.gone = True
            self.missing[member.identity] = member

    def _part_with(self, identity: int) -> Member | None:
        """A member is none any more: what it leased is free, its updates stay counted."""
        self.batches.free(identity)
        member = self.members.pop(identity, None)
        if member is not None and member.role == REPLICA:
            self.updates.depart(identity, int(member.report.get("updates", 0)))
        if member is not None:
            self._miss(member)
            self.changed |= self.leadership.choose(self._replicas())
        return member

"""A parameter server: its loop, from receive buffer to answer (paper, section 3.3).

Each turn takes what has arrived, up to a bound, folds deltas to the same shard into one pass over it, and answers with
the fresh weights to whom others have changed. The first server of a run also runs the coordinator, at the same address.
One thread does all of it, so that nothing is locked and a copy for the disk is of one moment; more cores are used by
more servers.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

from adam_mp.errors import AdamError, TransportError
from adam_mp.memory.segment import check_space
from adam_mp.params.run.bucket_map import BucketMap, LayoutFacts, own_shards
from adam_mp.params.run.coordinator import Coordinator
from adam_mp.params.run.membership import CoordinatorLink, StoppedError, new_life
from adam_mp.params.run.statements import SERVER, RefusedError, name_in
from adam_mp.params.server.admission import find_obstacle
from adam_mp.params.server.announcements import Announcements
from adam_mp.params.server.answers import Answers
from adam_mp.params.server.persistence import SnapshotFolder
from adam_mp.params.server.server_memory import TURN, TURN_BYTES, server_memory
from adam_mp.params.server.shard_table import Delta, ShardTable
from adam_mp.params.server.traffic import Traffic
from adam_mp.transport.endpoint import Endpoint, Peer
from adam_mp.transport.messages import ENCODINGS, Kind, Message, with_facts

_REPORT = 0.5  # seconds
_STRANGERS = 0.05  # the same, where somebody sends who may have joined just now
_IDLE = 0.02
_OWING = 0.002  # while answers are owed: a transport does not tell when it lets go of a buffer
_PARTING = 3.0  # seconds that a coordinator waits for others once the run is done
_LOST = 60.0  # seconds without the coordinator after which a server gives up
DONE, STOPPED, ALONE = "done", "stopped", "alone"  # how a server's work ends
_PARAMS = (Kind.FIRST, Kind.DELTA, Kind.FACTORS, Kind.PULL)
_LONGEST_REASON = 500
_CONTROL = (Kind.JOIN, Kind.REPORT, Kind.LEAVE, Kind.STATUS)


@dataclasses.dataclass(frozen=True)
class Arrived:
    """A message and who sent it."""

    peer: Peer
    message: Message


class ParameterServer:
    """One server. `host` is the coordinator if it runs here, else `link` leads to it; one of the two is given.

    `snapshots` may be None: then a restarted server asks the replicas for the weights. Notices go to `tell`.
    """

    def __init__(
        self, endpoint: Endpoint, address: str, identity: int, host: Coordinator | None, link: CoordinatorLink | None,
        snapshots: SnapshotFolder | None, tell: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.endpoint, self.address, self.identity = endpoint, address, identity
        self.host, self.link, self.snapshots = host, link, snapshots
        self.announcements = Announcements(tell)
        self.table: ShardTable | None = None
        self.map: BucketMap | None = None
        self.phase, self.replicas = "waiting", 0
        self._made: tuple[Any, ...] = ()  # run, layout and shards that the table was made for
        self.refused = 0
        self.dropped_answers = 0
        self._answers: Answers | None = None  # about the shards of the table
        self._senders: frozenset[int] = frozenset()  # identities of the replicas, as the coordinator said last
        self._has_strangers = False  # whether others sent messages since: one of them may be new
        self._reported, self._traffic = 0.0, Traffic()
        self._depth = 0  # messages that waited at the last turn
        self._behind = False  # whether it left some that may have waited longer
        self._done_since: float | None = None

    def run(self, stop: Callable[[], bool], seconds_to_join: float = 30.0, wait: float = math.inf) -> str:
        """Serve until the run is DONE and its replicas left, `stop` says STOPPED, or it was ALONE for `wait` seconds.

        Returns which of these it was. Only the coordinator knows whether replicas are there. Raises AdamError.
        """
        try:
            self._join(seconds_to_join, stop)
        except StoppedError:
            return STOPPED
        outcome = ""
        while not outcome:
            self.turn(_IDLE)
            if self._all_done():
                outcome = DONE
            elif stop():
                outcome = STOPPED
            elif self.host is not None and self.host.alone > wait:
                outcome = ALONE
        if self.link is not None:
            self.link.leave()
        return outcome

    def _join(self, seconds: float, stop: Callable[[], bool]) -> None:
        if self.host is not None:
            self._join_own(self.host, time.monotonic())
            self.host.notices.clear()  # that it is a member itself goes without saying
        else:
            assert self.link is not None
            self.announcements.say(f"joining the run of {self.link.address}")
            self._learn(self.link.join(self._joining, seconds, stop))

    def _join_own(self, host: Coordinator, now: float) -> None:
        """Join the run that this process coordinates, with a life that nobody else knows."""
        host.join(self.identity, self._joining, now, new_life())

    def close(self) -> None:
        """Write what is not on disk yet, and give the memory back."""
        if self.snapshots is not None:
            news = self.host is not None and (self.host.changed or self.snapshots.outdated)
            self.snapshots.close(self.table, self._facts() if news else None)
            self._tell_trouble(self.snapshots)
        if self.table is not None:
            self.table.close()

    def turn(self, seconds: float) -> int:
        """Take what has arrived, waiting `seconds` for a first message, and see to other duties; return how many."""
        owing = self._answers is not None and self._answers.count > 0
        arrived = self._take(min(seconds, _OWING) if owing else seconds)
        deltas: dict[int, list[Arrived]] = {}
        for each in arrived:
            if each.message.kind == Kind.DELTA and self._has(each):
                deltas.setdefault(each.message.shard, []).append(each)
            elif each.message.kind != Kind.DELTA:
                self._answer_one(each)
        for number, some in deltas.items():
            self._apply(number, some)
        self._settle()
        self._see_to_duties(time.monotonic())
        return len(arrived)

    def _take(self, seconds: float) -> list[Arrived]:
        arrived: list[Arrived] = []
        size, self._behind = 0, False
        while len(arrived) < TURN and size < TURN_BYTES:
            received = self.endpoint.receive(0 if arrived else seconds)
            if received is None:
                break
            arrived.append(Arrived(*received))
            size += received[1].length
        else:
            self._behind = True
        self._depth = len(arrived)
        return arrived

    # Weights.

    def _has(self, each: Arrived) -> bool:
        """Tell whether a message about a shard is for this server to take; if not, say so to the sender."""
        phase = self.phase if self.host is None else self.host.phase
        obstacle = find_obstacle(each.message, self._run, phase, self._is_replica, self.map, self.table)
        if obstacle is None:
            return True
        self._has_strangers |= obstacle.stranger
        if obstacle.kind == Kind.REFUSED:
            self._refuse(each, obstacle.reason)
        elif obstacle.kind == Kind.MOVED:
            header = {**self._echo(each), "epoch": obstacle.map.epoch}
            self._send(each, with_facts(Kind.MOVED, {"map": obstacle.map.as_dict()}, **header))
        else:
            self._reply(each, obstacle.kind)
        return False

    def _is_replica(self, identity: int) -> bool:
        return self.host.is_replica(identity) if self.host is not None else identity in self._senders

    def _apply(self, number: int, some: list[Arrived]) -> None:
        """Add the deltas that came for one shard, all in one pass, and answer each."""
        assert self.table is not None
        entry, before = self.table.entries[number], self.table.entries[number].version
        fits = []
        for each in some:
            if len(each.message.array()) == entry.shard.size:
                fits.append(each)
            else:
                self._refuse(each, f"shard {number} has {entry.shard.size} numbers, {each.message.length} bytes came")
        deltas = [Delta(m.sender, m.sequence, m.array(), m.encoding) for m in (each.message for each in fits)]
        new = self.table.apply_deltas(number, deltas)
        for each, applied in zip(fits, new, strict=True):
            alone = applied and sum(new) == 1 and each.message.version == before
            self._owe(each, entry.version if alone else None)

    def _answer_one(self, each: Arrived) -> None:
        kind = each.message.kind
        if kind in _CONTROL:
            self._answer_control(each)
        elif kind not in _PARAMS:
            self._refuse(each, f"a parameter server does not take {kind.name}")
        elif self._has(each):
            assert self.table is not None
            try:
                self._answer_params(each, self.table)
            except TransportError as error:
                self._refuse(each, str(error))

    def _answer_params(self, each: Arrived, table: ShardTable) -> None:
        message = each.message
        if message.encoding:
            raise TransportError(f"{message.kind.name} came in {ENCODINGS[message.encoding]}; expected float32")
        if message.kind == Kind.FIRST:
            table.fill(message.shard, message.array())
            self._owe(each, None)
        elif message.kind == Kind.FACTORS:
            table.apply_factors(message.shard, message.sender, message.sequence, message.array())
            self._owe(each, 0)
        else:
            known = table.entries[message.shard].version == message.version
            self._owe(each, message.version if known else None)

    def _owe(self, each: Arrived, version: int | None) -> None:
        """Answer UNCHANGED at `version`, or the newest weights if that is None: at once, or as soon as they can leave.

        At once, because the shard still lies in the processor's cache.
        """
        assert self._answers is not None
        self._answers.owe(each.peer, each.message, version, time.monotonic())
        self._settle()

    def _settle(self) -> None:
        if self._answers is not None:
            self._answers.settle(self._header)

    # The run.

    def _answer_control(self, each: Arrived) -> None:
        message, now = each.message, time.monotonic()
        if self.host is None:
            where = self.link.address if self.link is not None else "another server"
            self._refuse(each, f"the coordinator of this run is at {where}")
            return
        try:
            answer = self._take_control(self.host, message, now)
            if answer is not None:
                self._send(each, with_facts(answer[0], answer[1], **self._echo(each)))
        except RefusedError as error:
            if message.kind in (Kind.JOIN, Kind.REPORT) and not error.rejoin:
                self.announcements.say_seldom(f"refused {self._name_of(message)}: {error}", now)
            self._refuse(each, str(error), rejoin=error.rejoin)
        except (AdamError, ValueError, TypeError, OverflowError, MemoryError, RecursionError) as error:
            self._refuse(each, f"{message.kind.name} cannot be answered: {error}")

    def _name_of(self, message: Message) -> str:
        """Return who sent it, as it says, or as it joined."""
        member = self.host.members.get(message.sender) if self.host is not None else None
        return name_in(message.facts()) if member is None or message.kind == Kind.JOIN else member.name

    def _take_control(self, host: Coordinator, message: Message, now: float) -> tuple[Kind, dict[str, Any]] | None:
        """Return what the coordinator answers, None for nothing; raises RefusedError."""
        if message.kind not in (Kind.JOIN, Kind.STATUS) and message.run != host.run:
            reason = f"the message is of run {message.run:x}, this server of run {host.run:x}"
            raise RefusedError(reason, rejoin=message.kind == Kind.REPORT)
        facts = message.facts()
        if message.sender == self.identity and message.kind != Kind.STATUS:
            raise RefusedError(f"{message.kind.name} comes in the name of this server itself")
        if message.kind == Kind.JOIN:
            return Kind.WELCOME, host.join(message.sender, facts, now, message.sequence)
        if message.kind == Kind.REPORT:
            return Kind.ORDERS, host.report(message.sender, message.sequence, facts, now)
        if message.kind == Kind.STATUS:
            return Kind.STATE, host.state(now)
        host.leave(message.sender, facts, message.sequence)
        return None

    def _see_to_duties(self, now: float) -> None:
        if self.host is not None:
            self.host.tick(now, self._behind)
            while self.host.notices:
                self.announcements.say(self.host.notices.popleft())
            self.announcements.say_awaited(self.host.awaited)
        if self._answers is not None:
            self.dropped_answers += self._answers.tidy(now)
        if now - self._reported >= self._interval or (self.link is not None and self.link.busy):
            self._report(now)
        if self.snapshots is not None:
            if self.table is not None:
                self.snapshots.look(self.table, now)
            self._tell_trouble(self.snapshots)

    def _tell_trouble(self, snapshots: SnapshotFolder) -> None:
        if snapshots.trouble:
            self.announcements.say(snapshots.trouble)
            snapshots.trouble = None

    @property
    def _interval(self) -> float:
        """Seconds between two reports."""
        return _STRANGERS if self._has_strangers else _REPORT

    def _report(self, now: float) -> None:
        """Tell the coordinator how this server is, and take its news."""
        if self.host is not None:
            self._reported = now
            member = self.host.members.get(self.identity)
            if member is None:  # stopped for so long that it took leave of itself
                self._join_own(self.host, now)
                return
            news = self.host.report(self.identity, member.sequence + 1, {"statistics": self.figures(now)}, now)
            if self.snapshots is not None and (self.host.changed or self.snapshots.outdated):
                self.host.changed = not self.snapshots.note(self._facts())  # if the writer has no room: again next time
        else:
            assert self.link is not None
            if not self.link.busy:
                self._reported = now
            answer = self.link.report(lambda: {"statistics": self.figures(now)}, lambda: self._joining, self._interval)
            if self.link.silence > _LOST:
                raise TransportError(f"the coordinator at {self.link.address} is silent for {_LOST:g} s")
            if answer is None:
                return
            news = answer
        self._learn(news)

    def _learn(self, news: dict[str, Any]) -> None:
        """Take over phase, map and layout; make the shards, anew if they are of another run or layout, or others."""
        phase, self.replicas = str(news.get("phase")), int(news.get("replicas", 0))
        self._senders, self._has_strangers = frozenset(news.get("senders", ())), False
        if self.host is None and phase != self.phase and phase == "done":
            self.announcements.say("the run is done")
        self.phase = phase
        if not news.get("map") or not news.get("layout"):
            return
        self.map = BucketMap.from_dict(news["map"])
        layout = LayoutFacts.from_list(news["layout"])
        numbers = own_shards(self.map, layout, self.identity)
        if self._made == (self._run, layout, numbers):
            return
        if self.table is not None:
            self.table.close()
            self.table = self._answers = None
        cut = self.map.cut(layout.layout)
        size = 4 * sum(cut.shards[number].size for number in numbers)
        largest = 4 * max((cut.shards[number].size for number in numbers), default=16)
        need = server_memory(size, largest, self.snapshots is not None)
        check_space(sum(need.values()), "this server", None, need)
        self._made = (self._run, layout, numbers)
        self.table = ShardTable(cut, numbers)
        self._answers = Answers(self.endpoint, self.table)
        loaded = self.snapshots.load(self.table, self._run) if self.snapshots is not None else 0
        snapshot = f"; {loaded} from the snapshot" if loaded else ""
        self.announcements.say(f"{len(numbers)} shards, {size / 1e6:,.1f} MB{snapshot}")

    @property
    def _joining(self) -> dict[str, str]:
        """What this server joins with, the first time and again."""
        return {"role": SERVER, "address": self.address, "name": f"params {self.address}"}

    @property
    def _run(self) -> int:
        return self.host.run if self.host is not None else self.link.run if self.link is not None else 0

    def _facts(self) -> dict[str, Any]:
        """What `identity.json` says."""
        assert self.host is not None
        return {"identity": self.identity, "coordinator": self.host.snapshot()}

    def figures(self, now: float) -> dict[str, Any]:
        """Return what `status` shows of this server; rates are those since the last report."""
        facts: dict[str, Any] = {"queue": self._depth, "refused": self.refused, "unsent": self.dropped_answers}
        facts["owed"] = self._answers.count if self._answers is not None else 0
        facts.update(self._traffic.figures(now, self.endpoint, self.table))
        if self.snapshots is not None:
            written = self.snapshots.statistics()
            facts.update({"snapshot_window": round(written.window, 3), "snapshots": written.written})
        return facts

    def _all_done(self) -> bool:
        """Whether the run is done and its replicas, and for a moment the other servers, have left."""
        if self.phase != "done" or self.replicas:
            self._done_since = None
            return False
        if self.host is None:
            return True
        if self._done_since is None:
            self._done_since = self.host.listened
        return len(self.host.members) == 1 or self.host.listened - self._done_since > _PARTING

    # Answers.

    def _echo(self, each: Arrived) -> dict[str, int]:
        """The header fields that an answer has from its question."""
        return {**self._header, "shard": each.message.shard, "sequence": each.message.sequence}

    @property
    def _header(self) -> dict[str, int]:
        """The header fields that all answers have."""
        epoch = self.map.epoch if self.map is not None else 0
        return {"run": self._run, "sender": self.identity, "epoch": epoch}

    def _reply(self, each: Arrived, kind: Kind) -> None:
        self._send(each, Message(kind, **self._echo(each)))

    def _refuse(self, each: Arrived, reason: str, rejoin: bool = False) -> None:
        self.refused += 1
        facts = {"reason": reason[:_LONGEST_REASON], "rejoin": rejoin}
        self._send(each, with_facts(Kind.REFUSED, facts, **self._echo(each)))

    def _send(self, each: Arrived, message: Message) -> None:
        if self.endpoint.send(each.peer, message) is None:
            self.dropped_answers += 1

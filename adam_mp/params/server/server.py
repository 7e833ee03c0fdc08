"""A parameter server: from a message about a shard to its answer (paper, section 3.3).

The server takes all messages of one turn of the loop together, and adds all deltas to the same shard in one pass over
it. A replica whose shard nobody else has changed gets UNCHANGED as answer; any other gets the fresh weights. One thread
does all of it: so there are no locks, and a copy for the disk is of one moment. Start more servers to use more cores.
"""

from __future__ import annotations

from typing import Any

from adam_mp.errors import TransportError, several
from adam_mp.memory.segment import check_space
from adam_mp.params.run.announcements import Announcements
from adam_mp.params.run.bucket_map import BucketMap, LayoutFacts, own_shards
from adam_mp.params.run.news import Moved, News
from adam_mp.params.run.replies import Arrived, Replies
from adam_mp.params.server.admission import find_obstacle
from adam_mp.params.server.answers import Answers
from adam_mp.params.server.persistence import SnapshotFolder
from adam_mp.params.server.run_view import RunView
from adam_mp.params.server.server_memory import server_memory
from adam_mp.params.server.shard_table import Delta, ShardTable
from adam_mp.params.server.traffic import Traffic
from adam_mp.transport.endpoint import Endpoint
from adam_mp.transport.forms import write
from adam_mp.transport.messages import ENCODINGS, Kind

_REPORT = 0.5  # seconds between two reports to the coordinator
_STRANGERS = 0.05  # the same after a message of a stranger, which may be a new member: the next news tells
_PARAMS = (Kind.FIRST, Kind.DELTA, Kind.FACTORS, Kind.PULL)


class ParameterServer:
    """Answers replicas' messages about one server's shards. The clock is an argument; one thread may use it.

    In each turn the loop calls `take` for each message, then `apply_deltas`, then `step`. `view` is the server's
    membership of the run. `snapshots` may be None: then a restarted server gets its weights from the replicas.
    """

    def __init__(
        self, endpoint: Endpoint, identity: int, view: RunView, replies: Replies, snapshots: SnapshotFolder | None,
        announcements: Announcements,
    ) -> None:  # fmt: skip
        self.endpoint, self.identity, self.view = endpoint, identity, view
        self.snapshots, self._replies, self._announcements = snapshots, replies, announcements
        self.table: ShardTable | None = None
        self.map: BucketMap | None = None
        self.forgotten = 0  # answers that were never sent, as their peers stopped asking for them
        self._made: tuple[Any, ...] = ()  # the run, layout and shards that the table was made for
        self._answers: Answers | None = None  # about the shards of the table
        self._deltas: dict[int, list[Arrived]] = {}  # of this turn, by shard
        self._has_strangers = False  # whether a stranger has sent a message since the last news
        self._traffic = Traffic()
        self._waited = 0  # messages that the last turn took

    @property
    def owes(self) -> bool:
        """Whether an answer waits for the transport to take it."""
        return self._answers is not None and self._answers.count > 0

    def take(self, each: Arrived, now: float) -> None:
        """Take a message about a shard. A delta waits for `apply_deltas`; any other message takes effect at once."""
        kind = each.message.kind
        if kind not in _PARAMS:
            self._replies.refuse(each, self.header, f"a parameter server does not take {kind.name}")
        elif self._has(each):
            if kind == Kind.DELTA:
                self._deltas.setdefault(each.message.shard, []).append(each)
                return
            assert self.table is not None
            try:
                self._answer(each, self.table, now)
            except TransportError as error:
                self._replies.refuse(each, self.header, str(error))

    def apply_deltas(self, now: float) -> None:
        """Apply this turn's deltas, and send the answers that the transport takes now."""
        deltas, self._deltas = self._deltas, {}
        for number, some in deltas.items():
            self._apply(number, some, now)
        self._send_owed()

    def step(self, now: float, waited: int = 0) -> None:
        """Report to the coordinator, and have snapshots written, when it is time; this turn took `waited` messages."""
        self._waited = waited
        if self._answers is not None:
            self.forgotten += self._answers.tidy(now)
        news = self.view.report(lambda: self.figures(now), _STRANGERS if self._has_strangers else _REPORT, now)
        if news is not None:
            self.learn(news)
        if self.snapshots is not None:
            if self.table is not None:
                self.snapshots.step(self.table, now)
            self._tell_trouble(self.snapshots)

    def close(self, facts: dict[str, Any] | None = None) -> None:
        """Write all that is not on disk yet, and the coordinator's state `facts` if it is given; free the memory."""
        if self.snapshots is not None:
            self.snapshots.close(self.table, facts)
            self._tell_trouble(self.snapshots)
        if self.table is not None:
            self.table.close()

    # Weights.

    def _has(self, each: Arrived) -> bool:
        """Return whether this server takes a message about a shard; if not, answer why."""
        view = self.view
        obstacle = find_obstacle(each.message, view.run, view.phase, view.is_replica, self.map, self.table)
        if obstacle is None:
            return True
        self._has_strangers |= obstacle.stranger
        if obstacle.kind == Kind.REFUSED:
            self._replies.refuse(each, self.header, obstacle.reason)
        elif obstacle.kind == Kind.MOVED:
            header = {**self.header, "map_epoch": obstacle.map.epoch}
            self._replies.answer(each, Kind.MOVED, header, write(Moved(obstacle.map)))
        else:
            self._replies.answer(each, obstacle.kind, self.header)
        return False

    def _apply(self, number: int, some: list[Arrived], now: float) -> None:
        """Add this turn's deltas to one shard in one pass, and answer each; refuse those of another size."""
        assert self.table is not None
        entry, before = self.table.entries[number], self.table.entries[number].version
        fits = []
        for each in some:
            if len(each.message.array()) == entry.shard.size:
                fits.append(each)
            else:
                reason = f"shard {number} has {entry.shard.size} numbers, {each.message.length} bytes came"
                self._replies.refuse(each, self.header, reason)
        deltas = [Delta(m.sender, m.sequence, m.array(), m.encoding) for m in (each.message for each in fits)]
        new = self.table.apply_deltas(number, deltas)
        for each, applied in zip(fits, new, strict=True):
            alone = applied and sum(new) == 1 and each.message.version == before
            self._owe(each, entry.version if alone else None, now)

    def _answer(self, each: Arrived, table: ShardTable, now: float) -> None:
        message = each.message
        if message.encoding:
            raise TransportError(f"{message.kind.name} came in {ENCODINGS[message.encoding]}; expected float32")
        if message.kind == Kind.FIRST:
            table.fill(message.shard, message.array())
            self._owe(each, None, now)
        elif message.kind == Kind.FACTORS:
            table.apply_factors(message.shard, message.sender, message.sequence, message.array())
            self._owe(each, 0, now)
        else:
            known = table.entries[message.shard].version == message.version
            self._owe(each, message.version if known else None, now)

    def _owe(self, each: Arrived, version: int | None, now: float) -> None:
        """Answer UNCHANGED with `version`, or the newest weights if that is None.

        Try to send the answer at once: the shard still lies in the processor's cache.
        """
        assert self._answers is not None
        self._answers.owe(each.peer, each.message, version, now)
        self._send_owed()

    def _send_owed(self) -> None:
        if self._answers is not None:
            self._answers.settle(self.header)

    # The run.

    def learn(self, news: News) -> None:
        """Take the map and the layout from the news; make new shards if run, layout or the server's shards changed."""
        self._has_strangers = False
        if news.map is None or news.layout is None:
            return
        self.map = news.map
        numbers = own_shards(self.map, news.layout, self.identity)
        made = (self.view.run, news.layout, numbers)
        if self._made != made:
            self._make_table(self.map, news.layout, numbers)
            self._made = made

    def _make_table(self, bucket_map: BucketMap, layout: LayoutFacts, numbers: tuple[int, ...]) -> None:
        if self.table is not None:
            self.table.close()
            self.table = self._answers = None
        cut = bucket_map.cut(layout.layout)
        size = 4 * sum(cut.shards[number].size for number in numbers)
        largest = 4 * max((cut.shards[number].size for number in numbers), default=16)
        need = server_memory(size, largest, self.snapshots is not None)
        check_space(sum(need.values()), "this server", None, need)
        self.table = ShardTable(cut, numbers)
        self._answers = Answers(self.endpoint, self.table)
        loaded = self.snapshots.load(self.table, self.view.run) if self.snapshots is not None else 0
        snapshot = f"; {loaded} from the snapshot" if loaded else ""
        self._announcements.say(f"{several(len(numbers), 'shard')}, {size / 1e6:,.1f} MB{snapshot}")

    def figures(self, now: float) -> dict[str, Any]:
        """Return the statistics that `status` shows of this server; rates are those since the last report."""
        replies = self._replies
        facts: dict[str, Any] = {"queue": self._waited, "refused": replies.refused}
        facts["unsent"] = replies.dropped + self.forgotten
        facts["owed"] = self._answers.count if self._answers is not None else 0
        facts.update(self._traffic.figures(now, self.endpoint, self.table))
        if self.snapshots is not None:
            written = self.snapshots.statistics(now)
            facts.update({"snapshot_window": round(written.window, 3), "snapshots": written.written})
        return facts

    def _tell_trouble(self, snapshots: SnapshotFolder) -> None:
        if snapshots.trouble:
            self._announcements.say(snapshots.trouble)
            snapshots.trouble = None

    @property
    def header(self) -> dict[str, int]:
        """The header fields that all answers of this server share."""
        map_epoch = self.map.epoch if self.map is not None else 0
        return {"run": self.view.run, "sender": self.identity, "map_epoch": map_epoch}

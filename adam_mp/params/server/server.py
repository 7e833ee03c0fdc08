"""A parameter server: from a message about a shard to its answer (paper, section 3.3).

The server takes all messages of one turn of the loop together, and adds all deltas to the same shard in one pass over
it. A replica whose shard nobody else has changed gets UNCHANGED as answer; any other gets the fresh weights. One thread
does all of it: so there are no locks, and a copy is of one moment. Start more servers to use more cores.

In a run with copies the server answers at once too, unless answers are to wait until updates are stable (`waits`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from adam_mp.errors import TransportError, several
from adam_mp.memory.segment import check_space
from adam_mp.params.run.announcements import Announcements
from adam_mp.params.run.bucket_map import COMMIT_ALL, BucketMap, LayoutFacts, shards_of_groups
from adam_mp.params.run.news import Moved, News
from adam_mp.params.run.replies import Arrived, Replies
from adam_mp.params.run.statements import Reporting
from adam_mp.params.server.admission import find_obstacle
from adam_mp.params.server.answers import Answers
from adam_mp.params.server.copy_path import CopyPath
from adam_mp.params.server.copying import Copying, CopySettings
from adam_mp.params.server.elected_run import ElectedRun
from adam_mp.params.server.persistence import SnapshotFolder
from adam_mp.params.server.run_view import RunView
from adam_mp.params.server.server_memory import server_memory
from adam_mp.params.server.shard_table import Delta, ShardTable
from adam_mp.params.server.traffic import Traffic
from adam_mp.params.server.waits import Wait, Waits
from adam_mp.transport.endpoint import Endpoint
from adam_mp.transport.forms import write
from adam_mp.transport.messages import ENCODINGS, FrameError, Kind, read_confirm

_REPORT = 0.5  # seconds between two reports to the coordinator
_STRANGERS = 0.05  # the same after a message of a stranger, which may be a new member: the next news tells
_WISHING = 0.01  # the same while this server wants another role, or asks for a newer map
_PARAMS = (Kind.FIRST, Kind.DELTA, Kind.FACTORS, Kind.PULL, Kind.CONFIRM)
_Needs = tuple[tuple[int, int], ...]  # pairs of shard and sequence


class ParameterServer:
    """Answers replicas' messages about one server's shards. The clock is an argument; one thread may use it.

    In each turn the loop calls `take` for each message, then `apply_deltas`, then `step`. `view` is the server's
    membership of the run. `snapshots` may be None: then a restarted server gets its weights from the replicas, or from
    the servers that have copies. `path` is how it reaches these, None in a run without copies.
    """

    def __init__(
        self, endpoint: Endpoint, identity: int, view: RunView, replies: Replies, snapshots: SnapshotFolder | None,
        announcements: Announcements, path: CopyPath | None = None, copies: CopySettings | None = None,
    ) -> None:  # fmt: skip
        self.endpoint, self.identity, self.view = endpoint, identity, view
        self.snapshots, self._replies, self._announcements = snapshots, replies, announcements
        self._path, self._copy_settings = path, copies or CopySettings()
        self._elected = view if isinstance(view, ElectedRun) else None
        self._layout: LayoutFacts | None = None
        self._noted = 0  # the run that is written in the snapshot folder
        self.table: ShardTable | None = None
        self.map: BucketMap | None = None
        self.copying: Copying | None = None
        self.forgotten = 0  # answers that were never sent, as their peers stopped asking for them
        self._leads: dict[int, int] = {}  # groups of which this server is primary -> map epoch
        self._waits = Waits()
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

    @property
    def awaits_news(self) -> bool:
        """Whether this server wants another role, or asks for a newer map."""
        return self.copying is not None and (self.copying.outdated or self.copying.wants)

    def hear(self, now: float) -> None:
        """Note that a message came, to this server or to another part of its process."""
        if self.copying is not None:
            self.copying.hear(now)

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
            except (TransportError, FrameError) as error:
                self._replies.refuse(each, self.header, str(error))

    def apply_deltas(self, now: float) -> None:
        """Apply this turn's deltas, copy shards, and send the answers that the transport takes now."""
        deltas, self._deltas = self._deltas, {}
        for number, some in deltas.items():
            self._apply(number, some, now)
        if self.copying is not None and self.copying.step(now):
            self._waits.settle(self.copying.is_stable)
        self._send_owed()

    def step(self, now: float, waited: int = 0) -> None:
        """Report to the coordinator, and have snapshots written, when it is time; this turn took `waited` messages."""
        self._waited = waited
        if self._answers is not None:
            self.forgotten += self._answers.tidy(now)
        self._waits.tidy(now)
        news = self.view.report(lambda: self._report(now), self._interval(now), now)
        if news is not None:
            self.learn(news)
        if self._elected is not None:
            self._swap_roles(self._elected, now)
        if self.snapshots is not None:
            self._note_run(self.snapshots)
            if self.table is not None:
                self.snapshots.step(self.table, now)
            self._tell_trouble(self.snapshots)

    def _note_run(self, snapshots: SnapshotFolder) -> None:
        """Write which run the snapshots are of: only servers of a run may be elected in it."""
        run = self.view.run if self._elected is not None else 0
        if run not in (0, self._noted) and snapshots.write_now({"identity": self.identity, "run": run}):
            self._noted = run

    def hears_servers(self) -> bool:
        """Tell whether some other server of the map beats."""
        return self.copying is not None and self.copying.hears_others()

    def close(self, facts: dict[str, Any] | None = None) -> None:
        """Write all that is not on disk yet, and the coordinator's state `facts` if it is given; free the memory."""
        if self.copying is not None:
            self.copying.save()
        if self.snapshots is not None:
            self.snapshots.close(self.table, facts)
            self._tell_trouble(self.snapshots)
        if self.table is not None:
            self.table.close()

    def _interval(self, now: float) -> float:
        """Return the seconds from the last report to the next."""
        copying = self.copying
        if (
            self._elected is None
            and copying is not None
            and self._changes_roles
            and (copying.outdated or copying.wishes(now))
        ):
            return _WISHING
        return _STRANGERS if self._has_strangers else _REPORT

    def _report(self, now: float) -> Reporting:
        if self.copying is None or not self._changes_roles:
            return Reporting(statistics=self.figures(now))
        copying = self.copying
        wishes = copying.wishes(now) if self._elected is None else ()
        return Reporting(self.figures(now), wishes=wishes, behind=copying.behind(), full=copying.full)

    def _swap_roles(self, elected: ElectedRun, now: float) -> None:
        """Have the keeper swap the roles that this server wants to change, and take a newer map from etcd."""
        copying = self.copying
        if copying is not None and self.map is not None:
            wishes = copying.wishes(now) if self._changes_roles else ()
            elected.want(wishes, copying.outdated, now)
            stored = elected.stored()
            if stored is not None and stored.epoch > self.map.epoch and self._layout is not None:
                self.learn(News(map=stored, layout=self._layout))

    @property
    def _changes_roles(self) -> bool:
        """Whether replicas are there that need every group: until the last has left, for it brings its last updates."""
        return self.view.phase != "waiting" and not self.view.over

    # Weights.

    def _has(self, each: Arrived) -> bool:
        """Return whether this server takes a message about a shard; if not, answer why."""
        view = self.view
        obstacle = find_obstacle(each.message, view.run, view.phase, view.is_replica, self.map, self.table, self._leads)
        if obstacle is None:
            return True
        self._has_strangers |= obstacle.stranger
        if obstacle.kind == Kind.REFUSED:
            self._replies.refuse(each, self.header, obstacle.reason)
        elif obstacle.kind == Kind.MOVED:
            if self.copying is not None and each.message.map_epoch > obstacle.map.epoch:
                self.copying.outdated = True
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
            if applied and self.copying is not None:
                self.copying.changed(entry, now)
            self._owe(each, entry.version if alone else None, now, entry.group, ((number, each.message.sequence),))

    def _answer(self, each: Arrived, table: ShardTable, now: float) -> None:
        message = each.message
        if message.encoding:
            raise TransportError(f"{message.kind.name} came in {ENCODINGS[message.encoding]}; expected float32")
        if message.kind == Kind.FACTORS:
            self._multiply(each, table, now)
        elif message.kind == Kind.CONFIRM:
            self._confirm(each, table, now)
        else:
            entry, version = table.entries[message.shard], None
            if message.kind == Kind.PULL and entry.version == message.version:
                version = entry.version
            elif message.kind == Kind.FIRST and table.fill(message.shard, message.array()) and self.copying is not None:
                self.copying.filled(entry, now)
            self._owe(each, version, now, entry.group, ((entry.number, 0),))

    def _multiply(self, each: Arrived, table: ShardTable, now: float) -> None:
        message = each.message
        table.apply_factors(message.shard, message.group, message.sender, message.sequence, message.array())
        entries = table.parts_of(message.shard, message.group)
        if self.copying is not None:
            for entry in entries:
                self.copying.changed(entry, now)
        self._owe(each, 0, now, message.group, tuple((entry.number, message.sequence) for entry in entries))

    def _confirm(self, each: Arrived, table: ShardTable, now: float) -> None:
        """Answer STABLE once the updates that the message names are."""
        needs = tuple((shard, sequence) for _, shard, sequence in read_confirm(each.message))
        groups = frozenset(table.entries[shard].group for shard, _ in needs)
        header = {**self.header, "map_epoch": each.message.map_epoch}
        bare = dataclasses.replace(each, message=dataclasses.replace(each.message, payload=b""))
        self._when_stable(bare, groups, needs, now, lambda: self._replies.answer(bare, Kind.STABLE, header))

    def _owe(self, each: Arrived, version: int | None, now: float, group: int, needs: _Needs) -> None:
        """Answer UNCHANGED with `version`, or the newest weights if that is None.

        Try to send the answer at once: the shard still lies in the processor's cache. In a run with copies the answer
        may have to wait for the updates `needs`.
        """
        if self.copying is None or self.map is None:
            self._owe_now(each, version, now)
            return
        if self.map.commit != COMMIT_ALL:
            if not self.copying.fills(group):
                self._owe_now(each, version, now)
                return
            needs = tuple((shard, 0) for shard, _ in needs)
        bare = dataclasses.replace(each, message=dataclasses.replace(each.message, payload=b""))
        self._when_stable(bare, frozenset((group,)), needs, now, lambda: self._owe_now(bare, version, now))

    def _when_stable(
        self, each: Arrived, groups: frozenset[int], needs: _Needs, now: float, answer: Callable[[], None]
    ) -> None:  # fmt: skip
        """Answer once the updates `needs` of the sender are stable, if need be at once."""
        message = each.message
        wait = Wait(groups, message.sender, needs, answer, now)
        if self.copying is None or self.copying.is_stable(wait):
            answer()
        else:
            self._waits.put((each.peer, message.kind, message.shard, message.sequence), wait)
            self.copying.await_stable(wait, now, has_sent_all=message.kind == Kind.CONFIRM)

    def _owe_now(self, each: Arrived, version: int | None, now: float) -> None:
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
        known = self.map if self._made[:1] == (self.view.run,) else None
        if known is not None and known.copied and news.map.epoch < known.epoch:
            return
        self.map, self._layout = news.map, news.layout
        made = (self.view.run, news.layout, len(self.map.servers), len(self.map.copied), self._place())
        if self._made != made:
            self._make_table(self.map, news.layout)
            self._made = made
        elif self.copying is not None:
            self._take_roles(self.map, news.layout)
        if self.copying is None:
            self._leads = dict.fromkeys(self.table.groups if self.table is not None else (), self.map.epoch)

    def _place(self) -> int | None:
        """Return this server's place, on which its shards depend; in a run with copies they depend on its roles."""
        assert self.map is not None
        return None if self.map.copied else self.map.place_of(self.identity)

    def _make_table(self, bucket_map: BucketMap, layout: LayoutFacts) -> None:
        if self.table is not None:
            self.table.close()
            self.table = self._answers = self.copying = None
        cut, groups = bucket_map.cut(layout.layout), bucket_map.groups
        shards = shards_of_groups(layout, len(bucket_map.servers), len(groups))
        place = bucket_map.place_of(self.identity)
        own = {number: shards[number] for number, group in enumerate(groups) if place in group.holders}
        largest = 4 * max(shard.size for shard in cut.shards)
        size = 4 * sum(cut.shards[number].size for numbers in own.values() for number in numbers)
        need = server_memory(size, largest, self.snapshots is not None)
        check_space(sum(need.values()), "this server", None, need)
        self.table = ShardTable(cut, {} if bucket_map.copied else own)
        self._answers = Answers(self.endpoint, self.table, largest)
        if bucket_map.copied and self._path is not None:
            self.copying = Copying(self._path, self.table, self.identity, self._copy_settings)
            self._take_roles(bucket_map, layout)
        loaded = self.snapshots.load(self.table, self.view.run) if self.snapshots is not None else 0
        snapshot = f"; {loaded} from the snapshot" if loaded else ""
        count = sum(map(len, own.values()))
        self._announcements.say(f"{several(count, 'shard')}, {size / 1e6:,.1f} MB{snapshot}")

    def _take_roles(self, bucket_map: BucketMap, layout: LayoutFacts) -> None:
        assert self.copying is not None
        assert self.table is not None
        shards = shards_of_groups(layout, len(bucket_map.servers), len(bucket_map.copied))
        lost = self.copying.learn(bucket_map, self.view.run, shards)
        if self.copying.trouble:
            self._announcements.note(self.copying.trouble)
            self.copying.trouble = ""
        self._leads = self.copying.leads()
        self._waits.forget(lost)
        self.view.has(self.table.groups, bucket_map)

    def figures(self, now: float) -> dict[str, Any]:
        """Return the statistics that `status` shows of this server; rates are those since the last report.

        `queue` counts the messages that the last turn took, `unsent` the answers that were given up, `owed` those that
        wait for the transport.
        """
        replies = self._replies
        statistics: dict[str, Any] = {"queue": self._waited, "refused": replies.refused}
        statistics["unsent"] = replies.dropped + self.forgotten
        statistics["owed"] = self._answers.count if self._answers is not None else 0
        statistics.update(self._traffic.figures(now, self.endpoint, self.table))
        if self.copying is not None and self._path is not None:
            statistics["copied_bytes"] = self._path.bytes_sent
        if self.snapshots is not None:
            written = self.snapshots.statistics(now)
            statistics.update({"snapshot_window": round(written.window, 3), "snapshots": written.written})
        return statistics

    def _tell_trouble(self, snapshots: SnapshotFolder) -> None:
        if snapshots.trouble:
            self._announcements.note(snapshots.trouble)
            snapshots.trouble = None

    @property
    def header(self) -> dict[str, int]:
        """The header fields that all answers of this server share."""
        map_epoch = self.map.epoch if self.map is not None else 0
        return {"run": self.view.run, "sender": self.identity, "map_epoch": map_epoch}

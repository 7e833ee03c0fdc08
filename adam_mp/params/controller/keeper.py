"""A server's side of the controller in etcd: it swaps maps, and is elected coordinator. No thread, no socket.

    keys of a run in etcd
      run           the record: bucket map and latest changes; swapped whole, under the revision that was read
      coordinator   who is coordinator; has a lease, so it goes soon after that server has died
      term          who was elected last; tells a coordinator whose lease has ended whether another has led since
      state         the coordinator's state, from which its successor goes on

The server's thread says what it wants (`wishes`, `proposal`, `state`), and looks at what is (`record`, `elected`,
`leads`). Another thread calls `turn`, which asks etcd. All that the two share are immutable values, replaced whole.

Leases end while etcd itself hangs. So when it answers again, whoever led goes on, unless another has led meanwhile: the
others leave the election to it for a moment.

Everything here goes by what etcd holds, not by what an answer said: if an answer is lost, the next turn reads.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from adam_mp.params.controller.etcd import NO_LEASES, EtcdError, Found, Unchanged
from adam_mp.params.controller.record import (
    Elected,
    Record,
    RecordError,
    as_bytes,
    read_elected,
    read_record,
)
from adam_mp.params.run.bucket_map import BucketMap
from adam_mp.params.run.wishes import RoleWish, grant_wishes

LEASE = 3  # seconds: etcd grants no shorter ones with its default settings
_LOOK = 0.5  # seconds between two readings of all keys
_ALIVE = 1.0  # seconds between two signs of life of the coordinator
_CALL = 1.5  # seconds that etcd, with all its endpoints, has for an answer
_SWAP = 0.8  # seconds for a swap of the map: etcd forgets one that was on its way to a leader that died
_PAUSE = 5.0  # seconds for which a server that has resigned leaves the election to others
_OUTAGE = 1.5  # seconds without an answer of etcd, after which the coordinator's lease may have ended for that alone
_HEAD_START = 3.5  # seconds that the coordinator then has; calls that were on their way take 1.5 on either side
_LARGEST_STATE = 1 << 28  # bytes
_RUN, _COORDINATOR, _TERM, _STATE = "run", "coordinator", "term", "state"


class Store(Protocol):
    """The keys of a run, as `Etcd` has them."""

    def read(self, keys: Sequence[str], seconds: float) -> dict[str, Found]:
        """See `Etcd.read`."""

    def swap(
        self, values: Mapping[str, bytes], conditions: Sequence[Unchanged], seconds: float,
        leases: Mapping[str, int] = NO_LEASES,
    ) -> int:  # fmt: skip
        """See `Etcd.swap`."""

    def lease(self, ends_after: int, seconds: float) -> int:
        """See `Etcd.lease`."""

    def keep_alive(self, lease: int, seconds: float) -> bool:
        """See `Etcd.keep_alive`."""

    def end_lease(self, lease: int, seconds: float) -> None:
        """See `Etcd.end_lease`."""

    def forget(self, conditions: Sequence[Unchanged], seconds: float) -> int:
        """See `Etcd.forget`."""


class Keeper:
    """The controller's keeper in the server `me`.

    `run` is the run of which this server is a member, 0 for none: it may be elected in that run alone. If etcd has no
    run, the server may begin `fresh`, until it is a member of a run. `trouble` is why etcd could not be asked last, ""
    if it could.
    """

    def __init__(self, store: Store, me: Elected, fresh: Record, run: int = 0) -> None:
        self.me, self.run = me, run
        self.record: Record | None = None
        self.elected: Elected | None = None
        self.leads = False
        self.trouble = ""
        self.wishes: tuple[RoleWish, ...] = ()
        self.proposal: tuple[BucketMap | None, BucketMap] | None = None
        self.state: Mapping[str, Any] | None = None  # what is to be written
        self.outdated = self._resigns = False
        self._store, self._fresh, self._lease = store, fresh, 0
        self._found: Mapping[str, Found] = {}
        self._written: Mapping[str, Any] | None = None  # the newest state that is not to be written any more
        self._state_found = b""
        self._term = 0  # the revision of `term` since this server was elected
        self._looked = self._lived = self._paused = float("-inf")
        self._answered, self._has_waited = float("inf"), False

    # What the server's thread does.

    def is_stored(self, before: BucketMap | None, after: BucketMap) -> bool:
        """Tell whether etcd has the map `after`; else have it written if etcd has `before` still."""
        record = self.record
        if record is not None and record.map == after:
            self.proposal = None
            return True
        self.proposal = (before, after)
        return False

    def resign(self) -> None:
        """Leave the coordinator's part to another server, at once, even if etcd cannot be told now."""
        self._resigns, self.leads = True, False

    def stored_state(self) -> dict[str, Any] | None:
        """Return the coordinator's state as it was when this server was elected; None if none could be read."""
        try:
            unpacked = zlib.decompressobj().decompress(self._state_found, _LARGEST_STATE)
            state = json.loads(unpacked)
        except (zlib.error, ValueError, RecursionError):
            return None
        return state if isinstance(state, dict) else None

    # What the other thread does.

    def turn(self, now: float) -> None:
        """Do what is to be done at etcd now. If etcd cannot be asked, `trouble` says why."""
        try:
            self._do(now)
        except (EtcdError, RecordError) as error:
            self.trouble, self.outdated = str(error), True
        else:
            self.trouble = ""

    def look(self, now: float) -> None:
        """Read the run and who is its coordinator. Raises EtcdError or RecordError."""
        self.outdated = False
        found = self._store.read((_RUN, _COORDINATOR, _TERM), _CALL)
        run, coordinator = found.get(_RUN), found.get(_COORDINATOR)
        record = read_record(run.value) if run is not None else None
        self.elected = read_elected(coordinator.value) if coordinator is not None else None
        self._found, self.record, self._looked = found, record, now
        if record is not None and record.run == self._fresh.run:
            self.run = record.run  # this server has begun it
        self._note_leading(now)

    def end(self, forget: bool) -> None:
        """Resign, so that another is elected at once; `forget` removes all keys of the run, if this server leads it."""
        self.trouble = ""
        try:
            if forget and self._is_elected():
                self._store.forget(self._as_coordinator(), _CALL)
        except EtcdError as error:
            self.trouble = str(error)
        if self._lease:
            self._store.end_lease(self._lease, _CALL)
        self._lease, self.leads = 0, False

    def _do(self, now: float) -> None:
        if self.outdated or self.elected is None or now - self._looked >= _LOOK:
            self.look(now)
        if self._resigns:
            self._resign(now)
        self._live(now)
        if self.elected is None and now >= self._paused and self._may_lead():
            self._campaign(now)
        self._change_map(now)
        if self._is_elected():
            self._write_state(now)

    def _note_leading(self, now: float) -> None:
        """Find out whether this server leads, and whether it has to leave the next election to others."""
        led, was_away = self.leads, now - self._answered >= _OUTAGE
        self._answered = now
        if self.elected is not None:
            self._has_waited = False
        if self.elected == self.me and self._lease:
            self._term, leads = self._revision(_TERM), True
        else:  # a coordinator whose lease has ended leads until another is elected
            leads = led and self.elected in (None, self.me) and self._revision(_TERM) == self._term
        self.leads = leads and not self._resigns
        if not self.leads and (led or (was_away and not self._has_waited)):
            # One that led sees that it does not any more, before it may again. The others wait once in each vacancy:
            # an etcd that now and then gives no answer must not keep all of them from being elected.
            self._paused, self._has_waited = max(self._paused, now + _HEAD_START), self.elected is None

    def _is_elected(self) -> bool:
        return self.leads and self.elected == self.me

    def _as_coordinator(self) -> list[Unchanged]:
        """The condition that this server has been coordinator ever since it last read."""
        return [Unchanged(_COORDINATOR, self._revision(_COORDINATOR))]

    def _revision(self, key: str) -> int:
        return self._found.get(key, Found()).revision

    def _change_map(self, now: float) -> None:
        """Grant this server's wishes, or write the map that it proposes as coordinator."""
        record, wishes, proposal = self.record, self.wishes, self.proposal
        if record is None or record.run != self.run:
            return
        place = record.map.place_of(self.me.identity) if record.map is not None else None
        after, conditions = record, [Unchanged(_RUN, self._revision(_RUN))]
        if record.map is not None and place is not None and wishes:
            bucket_map, lines, silent = grant_wishes(record.map, place, wishes)
            if bucket_map is not record.map:
                after = record.changed(bucket_map, lines, tuple(silent))
        if after is record and self._is_elected() and proposal is not None and record.map == proposal[0] != proposal[1]:
            after = record.changed(proposal[1])
            conditions += self._as_coordinator()
        if after is record:
            return
        value = as_bytes(after)
        revision = self._store.swap({_RUN: value}, conditions, _SWAP)
        if revision:
            self._found = {**self._found, _RUN: Found(value, revision)}
            self.record = after
        else:
            self.look(now)  # what is still wanted then, the next turn does

    def _live(self, now: float) -> None:
        """Keep the lease alive. If it has ended, etcd has removed the key, and may have elected another."""
        if self._lease and self.elected is not None and self.elected != self.me:
            self._store.end_lease(self._lease, _CALL)  # of an election whose answer was lost, and which another won
            self._lease = 0
        if self._lease and now - self._lived >= _ALIVE:
            if self._store.keep_alive(self._lease, _CALL):
                self._lived = now
            else:
                self._lease = 0
                self.look(now)

    def _may_lead(self) -> bool:
        """Whether this server may be elected: it is of the run and has its place in the map, or may begin a run."""
        record = self.record
        if record is None:
            return self.run == 0
        is_placed = record.map is None or record.map.place_of(self.me.identity) is not None
        return record.run == self.run and is_placed

    def _campaign(self, now: float) -> None:
        """Be elected. The lease may be that of an attempt whose answer was lost, and which may still succeed."""
        if not self._lease:
            self._lease, self._lived = self._store.lease(LEASE, _CALL), now
        values = {_COORDINATOR: as_bytes(self.me), _TERM: as_bytes(self.me)}
        if self.record is None:
            values[_RUN] = as_bytes(self._fresh)
        conditions = [Unchanged(_COORDINATOR, 0), *(Unchanged(key, self._revision(key)) for key in (_RUN, _TERM))]
        state = self._store.read((_STATE,), _CALL)
        self._state_found = state[_STATE].value if _STATE in state else b""
        if not self.leads:
            self._written = self.state  # that of an earlier term
        self._store.swap(values, conditions, _CALL, {_COORDINATOR: self._lease})
        self.look(now)
        self._live(now)

    def _resign(self, now: float) -> None:
        self._resigns, self.leads, self._paused = False, False, now + _PAUSE
        if self._lease:
            self._store.end_lease(self._lease, _CALL)
            self._lease = 0
        self.look(now)

    def _write_state(self, now: float) -> None:
        state = self.state
        if state is None or state is self._written:
            return
        value = zlib.compress(json.dumps(state).encode(), 1)
        if self._store.swap({_STATE: value}, self._as_coordinator(), _CALL):
            self._written = state
        else:
            self.look(now)  # another is coordinator

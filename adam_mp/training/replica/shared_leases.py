"""Which batches of an epoch a replica of many trains, and when the epoch is over.

It is leased batches by the coordinator, a little more than it can train until it is heard again, and the coordinator
says when the epoch is over. A batch is reported as trained only when the servers have its update, so that what a dead
replica had not pushed yet is trained by others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from adam_mp.errors import TransportError
from adam_mp.memory.exchange import ExchangeMemory
from adam_mp.memory.ledger import ELSEWHERE, FREE, HELD, LEASED, TRAINED
from adam_mp.memory.run_memory import RunMemory
from adam_mp.memory.store import ParameterStore
from adam_mp.params.replica.synchronizer import note_map
from adam_mp.params.run.bucket_map import BucketMap
from adam_mp.params.run.listening import Listening
from adam_mp.params.run.membership import CoordinatorLink
from adam_mp.params.run.news import EndedEpoch, News
from adam_mp.params.run.statements import Joining, Reporting
from adam_mp.training.folder.figures import Sums
from adam_mp.training.replica.leases import FailedIn
from adam_mp.transport.forms import write
from adam_mp.transport.messages import Kind, shown

_REPORT, _QUIET_REPORT = 0.04, 0.25  # seconds between reports, while batches move and while nothing does
_LEAST, _MOST = 4, 4096  # batches that wait here to be trained, for each worker and in all
_AHEAD = 4  # reports for whose time there should be batches here
_PARTING = 2.0  # seconds
_MOST_UPDATES = (1 << 63) - 1  # that the store can count


@dataclasses.dataclass
class _Waiting:
    """Batches that are trained, and the round of the exchange after which the servers have their updates."""

    batches: list[int]
    round: int


class SharedLeases:
    """Batches leased by the coordinator.

    `joining` is what this replica joined with; `news` what the coordinator answered; `patience` how many seconds it may
    be silent; `figures` returns what `status` shows of this replica; `brought` of the updates in the store came with
    its checkpoint, and are counted by the coordinator already.
    """

    def __init__(
        self, memory: RunMemory, store: ParameterStore, exchange: ExchangeMemory, link: CoordinatorLink,
        joining: Joining, news: News, patience: float, figures: Callable[[], dict[str, Any]],
        brought: int, failed_in: FailedIn,
    ) -> None:  # fmt: skip
        self._memory, self._store, self._exchange = memory, store, exchange
        self._link, self._joining, self._patience, self._figures = link, joining, patience, figures
        self._news, self._find_failed, self._brought = news, failed_in, brought
        self._epoch = joining.epoch - 1  # the last one that is behind it
        self._opened = self._granted = self._left = self._asks_for_done = False
        self._done: np.ndarray | None = None  # [batches], what all replicas have trained, if that was asked
        self._pulse: tuple[int, ...] = ()
        self._wanted_round = self._elsewhere = 0
        self._hungry = True
        self._pace = 0.0  # batches trained between two reports
        note_map(exchange, self.map)
        self._forget(0)

    @property
    def leads(self) -> bool:
        """See `Leases.leads`."""
        return self._news.leader

    def open(self, epoch: int, states: np.ndarray) -> None:
        """See `Leases.open`; which batches are done, the coordinator knows."""
        self._epoch, self._opened = epoch, True
        self._forget(len(states))
        self._memory.ledger.open(epoch, np.full(len(states), ELSEWHERE, np.uint8))

    def over(self, states: np.ndarray) -> bool:
        """See `Leases.over`. Raises TransportError if the coordinator is silent for too long."""
        self._look_for_trained(states)
        idle = not np.isin(states, (FREE, HELD, LEASED)).any()
        if idle and self._waiting and self._exchange.is_done(self._wanted_round):
            self._wanted_round = self._exchange.want_round()
        interval = _QUIET_REPORT if idle and not self._ready and not self._hungry else _REPORT
        self._report(states, interval)
        return self._news.epoch != self._epoch

    def trained(self, states: np.ndarray) -> int:
        """See `Leases.trained`."""
        return self._news.trained if self._news.epoch == self._epoch else self._ended().trained

    def next_epoch(self) -> int:
        """See `Leases.next_epoch`."""
        return self._news.epoch

    def sums(self, states: np.ndarray) -> Sums:
        """See `Leases.sums`."""
        if self._news.epoch == self._epoch:
            return _sums(self._news.trained, 0, self._news.failed)
        ended = self._ended()
        return _sums(ended.trained, ended.skipped, ended.failed)

    def failed_in(self, states: np.ndarray) -> dict[int, int]:
        """See `Leases.failed_in`."""
        return {**self._failed, **self._failed_elsewhere}

    def missed(self) -> list[tuple[int, Sums]]:
        """See `Leases.missed`. It happens to a replica that validates, or looks for the coordinator, for long."""
        later = (entry for entry in self._news.finished if entry.epoch > self._epoch)
        return [(entry.epoch, _sums(entry.trained, entry.skipped, entry.failed)) for entry in later]

    def tick(self) -> None:
        """See `Leases.tick`. Raises TransportError if the coordinator is silent for too long."""
        if not self._left:
            self._report(None, _QUIET_REPORT)

    @property
    def map(self) -> BucketMap:
        """The newest bucket map."""
        assert self._news.map is not None
        return self._news.map

    def moved(self) -> bool:
        """See `Leases.moved`. That the coordinator answers is not enough: the run must get on, or an exchange."""
        news = self._news
        pulse = (news.epoch, news.trained, news.updates, *self._exchanged())
        moved = self._granted or pulse != self._pulse
        self._granted, self._pulse = False, pulse
        return moved

    def silences(self) -> dict[str, float]:
        """See `Leases.silences`. The first parameter server is the coordinator too."""
        silences: dict[str, float] = {}
        for server, milliseconds in zip(self.map.servers, self._exchange.silences.tolist(), strict=True):
            role = "parameter server" if silences else "coordinator"
            silences[f"the {role} at {server.address}"] = milliseconds / 1000
        coordinator = next(iter(silences))
        return {**silences, coordinator: max(silences[coordinator], self._link.silence)}

    def settle(self, tick: Callable[[], None]) -> None:
        """See `Leases.settle`. Raises TransportError once no shard was exchanged for the seconds of patience."""
        round_number = self._exchange.want_round()
        exchanged, since, listening = self._exchanged(), 0.0, Listening()
        while not self._exchange.is_done(round_number):
            tick()
            listened = listening.look(time.monotonic())
            if (now_exchanged := self._exchanged()) != exchanged:
                exchanged, since = now_exchanged, listened
            elif listened - since > self._patience:
                servers = ", ".join(shown(server.address) for server in self.map.servers)
                raise TransportError(
                    f"no weights were exchanged for {self._patience:g} s, and the last updates wait for it; do the "
                    f"parameter servers run at {servers}?"
                )
            time.sleep(_REPORT / 10)

    def resumable(self, states: np.ndarray, tick: Callable[[], None]) -> np.ndarray:
        """See `Leases.resumable`. What is done by all is asked first, so that the weights after settling have it."""
        self._done, self._asks_for_done = None, True
        listening = Listening()
        while self._done is None and self._news.epoch == self._epoch:
            tick()
            if listening.look(time.monotonic()) > self._patience:
                raise TransportError(f"the coordinator at {self._link.address} does not say what is trained")
            time.sleep(_REPORT / 10)
        self._asks_for_done = False
        self.settle(tick)
        if self._done is None:  # the epoch ended meanwhile
            return np.full(len(states), TRAINED, np.uint8)
        return np.where(self._done | (states == TRAINED), TRAINED, FREE).astype(np.uint8)

    def _exchanged(self) -> tuple[int, int]:
        """Return two numbers that grow while weights are exchanged: rounds, and questions about shards."""
        return self._exchange.read("rounds"), self._exchange.read("sequence")

    def leave(self) -> None:
        """See `Leases.leave`. What is trained and pushed is told first, or others would train it again."""
        if self._opened:
            self._look_for_trained(self._memory.ledger.states())
            trained = [*self._telling, *self._ready]
            last = Reporting(self._figures(), self._epoch, 0, trained, self._failed_of(trained))
            with contextlib.suppress(TransportError):
                self._link.ask(Kind.REPORT, write(last), _PARTING)
        self._link.leave()
        self._left = True

    def _forget(self, batches: int) -> None:
        """Begin an epoch of so many batches, with nothing known of it."""
        self._known: np.ndarray = np.zeros(batches, bool)  # which are trained here
        self._count = 0  # of them
        self._failed: dict[int, int] = {}  # batch -> images that could not be had, of those
        self._failed_elsewhere: dict[int, int] = {}  # of those of all replicas, if that was asked
        self._waiting: list[_Waiting] = []
        self._ready: list[int] = []  # the servers have them; the coordinator does not know yet
        self._telling: list[int] = []
        self._wanted_round = 0
        self._at_report = 0
        self._hungry = True

    def _look_for_trained(self, states: np.ndarray) -> None:
        new = np.flatnonzero((states == TRAINED) & ~self._known).tolist()
        if new:
            self._known[new] = True
            self._count += len(new)
            self._failed.update(self._find_failed(np.array(new)))
            self._waiting.append(_Waiting(new, self._exchange.next_round()))
        while self._waiting and self._exchange.is_done(self._waiting[0].round):
            self._ready += self._waiting.pop(0).batches

    def _failed_of(self, batches: list[int]) -> dict[int, int]:
        """Return what is told of these batches' images that could not be had."""
        return {batch: self._failed[batch] for batch in batches if batch in self._failed} if self._failed else {}

    def _report(self, states: np.ndarray | None, interval: float) -> None:
        def make() -> dict[str, Any]:
            self._telling, self._ready = self._ready, []
            wanted = 0
            if states is not None:
                self._pace = max(self._count - self._at_report, 0.7 * self._pace)
                self._at_report = self._count
                backlog = int(np.count_nonzero((states == FREE) | (states == HELD)))
                least = _LEAST * self._memory.shape.workers
                wanted = max(0, min(_MOST, max(least, round(_AHEAD * self._pace))) - backlog)
                self._hungry = wanted > 0
            failed = self._failed_of(self._telling)
            return write(Reporting(self._figures(), self._epoch, wanted, self._telling, failed, self._asks_for_done))

        news = self._link.report(make, self._rejoining, interval)
        if news is not None:
            self._take(news)
        elif self._link.silence > self._patience:
            raise TransportError(f"the coordinator at {self._link.address} is silent for {self._link.silence:.0f} s")

    def _take(self, news: News) -> None:
        """Take over what the coordinator says. Raises TransportError if it makes no sense."""
        batches = len(self._memory.ledger.states())
        if any(batch >= batches for batch in news.granted) or news.map is None:
            raise TransportError(
                f"the coordinator at {self._link.address} leases batches beyond the {batches} of the epoch, or has no "
                "bucket map; is it of another version?"
            )
        known, before = {entry.epoch for entry in news.finished}, self.map
        # A replica that joined again is told nothing of the epoch that is being closed here.
        kept = [entry for entry in self._news.finished if entry.epoch >= self._epoch and entry.epoch not in known]
        self._news = dataclasses.replace(news, finished=(*kept, *news.finished))
        if self.map != before:
            note_map(self._exchange, self.map)
        self._telling = []
        self._elsewhere = max(self._elsewhere, min(news.updates, _MOST_UPDATES))  # a restarted one learns them
        self._store.set_elsewhere(self._elsewhere - self._brought)
        if news.epoch != self._epoch:
            return
        if news.done is not None:
            bits = np.unpackbits(np.frombuffer(news.done, np.uint8))
            self._done, self._failed_elsewhere = bits[:batches] == 1, dict(news.failed_in)
        if news.granted:
            self._granted |= self._memory.ledger.admit(news.granted) > 0

    def _rejoining(self) -> dict[str, Any]:
        """Return what to join with again, after the coordinator was restarted or took this replica for dead."""
        states = self._memory.ledger.states()
        epoch = self._news.epoch
        trained: list[int] = []
        leased: list[int] = []
        if epoch == self._epoch:  # else all is said: it had ended before the coordinator was lost
            unpushed = sorted(batch for waiting in self._waiting for batch in waiting.batches)
            pushed = self._known.copy()
            pushed[unpushed] = False
            trained = np.flatnonzero(pushed).tolist()
            leased = [*np.flatnonzero(np.isin(states, (FREE, HELD, LEASED))).tolist(), *unpushed]
        self._ready = []
        return write(
            dataclasses.replace(
                self._joining, run=self._link.run, epoch=epoch, finished=self._news.finished, map=self.map,
                trained=trained, failed=self._failed_of(trained), leased=leased,
            )
        )  # fmt: skip

    def _ended(self) -> EndedEpoch:
        """Return the figures of this epoch, which is over."""
        over = (entry for entry in self._news.finished if entry.epoch == self._epoch)
        return next(over, EndedEpoch(self._epoch))


def _sums(trained: int, skipped: int, failed: int) -> Sums:
    """Return the images of an epoch as the coordinator tells them: all of its trained batches are `trained` there."""
    return Sums(trained - failed, skipped, failed)

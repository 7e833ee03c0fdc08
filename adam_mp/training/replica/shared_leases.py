"""Which batches of an epoch a replica of many trains, and when the epoch is over.

It is leased batches by the coordinator, a little more than it can train until it is heard again, and the coordinator
says when the epoch is over. A batch is reported as trained only when the servers have its update, so that what a dead
replica had not pushed yet is trained by others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from adam_mp.errors import TransportError
from adam_mp.memory.exchange import ExchangeMemory
from adam_mp.memory.ledger import ELSEWHERE, FREE, HELD, LEASED, TRAINED
from adam_mp.memory.run_memory import RunMemory
from adam_mp.memory.store import ParameterStore
from adam_mp.params.run.listening import Listening
from adam_mp.params.run.membership import CoordinatorLink
from adam_mp.params.run.statements import REPLICA
from adam_mp.training.folder.figures import Sums
from adam_mp.training.replica.leases import FailedIn
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

    `facts` is what this replica joins with; `news` what the coordinator answered; `patience` how many seconds it may be
    silent; `figures` returns what `status` shows of this replica; `brought` of the updates in the store came with its
    checkpoint, and are counted by the coordinator already.
    """

    def __init__(
        self, memory: RunMemory, store: ParameterStore, exchange: ExchangeMemory, link: CoordinatorLink,
        facts: Mapping[str, Any], news: Mapping[str, Any], patience: float, figures: Callable[[], dict[str, Any]],
        brought: int, failed_in: FailedIn,
    ) -> None:  # fmt: skip
        self._memory, self._store, self._exchange = memory, store, exchange
        self._link, self._facts, self._patience, self._figures, self._brought = link, facts, patience, figures, brought
        self._news, self._find_failed = dict(news), failed_in
        self._epoch = int(facts["epoch"]) - 1  # the last one that is behind it
        self._opened = self._granted = self._left = self._asks_for_done = False
        self._done: np.ndarray | None = None  # [batches], what all replicas have trained, if that was asked
        self._pulse: tuple[int, ...] = ()
        self._wanted_round = self._elsewhere = 0
        self._hungry = True
        self._pace = 0.0  # batches trained between two reports
        self._forget(0)

    @property
    def leads(self) -> bool:
        """See `Leases.leads`."""
        return bool(self._news.get("leader"))

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
        return int(self._news["epoch"]) != self._epoch

    def trained(self, states: np.ndarray) -> int:
        """See `Leases.trained`."""
        return int(self._news["trained"]) if int(self._news["epoch"]) == self._epoch else int(self._ended("trained"))

    def next_epoch(self) -> int:
        """See `Leases.next_epoch`."""
        return int(self._news["epoch"])

    def sums(self, states: np.ndarray) -> Sums:
        """See `Leases.sums`."""
        if int(self._news["epoch"]) == self._epoch:
            return _sums({**self._news, "skipped": 0})
        return _sums({name: self._ended(name) for name in ("trained", "skipped", "failed")})

    def failed_in(self, states: np.ndarray) -> dict[int, int]:
        """See `Leases.failed_in`."""
        return {**self._failed, **self._failed_elsewhere}

    def missed(self) -> list[tuple[int, Sums]]:
        """See `Leases.missed`. It happens to a replica that validates, or looks for the coordinator, for long."""
        return [(int(entry["epoch"]), _sums(entry)) for entry in self._news["finished"] if entry["epoch"] > self._epoch]

    def tick(self) -> None:
        """See `Leases.tick`. Raises TransportError if the coordinator is silent for too long."""
        if not self._left:
            self._report(None, _QUIET_REPORT)

    @property
    def servers(self) -> dict[str, Any]:
        """The newest bucket map, as plain values."""
        return dict(self._news["map"])

    def moved(self) -> bool:
        """See `Leases.moved`. That the coordinator answers is not enough: the run must get on, or an exchange."""
        news = (int(self._news[name]) for name in ("epoch", "trained", "updates"))
        pulse = (*news, *self._exchanged())
        moved = self._granted or pulse != self._pulse
        self._granted, self._pulse = False, pulse
        return moved

    def silences(self) -> dict[str, float]:
        """See `Leases.silences`. The first parameter server is the coordinator too."""
        silences: dict[str, float] = {}
        for (_, address), milliseconds in zip(self.servers["servers"], self._exchange.silences.tolist(), strict=True):
            role = "parameter server" if silences else "coordinator"
            silences[f"the {role} at {address}"] = milliseconds / 1000
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
                servers = ", ".join(shown(address) for _, address in self.servers["servers"])
                raise TransportError(
                    f"no weights were exchanged for {self._patience:g} s, and the last updates wait for it; do the "
                    f"parameter servers run at {servers}?"
                )
            time.sleep(_REPORT / 10)

    def resumable(self, states: np.ndarray, tick: Callable[[], None]) -> np.ndarray:
        """See `Leases.resumable`. What is done by all is asked first, so that the weights after settling have it."""
        self._done, self._asks_for_done = None, True
        listening = Listening()
        while self._done is None and int(self._news["epoch"]) == self._epoch:
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
            facts = {
                "epoch": self._epoch, "trained": trained, "failed": self._failed_of(trained),
                "statistics": self._figures(),
            }  # fmt: skip
            with contextlib.suppress(TransportError):
                self._link.ask(Kind.REPORT, facts, _PARTING)
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

    def _failed_of(self, batches: list[int]) -> list[list[int]]:
        """Return what is told of these batches' images that could not be had."""
        return [[batch, self._failed[batch]] for batch in batches if batch in self._failed] if self._failed else []

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
            return {
                "epoch": self._epoch, "trained": self._telling, "failed": self._failed_of(self._telling),
                "wanted": wanted, "statistics": self._figures(), "states": self._asks_for_done,
            }  # fmt: skip

        news = self._link.report(make, self._rejoining, interval)
        if news is not None:
            self._take(news)
        elif self._link.silence > self._patience:
            raise TransportError(f"the coordinator at {self._link.address} is silent for {self._link.silence:.0f} s")

    def _take(self, news: Mapping[str, Any]) -> None:
        """Take over what the coordinator says. Raises TransportError if it makes no sense."""
        granted, batches = news.get("granted", []), len(self._memory.ledger.states())
        if not all(isinstance(batch, int) and 0 <= batch < batches for batch in granted):
            raise TransportError(
                f"the coordinator at {self._link.address} leases batches beyond the {batches} of the epoch; "
                "is it of another version?"
            )
        began, servers = len(self._exchange.silences), len(news["map"]["servers"])
        if servers != began:
            raise TransportError(f"the run began with {began} parameter servers and has {servers} now; start it again")
        known = {entry["epoch"] for entry in news["finished"]}
        # To one that joined again, nothing is said of the epoch that is being closed here.
        kept = [e for e in self._news["finished"] if e["epoch"] >= self._epoch and e["epoch"] not in known]
        self._news = {**news, "finished": [*kept, *news["finished"]]}
        self._telling = []
        self._elsewhere = max(self._elsewhere, min(int(news["updates"]), _MOST_UPDATES))  # a restarted one learns them
        self._store.set_elsewhere(self._elsewhere - self._brought)
        if int(news["epoch"]) == self._epoch and "done" in news:
            bits = np.unpackbits(np.frombuffer(bytes.fromhex(str(news["done"])), np.uint8))
            self._done = bits[:batches] == 1
            self._failed_elsewhere = {int(batch): int(images) for batch, images in news["failed_in"]}
        if int(news["epoch"]) == self._epoch and granted:
            self._granted |= self._memory.ledger.admit(granted) > 0

    def _rejoining(self) -> dict[str, Any]:
        """Return what to join with again, after the coordinator was restarted or took this replica for dead."""
        states = self._memory.ledger.states()
        epoch = int(self._news["epoch"])
        trained: list[int] = []
        leased: list[int] = []
        if epoch == self._epoch:  # else all is said: it had ended before the coordinator was lost
            unpushed = sorted(batch for waiting in self._waiting for batch in waiting.batches)
            pushed = self._known.copy()
            pushed[unpushed] = False
            trained = np.flatnonzero(pushed).tolist()
            leased = [*np.flatnonzero(np.isin(states, (FREE, HELD, LEASED))).tolist(), *unpushed]
        self._ready = []
        return {
            **self._facts,
            "role": REPLICA,
            "run": self._link.run,
            "epoch": epoch,
            "finished": self._news["finished"],
            "map": self.servers,
            "trained": trained,
            "failed": self._failed_of(trained),
            "leased": leased,
        }

    def _ended(self, what: str) -> int:
        """Return a figure of this epoch, which is over."""
        return next((int(entry[what]) for entry in self._news["finished"] if entry["epoch"] == self._epoch), 0)


def _sums(entry: Mapping[str, Any]) -> Sums:
    """Return the images of an epoch as the coordinator tells them: all of its trained batches are `trained` there."""
    failed = int(entry["failed"])
    return Sums(int(entry["trained"]) - failed, int(entry["skipped"]), failed)

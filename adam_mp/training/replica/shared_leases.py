"""A replica's leases: the coordinator leases batches to the replica, and says when the epoch is over.

The replica has a few more batches than it can train until the coordinator's next answer. `leased_batches` decides what
to ask for and to report, `news` keeps what the coordinator said. This module sends the reports, joins again after the
coordinator was lost, waits for the coordinator and for the exchange of weights, and tells who is silent.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from adam_mp.errors import TransportError, several
from adam_mp.memory.board import DATA, EXCHANGE, LEASES
from adam_mp.memory.ledger import ELSEWHERE, FREE, TRAINED
from adam_mp.memory.run_memory import RunMemory
from adam_mp.memory.store import ParameterStore
from adam_mp.params.run.bucket_map import BucketMap
from adam_mp.params.run.listening import Listening
from adam_mp.params.run.membership import CoordinatorLink
from adam_mp.params.run.news import FAILED
from adam_mp.params.run.statements import REPLICA, Reporting
from adam_mp.training.folder.figures import Sums
from adam_mp.training.replica.leased_batches import LeasedBatches, none_here
from adam_mp.training.replica.leases import FailedIn, is_any_unmade
from adam_mp.training.replica.news import News
from adam_mp.training.replica.rounds import Rounds
from adam_mp.transport.forms import write
from adam_mp.transport.messages import Kind, shown

_REPORT, _QUIET_REPORT = 0.04, 0.25  # seconds between reports, while batches move and while nothing does
_SILENT = 1.0  # seconds without an answer, after which the coordinator is what holds workers up
_PARTING = 2.0  # seconds to wait for the answer to the last report
_MOST_UPDATES = (1 << 63) - 1  # the largest count of updates that the store can hold


class SharedLeases:
    """The leases of a replica: batches that the coordinator leases to it.

    `joining` has the fields of this replica's JOIN, `answer` those of the coordinator's answer to it, as plain values.
    `patience` is how many seconds the coordinator may be silent. `figures` returns the statistics that `status` shows.
    `brought` of the updates that the store counts came with a checkpoint; the coordinator knows of them already.
    """

    def __init__(
        self, memory: RunMemory, store: ParameterStore, rounds: Rounds, link: CoordinatorLink,
        joining: Mapping[str, Any], answer: Mapping[str, Any], patience: float, figures: Callable[[], dict[str, Any]],
        brought: int, failed_in: FailedIn,
    ) -> None:  # fmt: skip
        self._memory, self._store, self._rounds, self._link = memory, store, rounds, link
        self._joining, self._patience, self._figures, self._brought = joining, patience, figures, brought
        self._news, self._find_failed = News(answer), failed_in
        self._counted = self._news  # the news up to which `_images_of_all` counts
        self._batches = LeasedBatches()
        self._epoch = int(joining["epoch"]) - 1  # the last epoch opened; until one is, that before it
        self._opened = self._left = False  # whether an epoch was ever opened; whether this replica has left the run
        self._granted = False  # whether batches were granted since `moved` was asked
        self._asks_for_done = False
        self._done: np.ndarray | None = None  # bool [batches], trained by any replica, once the coordinator has told
        self._pulse: tuple[int, ...] = ()
        rounds.note_map(BucketMap.from_dict(self._news.map))
        self._wanted_round = 0  # the last round of the exchange that trained batches made this replica ask for
        self._elsewhere = 0  # updates of all other replicas
        self._images_of_all = 0  # images that all replicas trained since this one joined

    @property
    def leads(self) -> bool:
        """See `Leases.leads`."""
        return self._news.leads

    def open(self, epoch: int, states: np.ndarray) -> None:
        """See `Leases.open`. All batches are ELSEWHERE at first: the coordinator knows which are trained."""
        self._epoch, self._opened, self._wanted_round = epoch, True, 0
        self._batches.begin(len(states))
        self._memory.ledger.open(epoch, np.full(len(states), ELSEWHERE, np.uint8))

    def over(self, states: np.ndarray) -> bool:
        """See `Leases.over`. Raises TransportError if the coordinator is silent for too long."""
        batches = self._batches
        self._look_for_trained(states)
        idle = none_here(states)
        if idle and batches.waits_for_exchange and self._rounds.is_done(self._wanted_round):
            self._wanted_round = self._rounds.want_round()
        self._report(states, _QUIET_REPORT if idle and not batches.has_to_tell else _REPORT)
        return self._news.epoch != self._epoch

    def lack(self, states: np.ndarray) -> int:
        """See `Leases.lack`.

        With no batch here, workers wait for the exchange if trained batches can only be reported after it. If the
        coordinator is silent, it is the coordinator that they wait for.
        """
        if is_any_unmade(states):
            return DATA
        if none_here(states) and self._batches.waits_for_exchange and self._link.silence < _SILENT:
            return EXCHANGE
        return LEASES

    def trained(self, states: np.ndarray) -> int:
        """See `Leases.trained`."""
        return self._news.trained(self._epoch)

    def images_of_all(self, here: float) -> float:
        """See `Leases.images_of_all`; counts from the moment in which this replica joined."""
        return self._images_of_all

    def next_epoch(self) -> int:
        """See `Leases.next_epoch`."""
        return self._news.epoch

    def sums(self, states: np.ndarray) -> Sums:
        """See `Leases.sums`."""
        return self._news.sums(self._epoch)

    def failed_in(self, states: np.ndarray) -> dict[int, int]:
        """See `Leases.failed_in`."""
        return self._batches.failed

    def missed(self) -> list[tuple[int, Sums]]:
        """See `Leases.missed`. A replica misses epochs while it validates, or does not reach the coordinator."""
        return self._news.missed(self._epoch)

    def step(self) -> None:
        """See `Leases.step`. Raises TransportError if the coordinator is silent for too long."""
        self._rounds.step()
        if not self._left:
            self._report(None, _QUIET_REPORT)

    def moved(self) -> bool:
        """See `Leases.moved`. An answer of the coordinator is no progress: images or weights must have moved."""
        pulse = (*self._news.pulse, *self._rounds.pulse)
        moved = self._granted or pulse != self._pulse
        self._granted, self._pulse = False, pulse
        return moved

    def silences(self) -> dict[str, float]:
        """See `Leases.silences`. The first server's process is the coordinator too, unless that is elected."""
        silences = {self._link.who: self._link.silence} if self._link.is_elected else {}
        servers = self._news.map["servers"]
        for (_, address, *_), milliseconds in zip(servers, self._rounds.silences, strict=True):
            role = "parameter server" if silences else "coordinator"
            silences[f"the {role} at {address}"] = milliseconds / 1000
        coordinator = next(iter(silences))
        return {**silences, coordinator: max(silences[coordinator], self._link.silence)}

    def settle(self, step: Callable[[], None]) -> None:
        """See `Leases.settle`. Raises TransportError once no shard was exchanged for `patience` seconds."""
        rounds = self._rounds
        round_number = rounds.want_round()
        exchanged, since, listening = rounds.pulse, 0.0, Listening()
        while not rounds.is_done(round_number) or rounds.next_round() > round_number + 1:
            if rounds.is_done(round_number):  # another has begun, as after a change of the map: it must end too
                round_number = rounds.want_round()
            step()
            listened = listening.step(time.monotonic())
            if (now_exchanged := rounds.pulse) != exchanged:
                exchanged, since = now_exchanged, listened
            elif listened - since > self._patience:
                servers = ", ".join(shown(address) for _, address, *_ in self._news.map["servers"])
                raise TransportError(
                    f"no weights were exchanged for {self._patience:g} s, and the last updates wait for that; do the "
                    f"parameter servers run at {servers}?"
                )
            time.sleep(_REPORT / 10)
        rounds.settle()

    def resumable(self, states: np.ndarray, step: Callable[[], None]) -> np.ndarray:
        """See `Leases.resumable`. Asks which batches are trained, then settles: the weights have all of these then."""
        self._done, self._asks_for_done = None, True
        listening = Listening()
        while self._done is None and self._news.epoch == self._epoch:
            step()
            if listening.step(time.monotonic()) > self._patience:
                raise TransportError(f"the coordinator at {self._link.address} does not say what is trained")
            time.sleep(_REPORT / 10)
        self._asks_for_done = False
        self.settle(step)
        if self._done is None:  # the epoch ended before the coordinator said which batches are trained
            return np.full(len(states), TRAINED, np.uint8)
        return np.where(self._done | (states == TRAINED), TRAINED, FREE).astype(np.uint8)

    def leave(self) -> None:
        """See `Leases.leave`. Reports the trained batches first, or other replicas would train them again."""
        if self._opened:
            self._look_for_trained(self._memory.ledger.states())
            trained = self._batches.tell_last()
            failed = self._batches.failed_of(trained)
            last = Reporting(self._figures(), self._epoch, 0, trained, failed)
            with contextlib.suppress(TransportError):
                self._link.ask(Kind.REPORT, write(last), _PARTING)
        self._link.leave()
        self._left = True

    def _look_for_trained(self, states: np.ndarray) -> None:
        self._batches.step(states, self._rounds.next_round(), self._rounds.is_done, self._find_failed)

    def _report(self, states: np.ndarray | None, interval: float) -> None:
        """Report if `interval` seconds have passed, and take an answer that has come.

        Asks for batches only if the ledger's `states` are given. Raises TransportError.
        """

        def make() -> dict[str, Any]:
            telling = self._batches.tell()
            wanted = 0 if states is None else self._batches.want(states, self._memory.shape.workers)
            failed = self._batches.failed_of(telling)
            return write(Reporting(self._figures(), self._epoch, wanted, telling, failed, self._asks_for_done))

        news = self._link.report(make, self._rejoining, interval)
        if news is not None:
            self._take(write(news))
        elif self._link.silence > self._patience:
            raise TransportError(f"{self._link.who} is silent for {self._link.silence:.0f} s: {self._link.trouble()}")

    def _take(self, answer: Mapping[str, Any]) -> None:
        """Take over what the coordinator answered. Raises TransportError if that does not fit the run."""
        granted, batches = answer.get("granted", []), len(self._memory.ledger.states())
        if not all(isinstance(batch, int) and 0 <= batch < batches for batch in granted):
            raise TransportError(
                f"the coordinator at {self._link.address} leases batches beyond the {batches} of the epoch; "
                "is it of another version?"
            )
        if "map" not in answer:
            raise TransportError(
                f"the coordinator at {self._link.address} has no bucket map; is it of another version?"
            )
        before, now = self._rounds.servers, len(answer["map"]["servers"])
        if now != before:
            raise TransportError(
                f"the run began with {several(before, 'parameter server')} and has {now} now; start it again"
            )
        known_map, self._news = self._news.map, self._news.followed_by(answer, self._epoch)
        # Not above 0 while replicas tell a restarted coordinator again of images that are counted here already.
        if (trained := self._news.trained_since(self._counted)) > 0:
            self._images_of_all, self._counted = self._images_of_all + trained, self._news
        if self._news.map != known_map:
            self._rounds.note_map(BucketMap.from_dict(self._news.map))
        self._batches.heard()
        # The count never falls, although a restarted coordinator begins with a smaller one.
        self._elsewhere = max(self._elsewhere, min(int(answer["updates"]), _MOST_UPDATES))
        self._store.set_elsewhere(self._elsewhere - self._brought)
        if self._news.epoch != self._epoch:
            return
        if "done" in answer:
            bits = np.unpackbits(np.frombuffer(bytes.fromhex(str(answer["done"])), np.uint8))
            self._done = bits[:batches] == 1
            self._batches.note_failed_elsewhere({int(batch): int(images) for batch, images in answer["failed_in"]})
        if granted:
            self._granted |= self._memory.ledger.admit(granted) > 0

    def _rejoining(self) -> dict[str, Any]:
        """Return the fields of a JOIN after the coordinator was restarted, or took this replica for dead."""
        news = self._news
        again = self._batches.rejoin(self._memory.ledger.states(), news.epoch == self._epoch)
        return {
            **self._joining,
            "role": REPLICA,
            "run": self._link.run,
            "epoch": news.epoch,
            "finished": news.finished,
            "map": news.map,
            "trained": again.trained,
            "failed": FAILED.write(self._batches.failed_of(again.trained)),
            "leased": again.leased,
        }

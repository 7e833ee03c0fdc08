"""The supervisor: conducts epochs, validates, checkpoints, reports; every wait of it has a deadline.

Its thread alone gives orders and changes ledgers' rounds. The workers' counters tell it how far they are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adam_mp.compute.model import Model, Tensors
from adam_mp.data.reading.dataset import epoch_order
from adam_mp.errors import DataError
from adam_mp.memory.board import IDLE, TEST, TRAIN, VALIDATE
from adam_mp.memory.ledger import FREE, TRAINED
from adam_mp.process.interruption import Interruption
from adam_mp.training.crew.copies import restore, take_checkpoint, take_model
from adam_mp.training.crew.crew import Crew
from adam_mp.training.crew.preparation import make_specs, prepare_memory
from adam_mp.training.crew.silences import SilenceNotices
from adam_mp.training.crew.watchdog import Watchdog
from adam_mp.training.epoch.accounts import EpochAccount
from adam_mp.training.epoch.bad_samples import BadSamples
from adam_mp.training.epoch.guard import RATE, DivergedError, DivergenceGuard
from adam_mp.training.epoch.hints import ServingHints
from adam_mp.training.folder.checkpoint import Checkpoint, Spaces
from adam_mp.training.folder.figures import SERVING, Figures, Sums
from adam_mp.training.folder.keeper import Keeper
from adam_mp.training.plan.plan import RunPlan
from adam_mp.training.plan.quorum import reopened, within_quorum
from adam_mp.training.plan.resuming import find_best
from adam_mp.training.replica.joining import Cluster, share_batches, synchronizer_spec
from adam_mp.training.replica.launch import Launch
from adam_mp.training.settings.events import EpochProgress, Listener, Notice

_TICK, _LONGEST_TICK = 0.01, 0.05  # seconds between looks at the board
_REPORT = 0.2  # seconds between progress events


class Supervisor:
    """Runs a plan. Use as a context manager: leaving it ends all processes and frees all memory, whatever happened.

    Checkpoints and the best model go to `folder`; it may be None where nothing is trained. `cluster` is this replica's
    place in a run of many machines; `launch` are the other parts of such a run that are children of this process.
    """

    def __init__(
        self, plan: RunPlan, folder: Path | None, interruption: Interruption, listener: Listener,
        cluster: Cluster | None = None, launch: Launch | None = None,
    ) -> None:  # fmt: skip
        self.cluster, self.launch = cluster, launch
        self.plan, self.folder, self.interruption, self.tell = plan, folder, interruption, listener
        self.figures = Figures(**plan.resumed.progress) if plan.resumed else Figures()
        self.stopped_by: str | None = None
        self._began = time.monotonic() - self.figures.seconds
        self.seconds_here = 0.0  # of training since it was started, what was undone included
        self._stale_before = np.array(self.figures.staleness_counts)
        self._evaluations = 0
        self._leads = True  # as far as the user was told
        self._silences = SilenceNotices(plan.settings.stall_seconds, self._notice)
        self._following = 0  # the epoch to train after the one that ended last
        self._ways_back = plan.settings.rollbacks if cluster is None else 0  # of many replicas none has all the weights
        self.guard = DivergenceGuard(plan.network.classes, plan.settings.batch_size, self._ways_back)
        self.guard.times = self.figures.rollbacks
        self.hints = ServingHints(plan, self._notice)
        self._served: Mapping[str, float] = dict.fromkeys(SERVING, 0.0)  # counters at the last epoch's end

    def __enter__(self) -> Supervisor:
        with contextlib.ExitStack() as ends:
            self._make_all(ends)
            self._ends = ends.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._ends.__exit__(*error)

    def _make_all(self, ends: contextlib.ExitStack) -> None:
        """Make all but processes, and put on `ends` what ends it, last things first."""
        plan = self.plan
        ends.enter_context(self.interruption.note_asking())
        factors = self.cluster.factors if self.cluster is not None else None
        parameter_servers = len(self.cluster.map.servers) if self.cluster is not None else 1
        self.shared = shared = prepare_memory(plan, factors, parameter_servers, self.folder is not None)
        ends.callback(shared.close)
        self.memory, self.store = shared.memory, shared.store
        self.memory.board.rate_share = self.figures.rate_share
        self.keeper = Keeper(self.folder, self._notice, self._ways_back > 0)
        ends.callback(self.keeper.close)
        workers, servers = make_specs(plan, shared, factors)
        self.leases, synchronizer = share_batches(plan, self.cluster, shared, self._totals, self._failed_in)
        self.crew = Crew(
            self.memory, shared.descriptors, workers, servers, plan.settings.restarts, self._notice, synchronizer,
            plan.share, plan.settings.on_failure, shared.steps,
        )  # fmt: skip
        # A batch that takes long is no stall: twenty times what it should take, with all workers on one core.
        batch_seconds = plan.costs.train_seconds * plan.settings.batch_size * plan.split.workers
        patience = max(plan.settings.stall_seconds, 20 * batch_seconds)
        self._watchdog = Watchdog(
            patience, self.crew, self.launch.children if self.launch is not None else dict, self.interruption,
            self._notice,
        )  # fmt: skip
        flags = self.memory.arrays.get("bad")
        self.bad_samples = BadSamples(plan.data.dataset, flags, self.folder, plan.settings.strict, self._notice)
        ends.push(self._leave)
        ends.callback(self.crew.stop)

    def _leave(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is not None:
            self.leases.leave()  # what it had leased is free for others at once

    def _totals(self) -> Mapping[str, float]:
        return self.crew.totals()

    def _notice(self, text: str, details: str = "") -> None:
        self.tell(Notice(text, details))

    # The run.

    def train(self) -> None:
        """Train all epochs that are left, or until the target accuracy or an interruption."""
        plan = self.plan
        first = self._first_epoch()
        states = reopened(plan.resumed.ledger) if plan.resumed else np.zeros(plan.batches, np.uint8)
        self._find_best()
        self.open_epoch(first, states)
        self.crew.start()
        self.crew.wait_ready(self.tend)
        if self._ways_back:
            self.keeper.remember(self._snapshot(first, states))
        epoch = first
        while epoch < plan.settings.epochs:
            try:
                if not self._train_epoch(epoch):
                    return
            except DivergedError as diverged:
                epoch = self._go_back(str(diverged))
                continue
            epoch = self._following
            target = plan.settings.target_accuracy
            accuracy = self.figures.last_validation_accuracy
            if target is not None and accuracy is not None and accuracy >= target:
                self.stopped_by = f"target accuracy {target:g}"
                return
        self.stopped_by = self.interruption.requested  # in the validation of the last epoch

    def _first_epoch(self) -> int:
        """Return the epoch to begin with: that of the run of many, where there is one, whatever a checkpoint has."""
        resumed = self.plan.resumed
        first = resumed.epoch if resumed else 0
        if self.cluster is None:
            return first
        following = self.leases.next_epoch()
        if resumed and following != first:
            self.figures.close_part(following)
            self._count_missed()
        if following < first:
            self._notice(
                f"the run is in epoch {following + 1}, the checkpoint in epoch {first + 1}: the servers have other "
                "weights, and what lies between is trained, and counted, again"
            )
        return following

    def _find_best(self) -> None:
        """Let a resumed run's figures be of the model that its folder has, or of one that it can still write."""
        resumed, folder = self.plan.resumed, self.folder
        if resumed is None or folder is None:
            return
        best = find_best(folder, resumed)
        self.figures.best_epoch, self.figures.validation_accuracy = best.epoch, best.accuracy
        if best.in_checkpoint:
            self.keeper.save_model(self.model)

    def _go_back(self, reason: str) -> int:
        """Go back to the last good state with half the learning rate; return its epoch. Raises DivergenceError."""
        last, guard = self.keeper.last, self.guard
        guard.go_back(reason, self.keeper.say_what_is_kept)
        assert last is not None, "one is taken before the first batch"
        self._pause(guarded=False)
        self.memory.ledger.close_round(idle=True)  # data servers drop what they make, before the order is another
        restore(self.store, last, last.updates)
        share = self.memory.board.rate_share = self.memory.board.rate_share * RATE
        figures = Figures(**last.progress)
        self.figures = dataclasses.replace(figures, rate_share=share, rollbacks=guard.times, seconds=self.elapsed())
        self._stale_before = np.array(figures.staleness_counts) - self.memory.staleness.sum(axis=0)
        progress = dataclasses.asdict(self.figures)
        self.keeper.write_last(lambda kept: dataclasses.replace(kept, progress=progress))
        self.open_epoch(last.epoch, reopened(last.ledger))
        totals = self.crew.totals()
        guard.begin_again(self.crew.rows()[: self.plan.split.workers], totals["images"], totals["loss"])
        self._served = totals
        self._notice(
            f"{reason}; went back to update {last.updates:,} in epoch {last.epoch + 1}, "
            f"with {share:g} of the learning rate from here on"
        )
        return last.epoch

    def open_epoch(self, epoch: int, states: np.ndarray) -> None:
        """Let the data servers begin with an epoch, of which `states` tells what is done."""
        self.memory.order[...] = epoch_order(self.plan.data.training, self.plan.settings.seed, epoch)
        if self.shared.steps is not None:  # an epoch of steps has the same batches, whoever is quick
            size, images = self.plan.settings.batch_size, len(self.plan.data.training)
            states = within_quorum(states, self.plan.settings.quorum, size, images)
            self.shared.steps.reset()
            self.memory.turns.deal(np.flatnonzero(states == FREE), self.store.read_updates())
        self.leases.open(epoch, states)

    def _train_epoch(self, epoch: int) -> bool:
        """Train and validate one epoch, and checkpoint; False if it was interrupted."""
        figures = self.figures
        account = EpochAccount(
            self.crew.totals, self._stale_counts, figures.epoch_part, self._served, np.array(figures.staleness_before)
        )
        try:
            return self._follow_epoch(epoch, account)
        finally:
            self.seconds_here += account.here

    def _follow_epoch(self, epoch: int, account: EpochAccount) -> bool:
        settings = self.plan.settings
        reported = saved = time.monotonic()
        self.memory.board.give_order(TRAIN)
        while True:
            states = self.memory.ledger.states()
            if self.leases.over(states):
                break
            self.tick()
            now = time.monotonic()
            if self.interruption.requested:
                self._stop_within(epoch, account)
                return False
            if now - saved >= settings.checkpoint_seconds and self.leases.leads:
                saved = now
                self._pause()
                states = self.leases.resumable(self.memory.ledger.states(), self.tick)
                self._checkpoint(epoch, states, account.as_part())
                self.memory.board.give_order(TRAIN)
            if now - reported >= _REPORT:
                reported = now
                self.tell(self._progress(epoch, states, account))
            time.sleep(_time_to_look(account.here, float(np.mean(states == TRAINED)) / settings.quorum))
        self.memory.ledger.close_round()
        self._pause()
        self.memory.ledger.close_round(idle=True)  # what dead workers held, or others wait with
        self.leases.settle(self.tick)
        account.end()
        self._end_epoch(epoch, self.memory.ledger.states(), account)
        return True

    def _stop_within(self, epoch: int, account: EpochAccount) -> None:
        """Checkpoint in an epoch that an interruption cuts."""
        self.stopped_by = self.interruption.requested
        self._notice(f"{self.stopped_by}: finishing the batch and writing a checkpoint; once more stops at once")
        self._pause()
        account.end()
        states = self.leases.resumable(self.memory.ledger.states(), self.tick)
        self.figures.epoch_part = account.as_part()
        self.figures.part_failed = sorted(self.leases.failed_in(states).items())
        self._checkpoint(epoch, states)

    def sums_of_part(self) -> Sums:
        """Return the images of the epoch that an interruption cut, by all machines."""
        return self.leases.sums(self.memory.ledger.states())

    def _progress(self, epoch: int, states: np.ndarray, account: EpochAccount) -> EpochProgress:
        plan, done = self.plan, self.leases.trained(states)
        return account.progress(epoch, plan.settings.epochs, done, len(plan.data.training), plan.network.connections)

    def _stale_counts(self) -> np.ndarray:
        """Return the histogram of staleness since the run began."""
        counts: np.ndarray = self._stale_before + self.memory.staleness.sum(axis=0)
        return counts

    def _end_epoch(self, epoch: int, states: np.ndarray, account: EpochAccount) -> None:
        plan, figures = self.plan, self.figures
        self._check_finite(epoch)
        sums = self.leases.sums(states)  # before the next epoch opens
        self._count_missed()
        following = self._following = self.leases.next_epoch()
        if following < plan.settings.epochs:
            self.bad_samples.forgive()
            self.open_epoch(following, np.zeros(plan.batches, np.uint8))
        self._served = self.crew.totals()  # read once: data servers go on counting
        measured = account.measured(self._served)
        start = time.monotonic()
        result = self.evaluate("validation") if len(plan.data.validation) and self.leases.leads else None
        figures.staleness_counts = self._stale_counts().tolist()
        figures.end_epoch(following, sums, account.seconds, measured)
        figures.seconds = self.elapsed()
        self.hints.look(measured, account.seconds)
        best = figures.note_validation(epoch, result[1] if result else None)
        self._say_who_leads(self.leases.leads)
        step = self.store.read_step()
        record = account.record(
            measured, plan.network.connections, epoch=epoch + 1, images_trained=sums.trained,
            images_skipped=sums.skipped, images_failed=sums.failed, validation_loss=result[0] if result else None,
            validation_accuracy=result[1] if result else None, updates=step,
            lr=plan.schedule.value(epoch, step) * self.memory.board.rate_share,
            validation_seconds=time.monotonic() - start,
        )  # fmt: skip
        self.tell(record)
        if best:
            self.keeper.save_model(self.model)
        if self.leases.leads:
            self._checkpoint(following, np.zeros(plan.batches, np.uint8))

    def _count_missed(self) -> None:
        """Count the epochs that other replicas trained to their end while this one was busy with the last."""
        for epoch, sums in self.leases.missed():
            self.figures.count(sums)
            self._notice(f"epoch {epoch + 1} was trained by other replicas while this one was away; not validated")

    def _say_who_leads(self, leads: bool) -> None:
        if self._leads and not leads and self.figures.validation_accuracy is not None:
            self._notice(
                "this replica does not lead now, so it does not validate: the model here stays that of epoch "
                f"{self.figures.best_epoch}"
            )
        self._leads = leads

    def evaluate(self, part: str) -> tuple[float, float]:
        """Evaluate the "validation" or "test" samples that can be had on all workers; return (mean loss, accuracy)."""
        data = self.plan.data
        count = len(data.validation if part == "validation" else data.test)
        guarded = part == "validation"  # a test comes after all training: there is nothing to go back for
        chunks = math.ceil(count / self.plan.settings.batch_size)
        self._evaluations += 1
        self.memory.evaluation.open(self._evaluations, np.zeros(chunks, np.uint8))
        self.memory.board.give_order(VALIDATE if part == "validation" else TEST)
        while True:
            self.tick(guarded)
            if np.all(self.memory.evaluation.states() == TRAINED):
                break
            time.sleep(_TICK)
        self._pause(guarded)
        losses, right, images = self.memory.results[:chunks].sum(axis=0)
        if images == 0:
            raise DataError(f"none of the {count} {part} images can be read, such as {self._first_place(part)}")
        return float(losses / images), float(right / images)

    def _first_place(self, part: str) -> str:
        data = self.plan.data
        return data.dataset.place(int((data.validation if part == "validation" else data.test)[0]))

    def elapsed(self) -> float:
        """Return the seconds of the run so far, the parts before a resume included."""
        return time.monotonic() - self._began

    # Its duties in between.

    def tick(self, guarded: bool = True) -> None:
        """See to dead processes, stalls, and, where `guarded`, divergence, raising DivergedError."""
        self.tend()
        self.bad_samples.look()
        if guarded:
            totals = self.crew.totals()
            self.guard.look(self.crew.rows()[: self.plan.split.workers], totals["images"], totals["loss"])
        self._watchdog.look(self.leases.moved())

    def tend(self) -> None:
        """See to dead processes, keep in touch with other machines, and answer who asks: what also starting needs."""
        if self.launch is not None:
            self.launch.watch()
        self.crew.watch()
        self.leases.tick()
        self._silences.look(self.leases.silences())
        self._follow_servers()
        self._watchdog.answer()

    def _follow_servers(self) -> None:
        """When the coordinator has another bucket map, let the synchronizer's successor use it."""
        servers = self.leases.new_map()
        if servers is not None:
            assert self.cluster is not None, "alone, there is no map"
            assert self.shared.exchange is not None, "a replica has it"
            self.crew.respecify(synchronizer_spec(self.plan, self.cluster, servers, self.shared))
            self.shared.exchange.note("map", int(servers["epoch"]))

    def _pause(self, guarded: bool = True) -> None:
        """Order IDLE and wait until every living worker has acknowledged it: then none touches weights or leases."""
        sequence = self.memory.board.give_order(IDLE)
        while True:
            self.tick(guarded)
            rows = self.crew.rows()
            if all(rows[number].acknowledged >= sequence for number in self.crew.obeying()):
                return
            time.sleep(_TICK / 10)

    def _failed_in(self, batches: np.ndarray) -> dict[int, int]:
        """Return batch -> images that could not be had, of these batches of the epoch that is open."""
        return self.bad_samples.failed_in(batches, self.memory.order, self.plan.settings.batch_size)

    def _check_finite(self, epoch: int) -> None:
        if not np.isfinite(self.store.weights).all():
            raise DivergedError(
                f"weights became NaN or infinite in epoch {epoch + 1}, by update {self.store.read_updates():,}"
            )

    def _checkpoint(self, epoch: int, states: np.ndarray, part: dict[str, float] | None = None) -> None:
        """Copy the run's state, which must be paused, and have it written in the background."""
        self._check_finite(min(epoch, self.plan.settings.epochs - 1))
        self.keeper.keep(self._snapshot(epoch, states, part))

    def _snapshot(
        self, epoch: int, states: np.ndarray, part: dict[str, float] | None = None
    ) -> Callable[[Spaces | None], Checkpoint]:
        """Return what copies the run's state, which must be paused, over an earlier copy if it is given one."""
        self.figures.seconds = self.elapsed()
        self.figures.staleness_counts = self._stale_counts().tolist()
        figures = self.figures
        if part is not None:
            failed = sorted(self.leases.failed_in(states).items())
            figures = dataclasses.replace(figures, epoch_part=part, part_failed=failed)
        return functools.partial(take_checkpoint, self.plan, self.store, figures, epoch, states)

    def model(self, place: Tensors | None = None) -> Model:
        """Return a copy of the present weights as a model, which is the best so far, over an earlier one in `place`."""
        return take_model(self.plan, self.store, self.figures, place)


def _time_to_look(seconds: float, done: float) -> float:
    """Return how long to leave the workers alone, a share `done` of what the epoch needs done after `seconds`.

    Each look takes a moment of a core that trains; near the end a late look would leave all of them idle, or have them
    train more than the quorum.
    """
    left = seconds * (1 - done) / done if done > 0 else 0.0
    return min(max(left / 4, _TICK / 4), _LONGEST_TICK)

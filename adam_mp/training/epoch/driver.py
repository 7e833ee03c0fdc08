"""The driver of a run's machine: it looks at the run, asks the machine what comes next, and does that."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable

import numpy as np

from adam_mp.compute.model import Model, Tensors
from adam_mp.kernels.finite import all_finite
from adam_mp.machine import usable_cores
from adam_mp.memory.board import DATA
from adam_mp.memory.ledger import TRAINED
from adam_mp.process.interruption import CHECKPOINT, Interruption
from adam_mp.training.crew.copies import (
    average_epoch,
    begin_average,
    note_updates,
    restore,
    take_checkpoint,
    take_model,
)
from adam_mp.training.crew.session import EVALUATION_LOOK, PAUSE_LOOK, Session
from adam_mp.training.epoch import machine
from adam_mp.training.epoch.bad_samples import BadSamples
from adam_mp.training.epoch.guard import RATE, DivergedError, DivergenceGuard
from adam_mp.training.epoch.hints import ServingHints
from adam_mp.training.epoch.machine import Action, Actions, End, Event, Phase, Rules, State, step
from adam_mp.training.epoch.run_account import RunAccount
from adam_mp.training.folder.checkpoint import Checkpoint, Spaces
from adam_mp.training.folder.direct_keeper import DirectKeeper
from adam_mp.training.folder.figures import Figures, Sums
from adam_mp.training.folder.keeper import Keeper
from adam_mp.training.plan.quorum import reopened
from adam_mp.training.plan.run_plan import RunPlan
from adam_mp.training.replica.leases import Leases
from adam_mp.training.settings.events import EpochProgress, Listener, notices_to

_SHORTEST_LOOK, _LONGEST_LOOK = 0.0025, 0.05  # seconds between looks at workers that train


class Driver:
    """Trains the epochs of a session whose processes are at work, as `machine` says.

    `step_run` is `Supervisor.step`: it does what is due at short intervals and, called with True, raises DivergedError
    if the run has diverged. `tell` gets the run's events.
    """

    def __init__(
        self, plan: RunPlan, session: Session, leases: Leases, account: RunAccount, keeper: Keeper | DirectKeeper,
        guard: DivergenceGuard, bad_samples: BadSamples, interruption: Interruption, tell: Listener,
        step_run: Callable[[bool], None],
    ) -> None:  # fmt: skip
        self.plan, self.session, self.leases, self.account, self.keeper = plan, session, leases, account, keeper
        self.guard, self.bad_samples, self.interruption, self.tell = guard, bad_samples, interruption, tell
        self._step_run = step_run
        self._notice = notices_to(tell)
        self._hints = ServingHints(plan, self._notice, usable_cores())
        self._leads = True  # whether this replica led when the user was told last
        self._states: np.ndarray = np.zeros(plan.batches, np.uint8)  # the ledger's, as of the last look at training
        self._sums = Sums()  # images of the epoch that is closed
        self._validating_since = 0.0

    @property
    def figures(self) -> Figures:
        """The run's figures so far."""
        return self.account.figures

    def train(self, first: int) -> str | None:
        """Train from epoch `first` on, which is open. Return what ended the run before its last epoch, None if nothing.

        That is the target accuracy, or the signal that interrupted the run.
        """
        settings = self.plan.settings
        rules = Rules(
            settings.epochs, settings.checkpoint_seconds, bool(len(self.plan.data.validation)), settings.target_accuracy
        )
        state = State(rules)
        event: Event = machine.Began(first)
        while True:
            before = state.phase
            state, actions = step(state, event, time.monotonic())
            outcome = self._do(actions)
            if state.phase is Phase.ENDED:
                break
            if state.phase is before:  # nothing happened yet of what this phase waits for
                time.sleep(self._time_to_look(before))
            event = outcome or self._look(state)
        self.account.drop_epoch()
        if state.end is End.TARGET:
            return f"target accuracy {settings.target_accuracy:g}"
        return self.interruption.requested  # also of a signal that came after the last batch, while validating

    # Looking.

    def _look(self, state: State) -> Event:
        """Look at the run, and return what the machine waits for in its present phase."""
        try:
            if state.phase is Phase.TRAINING:
                return self._look_at_training()
            self._step_run(not state.goes_back)
            if state.phase is Phase.PAUSING:
                return machine.Looked(behind=self.session.behind())
            return machine.Looked(evaluated=self.session.is_evaluated())
        except DivergedError as diverged:
            return machine.Diverged(str(diverged))

    def _look_at_training(self) -> Event:
        self._states = self.session.memory.ledger.states()
        if self.leases.over(self._states):
            return machine.Looked(over=True)
        self.session.memory.board.lack = self.leases.lack(self._states)
        self._step_run(True)
        asked, interrupted = self.interruption.checkpoint_asked, self.interruption.requested is not None
        return machine.Looked(interrupted=interrupted, asked=asked, leads=self.leases.leads)

    def _time_to_look(self, phase: Phase) -> float:
        """Return how many seconds to sleep before the next look."""
        if phase is Phase.TRAINING:
            share = float(np.mean(self._states == TRAINED)) / self.plan.settings.quorum
            return _time_to_look(self.account.epoch.here, share)
        return PAUSE_LOOK if phase is Phase.PAUSING else EVALUATION_LOOK

    def _guarded_step(self) -> None:
        self._step_run(True)

    # Doing.

    def _do(self, actions: Actions) -> Event | None:
        """Do the machine's actions in order; return the outcome of the last one, None if it has none.

        If an action finds that the run has diverged, that is the outcome, and the actions after it are left out.
        """
        outcome: Event | None = None
        try:
            for action in actions:
                outcome = self._do_one(action)
        except DivergedError as diverged:
            return machine.Diverged(str(diverged))
        return outcome

    def _do_one(self, action: Action) -> Event | None:
        ledger = self.session.memory.ledger
        match action:
            case machine.Order(kind):
                self.session.order(kind)
            case machine.BeginEpoch():
                self.account.begin_epoch()
            case machine.ShowProgress(epoch):
                self.tell(self._progress(epoch))
            case machine.SayStopping():
                self._notice(
                    f"{self.interruption.requested}: finishing the batch and writing a checkpoint; "
                    "once more stops at once"
                )
            case machine.SayCheckpoint():
                self.interruption.checkpoint_asked = False
                self._notice(f"{CHECKPOINT.name}: writing a checkpoint; the run goes on")
            case machine.CloseRound(idle):
                ledger.close_round(idle)
            case machine.Settle():
                self.leases.settle(self._guarded_step)
            case machine.CloseEpoch(epoch):
                return self._close_epoch(epoch)
            case machine.OpenEpoch(epoch):
                self.bad_samples.forgive()
                self.open_epoch(epoch, np.zeros(self.plan.batches, np.uint8))
            case machine.ReadCounters():
                self.account.read_counters()
                self._validating_since = time.monotonic()
            case machine.OpenEvaluation():
                self.session.open_evaluation("validation")
            case machine.Record():
                return self._record(action)
            case machine.SavePart(epoch, final):
                return self._save_part(epoch, final)
            case machine.SaveWhole(following):
                return self._save(self.account.up_to_now, following, np.zeros(self.plan.batches, np.uint8))
            case machine.AllowReturn(reason):
                self.account.drop_epoch()
                self.guard.go_back(reason, self.keeper.say_what_is_kept)
            case machine.GoBack(reason):
                return self._go_back(reason)
        return None

    def open_epoch(self, epoch: int, states: np.ndarray) -> None:
        """Let the data servers begin with an epoch whose batches have these ledger `states` [batches]."""
        self.session.memory.board.lack = DATA
        self.leases.open(epoch, self.session.deal(epoch, states))

    def remember(self, epoch: int, states: np.ndarray) -> None:
        """Copy the state of a run that is paused in `epoch`, to go back to; the copy is not written to disk."""
        self.keeper.remember(self._snapshot(self.account.up_to_now(), epoch, states))

    def _progress(self, epoch: int) -> EpochProgress:
        plan, done = self.plan, self.leases.trained(self._states)
        return self.account.epoch.progress(
            epoch, plan.settings.epochs, done, len(plan.data.training), plan.network.connections
        )

    def _close_epoch(self, epoch: int) -> Event:
        self.account.epoch.end()
        self._check_finite(epoch)
        self.figures.averaged_epochs = average_epoch(self.plan, self.session.store, epoch, self.figures.averaged_epochs)
        self._sums = self.leases.sums(self.session.memory.ledger.states())  # before the next epoch opens
        self.account.count_missed(self.leases.missed(), self._notice)
        return machine.Closed(self.leases.next_epoch(), self.leases.leads)

    def _record(self, closed: machine.Record) -> Event:
        """Add an epoch to the figures and report it; save its model if it is the best."""
        plan, account, figures, sums = self.plan, self.account, self.figures, self._sums
        loss, accuracy = self.session.evaluated("validation") if closed.validated else (None, None)
        if closed.validated:
            self.bad_samples.tell_left_out("validation", plan.data.validation)
        measured = account.end_epoch(closed.following, sums)
        self._hints.check(measured, account.epoch.seconds, self.session.crew.disturbances)
        best = figures.note_validation(closed.epoch, accuracy)
        self._say_who_leads(self.leases.leads)
        updates = self.session.store.read_step()
        record = account.epoch.record(
            measured, plan.network.connections, epoch=closed.epoch + 1, images_trained=sums.trained,
            images_skipped=sums.skipped, images_failed=sums.failed, validation_loss=loss, validation_accuracy=accuracy,
            updates=updates, lr=plan.schedule.value(closed.epoch, updates) * self.session.memory.board.rate_share,
            validation_seconds=time.monotonic() - self._validating_since,
        )  # fmt: skip
        self.tell(record)
        if best:
            self.keeper.save_model(self.model)
        account.drop_epoch()
        return machine.Recorded(figures.last_validation_accuracy, self.leases.leads)

    def _say_who_leads(self, leads: bool) -> None:
        if self._leads and not leads and self.figures.validation_accuracy is not None:
            self._notice(
                "this replica does not lead now, so it does not validate: the model here stays that of epoch "
                f"{self.figures.best_epoch}"
            )
        self._leads = leads

    def _save_part(self, epoch: int, final: bool) -> Event:
        """Take a checkpoint within an epoch. If it is the run's `final` one, leave the epoch's part in the figures."""
        if final:
            self.account.epoch.end()
        states = self.leases.resumable(self.session.memory.ledger.states(), self._guarded_step)
        failed = sorted(self.leases.failed_in(states).items())
        if not final:
            return self._save(lambda: self.account.with_part(failed), epoch, states)
        self.account.keep_part(failed)
        return self._save(self.account.up_to_now, epoch, states)

    def _save(self, figures: Callable[[], Figures], epoch: int, states: np.ndarray) -> Event:
        """Copy the state of the run, which must be paused, and have the copy written in the background."""
        self._check_finite(min(epoch, self.plan.settings.epochs - 1))
        self.keeper.keep(self._snapshot(figures(), epoch, states))
        return machine.Saved()

    def _go_back(self, reason: str) -> Event:
        """Go back to the last good state with half the learning rate."""
        session, account, last = self.session, self.account, self.keeper.last
        assert last is not None, "the supervisor has a state remembered before the first batch"
        restore(session.store, last, last.updates, self.plan.tensors_of)
        note_updates(self.plan, last.updates)
        share = session.memory.board.rate_share = session.memory.board.rate_share * RATE
        account.go_back(last.progress, share, self.guard.times)
        progress = dataclasses.asdict(account.figures)
        self.keeper.write_last(lambda kept: dataclasses.replace(kept, progress=progress))
        self.open_epoch(last.epoch, reopened(last.ledger))
        totals = session.totals()
        self.guard.begin_again(session.crew.rows()[: self.plan.split.workers], totals["images"], totals["loss"])
        account.begin_again(totals)
        self._notice(
            f"{reason}; went back to update {last.updates:,} in epoch {last.epoch + 1}, "
            f"with {share:g} of the learning rate from here on"
        )
        return machine.WentBack(last.epoch)

    def _check_finite(self, epoch: int) -> None:
        store, elsewhere = self.session.store, self.plan.elsewhere
        if not all_finite(store.weights) or (elsewhere is not None and not elsewhere.are_finite()):
            raise DivergedError(
                f"weights became NaN or infinite in epoch {epoch + 1}, by update {store.read_updates():,}"
            )

    def _snapshot(self, figures: Figures, epoch: int, states: np.ndarray) -> Callable[[Spaces | None], Checkpoint]:
        """Return a function that copies the state of the run, which must be paused; see `take_checkpoint`."""
        return functools.partial(take_checkpoint, self.plan, self.session.store, figures, epoch, states)

    def model(self, place: Tensors | None = None) -> Model:
        """Return the weights that are evaluated as a model, copied into the arrays of `place` if it is given."""
        if not self.figures.epochs_done:
            begin_average(self.plan, self.session.store)
        statistics = self.session.statistics(lambda: self._step_run(False))
        return take_model(self.plan, self.session.store, statistics, self.figures, place)


def _time_to_look(seconds: float, done: float) -> float:
    """Return the seconds until the next look, when the share `done` of what the epoch needs is done after `seconds`.

    Each look takes time of a core that trains, so looks are rare while much is left. Near the end they are frequent: a
    late look would leave all workers idle, or have them train more than the quorum.
    """
    left = seconds * (1 - done) / done if done > 0 else 0.0
    return min(max(left / 4, _SHORTEST_LOOK), _LONGEST_LOOK)

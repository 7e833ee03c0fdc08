"""The supervisor: owns all that a training run has, and does what is due at short intervals.

Only its thread gives orders and opens or closes rounds of ledgers. `machine` decides when, and `driver` does it. Every
wait ends: the session's watchdog ends a run in which nothing moves, the leases one whose coordinator does not answer.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adam_mp.params.run.silences import SilenceNotices
from adam_mp.process.interruption import Interruption
from adam_mp.training.crew.session import Session
from adam_mp.training.epoch.bad_samples import BadSamples
from adam_mp.training.epoch.driver import Driver
from adam_mp.training.epoch.guard import DivergenceGuard
from adam_mp.training.epoch.run_account import RunAccount
from adam_mp.training.folder.direct_keeper import DirectKeeper
from adam_mp.training.folder.figures import Sums
from adam_mp.training.folder.keeper import Keeper
from adam_mp.training.plan.quorum import reopened
from adam_mp.training.plan.resuming import find_best
from adam_mp.training.plan.run_plan import RunPlan
from adam_mp.training.replica.leases import Leases, OwnLeases
from adam_mp.training.settings.events import Listener, notices_to

if TYPE_CHECKING:  # a run of one machine does not import what runs of many need
    from adam_mp.training.replica.joining import Cluster
    from adam_mp.training.replica.launch import Launch


class Supervisor:
    """Runs a plan. Use as a context manager: leaving it ends all processes and frees all memory, whatever happened.

    Checkpoints and the best model go to `folder`. `cluster` is this replica's place in a run of many machines, None for
    a run of one; `launch` has the parameter servers and replicas that are children of this process, if there are any.
    """

    def __init__(
        self, plan: RunPlan, folder: Path, interruption: Interruption, listener: Listener,
        cluster: Cluster | None = None, launch: Launch | None = None,
    ) -> None:  # fmt: skip
        self.plan, self.folder, self.interruption, self.tell = plan, folder, interruption, listener
        self.cluster, self.launch = cluster, launch
        self._notice = notices_to(listener)
        self.session = Session(
            plan, interruption, self._notice, True, None if cluster is None else cluster.exchanging(plan),
            launch.children if launch is not None else dict,
        )  # fmt: skip
        progress = plan.resumed.progress if plan.resumed else None
        self.account = RunAccount(progress, self._totals, self.session.staleness)
        # Replicas cannot go back together, so a run of many machines ends at its first divergence.
        self._rollbacks = plan.settings.rollbacks if cluster is None else 0
        self.guard = DivergenceGuard(plan.network.classes, plan.settings.batch_size, self._rollbacks)
        self.guard.times = self.account.figures.rollbacks
        self._silences = SilenceNotices(plan.settings.stall_seconds, self._notice)

    def __enter__(self) -> Supervisor:
        with contextlib.ExitStack() as ends:
            self._make_all(ends)
            self._ends = ends.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._ends.__exit__(*error)

    def _make_all(self, ends: contextlib.ExitStack) -> None:
        """Make everything but processes; `ends` will end processes first, then leases, files and memory."""
        plan, session = self.plan, ends.enter_context(self.session)
        ends.enter_context(self.interruption.note_checkpoint())
        session.memory.board.rate_share = self.account.figures.rate_share
        self.keeper: Keeper | DirectKeeper = (
            DirectKeeper(self.folder, self._notice)
            if plan.is_apart
            else Keeper(self.folder, self._notice, self._rollbacks > 0)
        )
        ends.callback(self.keeper.close)
        flags = session.memory.arrays.get("bad")
        self.bad_samples = BadSamples(
            plan.data.dataset, flags, self.folder, plan.settings.strict, self._notice, plan.data.training
        )
        self.leases = self._lease_batches()
        if plan.elsewhere is not None:
            plan.elsewhere.meanwhile = self.leases.step
        self.driver = Driver(
            plan, session, self.leases, self.account, self.keeper, self.guard, self.bad_samples, self.interruption,
            self.tell, self.step,
        )  # fmt: skip
        ends.push(self._leave)
        ends.callback(session.stop)

    def _lease_batches(self) -> Leases:
        """Return this machine's leases: of all batches if it is alone, else of those that the coordinator leases."""
        plan, session = self.plan, self.session
        if self.cluster is not None:
            return self.cluster.lease_batches(plan, session.shared, session.totals, self._failed_in)
        part: dict[int, int] = dict(plan.resumed.progress.get("part_failed", [])) if plan.resumed is not None else {}
        settings, images = plan.settings, len(plan.data.training)
        return OwnLeases(session.memory, settings.batch_size, images, settings.quorum, self._failed_in, part)

    def _leave(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is not None:
            self.leases.leave()  # a failed run gives its leases back at once, for other replicas

    # The run.

    def train(self) -> str | None:
        """Train all epochs that are left. Return what ended the run before its last epoch, None if nothing did.

        That is the target accuracy, or the signal that interrupted it.
        """
        resumed = self.plan.resumed
        first = self._first_epoch()
        # Others may have ended the checkpoint's epoch since; then its ledger says nothing of the one that begins.
        goes_on = resumed is not None and resumed.epoch == first
        states = reopened(resumed.ledger) if resumed and goes_on else np.zeros(self.plan.batches, np.uint8)
        unsaved = self._find_best()
        self.driver.open_epoch(first, states)
        self.session.start()
        self.session.crew.wait_ready(self.step_while_starting)
        if self.cluster is not None and self.plan.is_apart:  # the other partitions, too, wait for the servers' weights
            self.leases.settle(self.step_while_starting)
        if unsaved:
            self.keeper.save_model(self.driver.model)
        if self._rollbacks or self.plan.is_apart:
            self.driver.remember(first, states)
        return self.driver.train(first)

    def _first_epoch(self) -> int:
        """Return the epoch to begin with: the checkpoint's, but in a run of many machines that of the run."""
        resumed = self.plan.resumed
        first = resumed.epoch if resumed else 0
        if self.cluster is None:
            return first
        following = self.leases.next_epoch()
        if resumed and following != first:
            self.account.figures.close_part(following)
            self.account.count_missed(self.leases.missed(), self._notice)
        if following < first:
            self._notice(
                f"the run is in epoch {following + 1}, the checkpoint in epoch {first + 1}: the parameter servers have "
                "earlier weights, so the epochs between are trained, and counted, again"
            )
        return following

    def _find_best(self) -> bool:
        """In a resumed run, find its best model for the figures; tell whether only the checkpoint has it."""
        resumed = self.plan.resumed
        if resumed is None:
            return False
        best = find_best(self.folder, resumed)
        self.account.figures.best_epoch, self.account.figures.validation_accuracy = best.epoch, best.accuracy
        return best.in_checkpoint

    # What is due at short intervals.

    def step(self, guarded: bool = True) -> None:
        """Do all that is due; raise StalledError if nothing moves, and DivergedError on divergence if `guarded`."""
        self.step_while_starting()
        self.bad_samples.step()
        if guarded:
            totals = self.session.totals()
            self.guard.check(self.session.crew.rows()[: self.plan.split.workers], totals["images"], totals["loss"])
        self.session.check_moving(self.leases.moved())

    def step_while_starting(self) -> None:
        """Replace dead processes, print stacks if asked, keep in touch with other machines: while starting, too."""
        if self.launch is not None:
            self.launch.step()
        if self.plan.elsewhere is not None:
            self.plan.elsewhere.step()
        self.session.step_while_starting()
        self.leases.step()
        self._silences.step(self.leases.silences())

    def _totals(self) -> dict[str, float]:
        """Return the sums of all processes' counters since the start, as `EpochAccount` wants them."""
        totals = self.session.totals()
        here = totals["images"]
        return {**totals, "images_here": here, "images": self.leases.images_of_all(here)}

    def _failed_in(self, batches: np.ndarray) -> dict[int, int]:
        """Return batch -> images that could not be read, of these batches of the epoch that is open."""
        return self.bad_samples.failed_in(batches, self.session.memory.sample_order, self.plan.settings.batch_size)

    # After training.

    def test(self) -> tuple[float, float]:
        """Evaluate the test samples; return (mean loss, accuracy). Training is over, so the guard does not look."""
        found = self.session.evaluate("test", lambda: self.step(guarded=False))
        self.bad_samples.tell_left_out("test", self.plan.data.test)
        return found

    def sums_of_epoch(self) -> Sums:
        """Return the images of the epoch that is open, by all machines, up to now or up to its interruption."""
        return self.leases.sums(self.session.memory.ledger.states())

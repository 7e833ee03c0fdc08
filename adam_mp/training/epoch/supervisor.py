"""The supervisor: owns all that a training run has, and sees to what is due at short intervals.

Its thread alone gives orders and changes ledgers' rounds. Which comes when, `machine` decides, and `driver` does it.
Every wait ends: the session's watchdog sees that nothing moves, and the leases that nobody answers.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np

from adam_mp.params.run.silences import SilenceNotices
from adam_mp.process.interruption import Interruption
from adam_mp.training.crew.session import Session
from adam_mp.training.epoch.bad_samples import BadSamples
from adam_mp.training.epoch.driver import Driver
from adam_mp.training.epoch.guard import DivergenceGuard
from adam_mp.training.epoch.run_account import RunAccount
from adam_mp.training.folder.figures import Sums
from adam_mp.training.folder.keeper import Keeper
from adam_mp.training.plan.plan import RunPlan
from adam_mp.training.plan.quorum import reopened
from adam_mp.training.plan.resuming import find_best
from adam_mp.training.replica.joining import Cluster, exchanging_of, lease_batches
from adam_mp.training.replica.launch import Launch
from adam_mp.training.settings.events import Listener, notices_to


class Supervisor:
    """Runs a plan. Use as a context manager: leaving it ends all processes and frees all memory, whatever happened.

    Checkpoints and the best model go to `folder`. `cluster` is this replica's place in a run of many machines; `launch`
    are the other parts of such a run that are children of this process.
    """

    def __init__(
        self, plan: RunPlan, folder: Path, interruption: Interruption, listener: Listener,
        cluster: Cluster | None = None, launch: Launch | None = None,
    ) -> None:  # fmt: skip
        self.plan, self.folder, self.interruption, self.tell = plan, folder, interruption, listener
        self.cluster, self.launch = cluster, launch
        self._notice = notices_to(listener)
        self.session = Session(
            plan, interruption, self._notice, True, None if cluster is None else exchanging_of(plan, cluster),
            launch.children if launch is not None else dict,
        )  # fmt: skip
        progress = plan.resumed.progress if plan.resumed else None
        self.account = RunAccount(progress, self._totals, self.session.staleness)
        self._ways_back = plan.settings.rollbacks if cluster is None else 0  # of many replicas none has all the weights
        self.guard = DivergenceGuard(plan.network.classes, plan.settings.batch_size, self._ways_back)
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
        """Make all but processes, and put on `ends` what ends it: processes first, then leases, files, and memory."""
        plan, session = self.plan, ends.enter_context(self.session)
        session.memory.board.rate_share = self.account.figures.rate_share
        self.keeper = Keeper(self.folder, self._notice, self._ways_back > 0)
        ends.callback(self.keeper.close)
        flags = session.memory.arrays.get("bad")
        self.bad_samples = BadSamples(plan.data.dataset, flags, self.folder, plan.settings.strict, self._notice)
        self.leases = lease_batches(plan, self.cluster, session.shared, session.totals, self._failed_in)
        self.driver = Driver(
            plan, session, self.leases, self.account, self.keeper, self.guard, self.bad_samples, self.interruption,
            self.tell, self.tick,
        )  # fmt: skip
        ends.push(self._leave)
        ends.callback(session.stop)

    def _leave(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is not None:
            self.leases.leave()  # what it had leased is free for others at once

    # The run.

    def train(self) -> str | None:
        """Train all epochs that are left, or until the target accuracy or an interruption; return which ended it."""
        resumed = self.plan.resumed
        first = self._first_epoch()
        states = reopened(resumed.ledger) if resumed else np.zeros(self.plan.batches, np.uint8)
        self._find_best()
        self.driver.open_epoch(first, states)
        self.session.start()
        self.session.crew.wait_ready(self.tend)
        if self._ways_back:
            self.driver.remember(first, states)
        return self.driver.train(first)

    def _first_epoch(self) -> int:
        """Return the epoch to begin with: that of the run of many, where there is one, whatever a checkpoint has."""
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
                f"the run is in epoch {following + 1}, the checkpoint in epoch {first + 1}: the servers have other "
                "weights, and what lies between is trained, and counted, again"
            )
        return following

    def _find_best(self) -> None:
        """Let a resumed run's figures be of the model that its folder has, or of one that it can still write."""
        resumed = self.plan.resumed
        if resumed is None:
            return
        best = find_best(self.folder, resumed)
        self.account.figures.best_epoch, self.account.figures.validation_accuracy = best.epoch, best.accuracy
        if best.in_checkpoint:
            self.keeper.save_model(self.driver.model)

    # Its duties in between.

    def tick(self, guarded: bool = True) -> None:
        """See to dead processes, stalls, and, where `guarded`, divergence, raising DivergedError."""
        self.tend()
        self.bad_samples.look()
        if guarded:
            totals = self.session.totals()
            self.guard.look(self.session.crew.rows()[: self.plan.split.workers], totals["images"], totals["loss"])
        self.session.check_moving(self.leases.moved())

    def tend(self) -> None:
        """See to dead processes, keep in touch with other machines, and answer who asks: what also starting needs."""
        if self.launch is not None:
            self.launch.watch()
        self.session.watch()
        self.leases.tick()
        self._silences.look(self.leases.silences())

    def _totals(self) -> dict[str, float]:
        """Return the sums of the processes' counters since the start, and the images that all machines trained."""
        totals = self.session.totals()
        here = totals["images"]
        return {**totals, "images_here": here, "images": self.leases.images_of_all(here)}

    def _failed_in(self, batches: np.ndarray) -> dict[int, int]:
        """Return batch -> images that could not be had, of these batches of the epoch that is open."""
        return self.bad_samples.failed_in(batches, self.session.memory.order, self.plan.settings.batch_size)

    # What is asked of it.

    def test(self) -> tuple[float, float]:
        """Evaluate the test samples; return (mean loss, accuracy). All training is over: there is no going back."""
        return self.session.evaluate("test", lambda: self.tick(guarded=False))

    def sums_of_epoch(self) -> Sums:
        """Return the images of the epoch that is open, by all machines; of one that was cut, those up to then."""
        return self.leases.sums(self.session.memory.ledger.states())

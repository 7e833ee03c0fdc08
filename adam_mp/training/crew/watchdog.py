"""The watchdog: ends a run in which nothing moves, and prints what its processes are doing, then or when asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from adam_mp.errors import StalledError
from adam_mp.params.run.listening import Listening
from adam_mp.process.child import Child
from adam_mp.process.interruption import Interruption
from adam_mp.process.stacks import all_stacks
from adam_mp.training.crew.crew import Crew


class Watchdog:
    """Looks at the crew's heartbeats; so many `seconds` without one end the run. `notice` takes lines for the user.

    Seconds in which this process itself was stopped do not count, because its crew may have been stopped too. `others`
    returns processes outside of the crew whose stacks are printed too: parameter servers, and further replicas, each of
    which prints those of its own crew.
    """

    def __init__(
        self, seconds: float, crew: Crew, others: Callable[[], Mapping[str, Child]], interruption: Interruption,
        notice: Callable[[str, str, str], None],
    ) -> None:  # fmt: skip
        self._seconds, self._crew, self._others = seconds, crew, others
        self._interruption, self._notice = interruption, notice
        self._heartbeats, self._moved_at, self._listening = -1.0, 0.0, Listening()

    def answer(self) -> None:
        """Print the stacks of all processes if SIGUSR1 has asked for them."""
        if self._interruption.asked:
            self._interruption.asked = False
            self._notice("asked by SIGUSR1 what the processes are doing", "", self._stacks())

    def step(self, moved: bool) -> None:
        """Look for a new heartbeat; `moved` says that something else went on. Raises StalledError after `seconds`."""
        heartbeats, now = self._crew.totals()["heartbeat"], self._listening.step(time.monotonic())
        if moved or heartbeats != self._heartbeats:
            self._heartbeats, self._moved_at = heartbeats, now
        elif now - self._moved_at > self._seconds:
            self._notice("nothing moves; what the processes are doing:", "", self._stacks())
            failure = self._crew.first_failure or "none seen"
            raise StalledError(f"nothing moved for {self._seconds:.0f} s; first failure: {failure}")

    def _stacks(self) -> str:
        return all_stacks(self._crew.children(), self._others())

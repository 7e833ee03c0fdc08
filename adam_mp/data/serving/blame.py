"""Blame: a sample is left out when two processes have died while they decoded it."""

from __future__ import annotations

import signal

from adam_mp.data.reading.faults import Fault
from adam_mp.memory.run_memory import RunMemory

# Exit codes of deaths that a decoder may have caused; SIGKILL comes from outside.
CRASHES = [-number for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)]
_DEATHS_OF_A_SAMPLE = 2


class Blame:
    """Counts, for each sample, the processes that died while they decoded it.

    Used by the process that watches all of them: the supervisor, or the data server for other machines.
    """

    def __init__(self, memory: RunMemory) -> None:
        self._memory = memory
        self._deaths: dict[int, int] = {}

    def note(self, process: int, exit_code: int | None) -> tuple[int | None, bool]:
        """Note the death of a process; return (the sample that killed it or None, whether that sample is now left out).

        The dead process's row of counters on the board must not have been cleared yet.
        """
        sample = self._memory.board.counters[process].read().decoding - 1
        if sample < 0 or exit_code not in CRASHES:
            return None, False
        self._deaths[sample] = self._deaths.get(sample, 0) + 1
        left_out = self._deaths[sample] >= _DEATHS_OF_A_SAMPLE
        if left_out:
            self._memory.arrays["bad"][sample] = Fault.CRASHED
        return sample, left_out

"""Which samples processes died of: one in whose decoding two processes died is left out."""

from __future__ import annotations

import signal

from adam_mp.data.reading.faults import Fault
from adam_mp.memory.run_memory import RunMemory

# Ends that a decoder may be the cause of; SIGKILL comes from outside.
_CRASHES = [-number for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)]
_DEATHS_OF_A_SAMPLE = 2


class Blame:
    """Counts, for each sample, the processes that died while they decoded it. For the process that watches them all."""

    def __init__(self, memory: RunMemory) -> None:
        self._memory = memory
        self._deaths: dict[int, int] = {}

    def note(self, process: int, exit_code: int | None) -> tuple[int | None, bool]:
        """Note a death; return (the sample that the process died of, None if of none, whether that is left out now).

        The dead process's row of counters must be as it left it.
        """
        sample = self._memory.board.counters[process].read().decoding - 1
        if sample < 0 or exit_code not in _CRASHES:
            return None, False
        self._deaths[sample] = self._deaths.get(sample, 0) + 1
        left_out = self._deaths[sample] >= _DEATHS_OF_A_SAMPLE
        if left_out:
            self._memory.arrays["bad"][sample] = Fault.CRASHED
        return sample, left_out

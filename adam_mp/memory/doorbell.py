"""A doorbell: by it processes wake one that sleeps until there is something to send, or input from elsewhere.

It is a counter of the kernel (eventfd) that all processes of a run inherit. A process that dies has rung or has not;
the one that is rung for also looks by itself from time to time, so a lost ring costs a moment and no more.
"""

from __future__ import annotations

import contextlib
import os


class Doorbell:
    """One doorbell; `descriptor` is the open file that children inherit, and for which the sleeper waits."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def create(cls) -> Doorbell:
        """Make a doorbell; the calling process owns it."""
        return cls(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))

    def ring(self) -> None:
        """Wake the sleeper; never waits."""
        with contextlib.suppress(BlockingIOError):  # it was rung 2**64 times and has not looked
            os.eventfd_write(self.descriptor, 1)

    def hear(self) -> bool:
        """Return whether it was rung since the last look. Sleeper only."""
        try:
            return os.eventfd_read(self.descriptor) > 0
        except BlockingIOError:
            return False

    def close(self) -> None:
        """Close the file. Its owner only."""
        os.close(self.descriptor)

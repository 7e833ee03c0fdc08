"""How long a process has listened for messages. The silence of others is measured by this, not by the clock.

A process may be stopped, or its machine asleep or busy. Meanwhile the others go on sending, and their messages lie
unread in its socket. If the process measured their silence by the clock when it wakes up, it would presume them all
dead although their messages are there.
"""

from __future__ import annotations

_LONGEST = 1.0  # seconds that count at most for the time between two looks
_LONGEST_BEHIND = 0.1  # the same, if the second look left messages unread


class Listening:
    """Counts the seconds in which its owner listened. A look is one reading of the owner's messages.

    The time between two looks counts, but `longest` seconds of it at most: so `seconds` goes with the clock for an
    owner that looks often, and grows by `longest` at most over any time in which the owner was stopped.
    """

    def __init__(self, longest: float = _LONGEST) -> None:
        self.seconds = 0.0
        self._longest = longest
        self._looked: float | None = None

    def step(self, now: float, behind: bool = False) -> float:
        """Count the time since the last look; `behind` says that this one left messages unread. Return `seconds`."""
        if self._looked is not None:
            most = min(_LONGEST_BEHIND, self._longest) if behind else self._longest
            self.seconds += min(max(0.0, now - self._looked), most)
        self._looked = now
        return self.seconds

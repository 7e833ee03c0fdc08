"""How long somebody has listened: others are judged to be silent by that, and not by the clock on the wall.

A process may be stopped, or its machine asleep or busy. Meanwhile the others go on talking, and what they say lies
unread in its socket. A process that wakes up and looks at the clock first would take all of them for dead.
"""

from __future__ import annotations

_LONGEST = 1.0  # seconds that the time between two looks counts at most
_LONGEST_BEHIND = 0.1  # the same, before a look that left messages unread


class Listening:
    """Counts the seconds in which its owner listened: the time between two looks, as far as a look may explain it.

    `seconds` never stands still for an owner that looks often, and hardly moves while the owner does not look.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._looked: float | None = None

    def look(self, now: float, behind: bool = False) -> float:
        """Count the time since the last look; `behind` says that messages were left unread. Return `seconds`."""
        if self._looked is not None:
            self.seconds += min(max(0.0, now - self._looked), _LONGEST_BEHIND if behind else _LONGEST)
        self._looked = now
        return self.seconds

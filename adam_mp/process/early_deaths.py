"""One rule for all processes that are started again when they die: how many early deaths in a row are too many."""

from __future__ import annotations

EARLY = 30.0  # seconds; a process that lived longer starts with a clean slate


class EarlyDeaths:
    """The deaths of the processes in one place, one after the other. Pure: the times are arguments.

    A process that dies is started again, unless more than `restarts` processes in a row died early. A process that
    lives long and dies counts as the first of a row.
    """

    def __init__(self, restarts: int) -> None:
        self._restarts = restarts
        self.in_a_row = 0

    def note(self, lived: float, idle: bool = False) -> None:
        """Note the death of a process that lived so many seconds.

        `idle` says that it got nothing done: then it died early however long it lived.
        """
        early = idle or lived < EARLY
        self.in_a_row = self.in_a_row + 1 if early else 1

    def forgive(self) -> None:
        """Forget the row: what the process died of will not happen again."""
        self.in_a_row = 0

    @property
    def too_many(self) -> bool:
        """Whether no other process is to be started in this place."""
        return self.in_a_row > self._restarts

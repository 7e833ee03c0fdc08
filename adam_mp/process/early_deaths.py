"""The one rule for all processes that are replaced when they die: how many early deaths in a row are too many."""

from __future__ import annotations

EARLY = 30.0  # seconds; a process that lived longer did not die early


class EarlyDeaths:
    """Counts the early deaths of a process and its successors. Pure: the times are arguments.

    The owner replaces a process that dies, unless more than `restarts` of them in a row died early. The death of a
    process that lived long counts as the first of a new row.
    """

    def __init__(self, restarts: int) -> None:
        self._restarts = restarts
        self.in_a_row = 0

    def note(self, lived: float, idle: bool = False) -> None:
        """Note the death of a process that lived for `lived` seconds.

        `idle` says that the process got nothing done: its death is early then, however long it lived.
        """
        early = idle or lived < EARLY
        self.in_a_row = self.in_a_row + 1 if early else 1

    def forgive(self) -> None:
        """Forget the row of deaths: their cause is known, and is gone."""
        self.in_a_row = 0

    @property
    def too_many(self) -> bool:
        """Whether so many died early in a row that the owner should not start another."""
        return self.in_a_row > self._restarts

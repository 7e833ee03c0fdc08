"""The one rule for all processes that are replaced when they die: how many early deaths in a row are too many."""

from __future__ import annotations

EARLY = 30.0  # seconds; a process that lived longer did not die early
AT_ONCE = 10.0  # seconds; loading what a process needs takes less


class EarlyDeaths:
    """Counts the early deaths of a process and its successors. Pure: the times are arguments.

    The owner replaces a process that dies, unless more than `restarts` of them in a row died early. The death of a
    process that lived long counts as the first of a new row. Two in a row that died at once, with the same words and
    before they were ready, are enough: the next one would die in the same way.
    """

    def __init__(self, restarts: int) -> None:
        self._restarts = restarts
        self.in_a_row = 0
        self.hopeless = False  # whether the last two died at once with the same words
        self._words = ""

    def note(self, lived: float, idle: bool = False, words: str = "") -> None:
        """Note the death of a process that lived for `lived` seconds.

        `idle` says that the process got nothing done: its death is early then, however long it lived. `words` are those
        with which it died if it was never ready, and if the next one can be expected to die of the same; else "".
        """
        early = idle or lived < EARLY
        self.in_a_row = self.in_a_row + 1 if early else 1
        words = words if lived < AT_ONCE else ""
        self.hopeless = bool(words) and words == self._words
        self._words = words

    def forgive(self) -> None:
        """Forget the row of deaths: their cause is known, and is gone."""
        self.in_a_row = 0
        self.hopeless = False
        self._words = ""

    @property
    def too_many(self) -> bool:
        """Whether so many died early in a row that the owner should not start another."""
        return self.hopeless or self.in_a_row > self._restarts

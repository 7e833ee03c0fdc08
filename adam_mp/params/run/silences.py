"""Notices to the user when a parameter server or the coordinator stops answering, and when it answers again."""

from __future__ import annotations

from collections.abc import Callable, Mapping

_SILENT = 4.0  # seconds; a parameter server that dies and is started again at once is back sooner


class SilenceNotices:
    """Tells the user once that a peer is silent, and once that it is back.

    `patience` is for how many seconds the run waits for a silent peer before it ends.
    """

    def __init__(self, patience: float, notice: Callable[[str], None]) -> None:
        self._enough, self._wait, self._notice = min(_SILENT, patience / 2), f"{patience:g} s at most", notice
        self._silent: dict[str, float] = {}  # peer that the user knows to be silent -> seconds, as of the last look

    def step(self, silences: Mapping[str, float]) -> None:
        """Take peer -> seconds for which it has owed an answer; to be called at short intervals."""
        for who, seconds in silences.items():
            if seconds >= self._enough:
                if who not in self._silent:
                    self._notice(f"{who} has not answered for {seconds:.0f} s; the run waits for it, {self._wait}")
                self._silent[who] = seconds
            elif who in self._silent:
                self._notice(f"{who} answers again, after {self._silent.pop(who):.0f} s")
        for who in self._silent.keys() - silences.keys():  # a server at another address has taken its place
            del self._silent[who]

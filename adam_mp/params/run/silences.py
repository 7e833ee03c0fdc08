"""What the user is told when a parameter server or the coordinator falls silent, and when it is back."""

from __future__ import annotations

from collections.abc import Callable, Mapping

_SILENT = 4.0  # seconds; a server that is killed and started again at once takes less


class SilenceNotices:
    """Tells once that somebody is silent, and once that it is back. `patience` is how long it will be waited for."""

    def __init__(self, patience: float, notice: Callable[[str], None]) -> None:
        self._enough, self._wait, self._notice = min(_SILENT, patience / 2), f"{patience:g} s at most", notice
        self._silent: dict[str, float] = {}  # who is known to be silent -> the longest silence that was seen

    def look(self, silences: Mapping[str, float]) -> None:
        """Take the seconds for which each has owed an answer; called at short intervals."""
        for who, seconds in silences.items():
            if seconds >= self._enough:
                if who not in self._silent:
                    self._notice(f"{who} has not answered for {seconds:.0f} s; it is waited for, {self._wait}")
                self._silent[who] = seconds
            elif who in self._silent:
                self._notice(f"{who} answers again, after {self._silent.pop(who):.0f} s")
        for who in self._silent.keys() - silences.keys():  # it has another address now
            del self._silent[who]

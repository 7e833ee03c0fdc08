"""What a parameter server says while it runs: short lines for who started it, each thing once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from adam_mp.transport.messages import shown

_LONGEST = 300  # letters
_REMEMBERED = 100  # lines that members cause
_AGAIN = 60.0  # seconds after which such a line may come again


class Announcements:
    """Lines to `tell`."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._awaited: str | None = None
        self._said: OrderedDict[str, float] = OrderedDict()

    def say(self, line: str) -> None:
        """Say it."""
        self._tell(line)

    def say_seldom(self, line: str, now: float) -> None:
        """Say what anybody may cause again and again: once a minute, in letters that every terminal shows."""
        line = shown(line, _LONGEST)
        if now - self._said.get(line, float("-inf")) < _AGAIN:
            return
        self._said[line] = now
        self._said.move_to_end(line)
        if len(self._said) > _REMEMBERED:
            self._said.popitem(last=False)
        self.say(line)

    def say_awaited(self, who: str | None) -> None:
        """Say who is waited for, when that changes."""
        if who is not None and who != self._awaited:
            self.say(f"waiting for {who}")
        self._awaited = who

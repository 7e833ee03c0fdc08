"""The lines that a parameter server shows the user who started it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from adam_mp.transport.messages import shown

_LONGEST = 300  # letters
_REMEMBERED = 100  # lines whose last time is kept, for `say_seldom`
_AGAIN = 60.0  # seconds after which `say_seldom` says the same line again


class Announcements:
    """Shows lines by `tell`, which gets one line at a time.

    `note` gets those that also matter to a user who started the run and not this server; None for `tell`.
    """

    def __init__(self, tell: Callable[[str], None], note: Callable[[str], None] | None = None) -> None:
        self._tell, self.note = tell, note or tell
        self._awaited: str | None = None
        self._said: OrderedDict[str, float] = OrderedDict()

    def say(self, line: str) -> None:
        """Show a line."""
        self._tell(line)

    def say_seldom(self, line: str, now: float) -> None:
        """Show a line that a sender can cause as often as it likes: at most once a minute, in printable letters."""
        line = shown(line, _LONGEST)
        if now - self._said.get(line, float("-inf")) < _AGAIN:
            return
        self._said[line] = now
        self._said.move_to_end(line)
        if len(self._said) > _REMEMBERED:
            self._said.popitem(last=False)
        self.say(line)

    def say_awaited(self, who: str | None) -> None:
        """Show whom the run waits for, if that has changed since the last call; None if it waits for nobody."""
        if who is not None and who != self._awaited:
            self.say(f"waiting for {who}")
        self._awaited = who

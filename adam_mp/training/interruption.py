"""Signals as wishes: Ctrl-C and SIGTERM to stop, in good order first, then at once; SIGUSR1 to say what goes on."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from adam_mp.training.child import STACKS_SIGNAL, raise_when_asked

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ASKING = STACKS_SIGNAL


class Interruption:
    """While entered, notes SIGINT and SIGTERM in `requested`; the second signal raises KeyboardInterrupt.

    SIGUSR1 is noted in `asked`, for whoever tells what the run's processes are doing, and sets it back.

    Outside the main thread, where Python allows no signal handlers, it notes nothing and the caller's handlers stay.
    """

    def __init__(self) -> None:
        self.requested: str | None = None
        self.asked = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._note)
            self._previous[_ASKING] = signal.signal(_ASKING, self._ask)
            raise_when_asked()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.requested is not None:
            raise KeyboardInterrupt
        self.requested = signal.Signals(number).name

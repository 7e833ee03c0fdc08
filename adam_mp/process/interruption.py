"""Signals as requests that the supervisor looks at, in place of signals that end it.

The first Ctrl-C (SIGINT) or SIGTERM asks a run to stop in good order, the second one at once. SIGUSR1 asks what the
processes of the run are doing.
"""

from __future__ import annotations

import contextlib
import faulthandler
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from adam_mp.process.entry import STACKS_SIGNAL
from adam_mp.process.output import hold_descriptors

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
EXIT_CODES = {number.name: 128 + number for number in _SIGNALS}  # of a command that a signal ended early
_ASKING = STACKS_SIGNAL
_STANDARD_ERROR = 2  # the descriptor, because sys.stderr may be None


@contextlib.contextmanager
def stacks_when_asked() -> Iterator[None]:
    """While entered, SIGUSR1 prints the stacks of this process, and does not end it.

    They go to descriptor 2, so a closed standard stream is opened as /dev/null first. An `Interruption` may take the
    signal over meanwhile. This changes nothing if the caller has set a handler of its
    own for SIGUSR1, or outside the main thread.
    """
    hold_descriptors()
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(_ASKING) != signal.SIG_DFL:
        yield
        return
    before = _answer_no_more()
    _answer_by_stacks()
    try:
        yield
    finally:
        _answer_no_more()
        if before:
            _answer_by_stacks()


def _answer_by_stacks() -> None:
    faulthandler.register(_ASKING, _STANDARD_ERROR, all_threads=True)


def _answer_no_more() -> bool:
    """Let SIGUSR1 do what it did before `_answer_by_stacks`; tell whether that was in force."""
    return bool(faulthandler.unregister(_ASKING))  # type: ignore[func-returns-value]  # typeshed is wrong


class Stopped(KeyboardInterrupt):
    """SIGTERM came while no `Interruption` noted it, or as the second signal."""


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """While entered, SIGTERM raises Stopped, as Ctrl-C raises KeyboardInterrupt; so `finally` blocks run.

    An `Interruption` that is entered inside takes the signal over. Does nothing outside the main thread, or if the
    process handles SIGTERM already.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise Stopped


class Interruption:
    """While entered, notes the first SIGINT or SIGTERM in `requested`.

    A second SIGINT raises KeyboardInterrupt, a second SIGTERM its child Stopped.

    While `note_asking` is entered too, SIGUSR1 sets `asked`. The code that then prints what the run's processes are
    doing sets `asked` back.

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
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    @contextlib.contextmanager
    def note_asking(self) -> Iterator[None]:
        """Note SIGUSR1 in `asked` while entered; afterwards the signal does what it did before."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        by_stacks = _answer_no_more()
        before = signal.signal(_ASKING, self._ask)
        try:
            yield
        finally:
            signal.signal(_ASKING, before)
            if by_stacks:
                _answer_by_stacks()

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.requested is not None:
            raise Stopped if number == signal.SIGTERM else KeyboardInterrupt
        self.requested = signal.Signals(number).name

"""Signals as requests that the supervisor looks at, in place of signals that end it.

A terminal, a batch system, a container or a limit of processor time sends a signal before it ends a process. The
system's default for nearly all signals is to end the process at once. This module decides about each of them
(docs/schedulers.md has the table for users):

    ENDING        the first asks a run to stop in good order, a second one at once
    CHECKPOINT    asks for a checkpoint; the run goes on
    STACKS_SIGNAL asks what the processes of the run are doing
    PASSED_OVER   change nothing; a line says that they came

Some of ENDING come again by themselves (`_REPEATED`), and then do not stop the run at once. A signal that was ignored
when the program started (nohup), or for which the user's program has a handler, stays so; SIGINT and SIGTERM always ask
a run to stop.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

from adam_mp.process.entry import STACKS_SIGNAL
from adam_mp.process.output import hold_descriptors


def _known(*names: str) -> tuple[signal.Signals, ...]:
    """Return the signals of these names that this system has."""
    return tuple(signal.Signals[name] for name in names if hasattr(signal, name))


Handler = Callable[[int, FrameType | None], None]

_ALWAYS = (signal.SIGINT, signal.SIGTERM)
_REPEATED = _known("SIGHUP", "SIGXCPU", "SIGPWR")  # from kernel and shell both, each second, from several programs
ENDING = (*_ALWAYS, *_REPEATED, *_known("SIGQUIT"))
CHECKPOINT = signal.SIGUSR2
PASSED_OVER = _known("SIGALRM", "SIGVTALRM", "SIGPROF", "SIGPOLL", "SIGSTKFLT")
EXIT_CODES = {number.name: 128 + number for number in ENDING}  # of a command that a signal ended early
_ASKING = STACKS_SIGNAL
_STANDARD_ERROR = 2  # the descriptor, because sys.stderr may be None


@contextlib.contextmanager
def stacks_when_asked() -> Iterator[None]:
    """While entered, SIGUSR1 prints the stacks of this process, and CHECKPOINT and PASSED_OVER do not end it.

    They go to descriptor 2, so a closed standard stream is opened as /dev/null first. An `Interruption` may take
    signals over meanwhile. This changes nothing of signals for which the caller has set a handler, or outside the main
    thread.
    """
    hold_descriptors()
    with _handled(dict.fromkeys((CHECKPOINT, *PASSED_OVER), _pass_over)), _answered_by_stacks():
        yield


@contextlib.contextmanager
def _answered_by_stacks() -> Iterator[None]:
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
    """A signal of ENDING other than SIGINT came while no `Interruption` noted it, or as the second one.

    `name` is the signal's.
    """

    def __init__(self, name: str = "SIGTERM") -> None:
        super().__init__(name)
        self.name = name


@contextlib.contextmanager
def endings_as_interrupts() -> Iterator[None]:
    """While entered, signals of ENDING raise Stopped, as Ctrl-C raises KeyboardInterrupt; so `finally` blocks run.

    An `Interruption` that is entered inside takes the signals over. Changes nothing of signals that are ignored or have
    a handler, or outside the main thread.
    """
    with _handled({number: _stop for number in ENDING if number != signal.SIGINT}):
        yield


@contextlib.contextmanager
def _handled(handlers: Mapping[signal.Signals, Handler]) -> Iterator[None]:
    """While entered, these handlers are in force for those of the signals that had the system's default."""
    set_here = []
    if threading.current_thread() is threading.main_thread():
        set_here = [number for number in handlers if signal.getsignal(number) == signal.SIG_DFL]
    for number in set_here:
        signal.signal(number, handlers[number])
    try:
        yield
    finally:
        for number in set_here:
            signal.signal(number, signal.SIG_DFL)


def _stop(number: int, _frame: FrameType | None) -> None:
    raise Stopped(signal.Signals(number).name)


def _pass_over(number: int, _frame: FrameType | None) -> None:
    why = "there is nothing to write a checkpoint of now" if number == CHECKPOINT else "it changes nothing"
    with contextlib.suppress(OSError):
        os.write(_STANDARD_ERROR, f"adam_mp: {signal.Signals(number).name} came; {why}\n".encode())


class Interruption:
    """While entered, notes the first signal of ENDING in `requested`.

    A second SIGINT raises KeyboardInterrupt, a second one of the others Stopped, but for those that come again by
    themselves.

    While `note_asking` is entered too, SIGUSR1 sets `asked`. The code that then prints what the run's processes are
    doing sets `asked` back. While `note_checkpoint` is entered, CHECKPOINT sets `checkpoint_asked` in the same way.

    Outside the main thread, where Python allows no signal handlers, it notes nothing and the caller's handlers stay.
    """

    def __init__(self) -> None:
        self.requested: str | None = None
        self.asked = self.checkpoint_asked = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in ENDING:
                if number in _ALWAYS or signal.getsignal(number) in (signal.SIG_DFL, _stop):
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

    @contextlib.contextmanager
    def note_checkpoint(self) -> Iterator[None]:
        """Note CHECKPOINT in `checkpoint_asked` while entered, unless the caller's program has a handler for it."""
        free = threading.current_thread() is threading.main_thread()
        before = signal.getsignal(CHECKPOINT)
        if not free or before not in (signal.SIG_DFL, _pass_over):
            yield
            return
        signal.signal(CHECKPOINT, self._ask_checkpoint)
        try:
            yield
        finally:
            signal.signal(CHECKPOINT, before)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True

    def _ask_checkpoint(self, _number: int, _frame: FrameType | None) -> None:
        self.checkpoint_asked = True

    def _note(self, number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.requested is None:
            self.requested = name
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        elif number not in _REPEATED:
            raise Stopped(name)

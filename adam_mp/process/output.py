r"""All text for people goes through here: commands, library and children print by `Output`, and by nothing else.

Text is not the work. A stream can be None, closed, a pipe without a reader, a file on a full disk, a terminal without
the letters, or an object that has `write` alone and may raise from it. Text that a stream does not take is dropped, and
the process goes on. The next text tries again, because a disk may have room by then. Letters that the stream's encoding
lacks are written as escapes, such as \u010d.

There are two kinds of text:

- A *remark* (`Output.say`, `notice`) tells of the work, such as progress. A remark that is dropped changes nothing
  else; that standard output drops remarks is said once on standard error.
- An *answer* (`Output.answer`) is what a command was called for, such as the classes of `predict`. An answer that is
  dropped raises OutputError, so the command ends with an exit code of its own. Commands answer after their work is
  safe.

A remark waits at most `_PATIENCE` seconds for a reader that has stopped reading. The remarks behind it do not wait at
all until one of them is taken. An answer waits as long as its reader does.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import select
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from adam_mp.errors import OutputError, ReaderGoneError
from adam_mp.machine import as_text

_PATIENCE = 3.0  # seconds that a remark waits for a reader
_PIECE = select.PIPE_BUF  # bytes that a pipe takes without waiting once `poll` calls it writable
_PAUSE = 0.01  # seconds until a stream that was writable, and took nothing, is asked again
_STREAMS = {0: "stdin", 1: "stdout", 2: "stderr"}
_NAMES = {"stdout": "standard output", "stderr": "standard error"}

_CONTROLS = "\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u2028\\u2029"  # all but tab and newline; they can move a cursor
_CONTROL = re.compile(f"[{_CONTROLS}]")
_BREAKING = re.compile(f"[{_CONTROLS}\\t\\n\\ud800-\\udfff]")
_SHORT = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


def one_line(text: object) -> str:
    """Return a text, such as a file's name, with escapes for all that could break a line or act on a terminal.

    These are control characters, the separators of lines, and the bytes of names that are no text in UTF-8.
    """
    return _BREAKING.sub(_escape, as_text(str(text)))


def _escape(found: re.Match[str]) -> str:
    letter, number = found[0], ord(found[0])
    if 0xDC80 <= number <= 0xDCFF:  # how Python keeps a byte that is no text
        return f"\\x{number - 0xDC00:02x}"
    return _SHORT.get(letter) or (f"\\x{number:02x}" if number < 0x80 else f"\\u{number:04x}")


class Output:
    """A stream that never raises, as a file for whatever prints: `print`, tqdm, warnings, code of the user.

    `stream` is any object, or None. All but `write` is asked of it only where it has it. `trouble` is why the last text
    was dropped, None if it was taken; `dropped` counts the texts that were dropped. One thread writes at a time.
    """

    def __init__(self, stream: Any, name: str = "the output") -> None:
        self.stream, self.name = stream, name
        self.trouble: Exception | None = None
        self.dropped = 0
        self._stuck = False  # its reader has let the last remark wait in vain

    @classmethod
    def of(cls, stream: Any) -> Output:
        """Return `stream` itself if it is an Output, else a new Output for it."""
        return stream if isinstance(stream, cls) else cls(stream)

    def say(self, text: str, end: str = "\n") -> None:
        """Write a remark."""
        if not self._put(_CONTROL.sub(_escape, as_text(text)) + end, _PATIENCE) and self.dropped == 1:
            self._say_that_it_drops()

    def answer(self, text: str, code: int = 0, end: str = "\n") -> None:
        """Write an answer. Raises OutputError if it is dropped, ReaderGoneError if that is because nobody reads it.

        The error's exit code is `code`, with which the command would have ended, unless that is 0.
        """
        if self._put(_CONTROL.sub(_escape, as_text(text)) + end, None):
            return
        gone = isinstance(self.trouble, BrokenPipeError)
        error = (ReaderGoneError if gone else OutputError)(f"the answer could not be written to {self._why()}")
        error.exit_code = code or error.exit_code
        raise error

    def write(self, text: str) -> int:
        """Write a text as it is, with its control characters."""
        self._put(str(text), _PATIENCE)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write texts one after the other."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Do nothing: whatever is written is flushed."""

    def isatty(self) -> bool:
        """Tell whether the stream says that it is a terminal."""
        return bool(_asked(self.stream, "isatty"))

    @property
    def encoding(self) -> str:
        """The stream's encoding, UTF-8 if it does not tell one."""
        encoding = _attribute(self.stream, "encoding")
        return encoding if isinstance(encoding, str) else "utf-8"

    @property
    def closed(self) -> bool:
        """False, because one can write here at any time."""
        return False

    def __getattr__(self, name: str) -> Any:
        if name == "stream":  # not set yet, in a copy
            raise AttributeError(name)
        return getattr(self.stream, name)

    def _put(self, text: str, patience: float | None) -> bool:
        """Write `text`, and tell whether the stream has taken it."""
        try:
            self._write(text, patience)
        except Exception as error:
            self.trouble = error
            self.dropped += 1
            return False
        self.trouble = None
        return True

    def _write(self, text: str, patience: float | None) -> None:
        stream = self.stream
        if stream is None or _attribute(stream, "closed") is True:
            raise OSError(errno.EBADF, "it is closed")
        text = _with_its_letters(text, stream)
        descriptor = _descriptor(stream)
        if descriptor is not None:  # a text that fails must not stay in the buffers, where the next flush fails again
            stream.flush()
            data = text.encode(stream.encoding, stream.errors)
            self._write_bytes(descriptor, data, 0.0 if self._stuck and patience is not None else patience)
            return
        try:
            stream.write(text)
        except UnicodeError:  # an object that does not tell the encoding of the file behind it
            stream.write(text.encode("ascii", "backslashreplace").decode("ascii"))
        _asked(stream, "flush")

    def _write_bytes(self, descriptor: int, data: bytes, patience: float | None) -> None:
        deadline = None if patience is None else time.monotonic() + patience
        poll, left = select.poll(), memoryview(data)
        poll.register(descriptor, select.POLLOUT)
        while left:
            wait = None if deadline is None else 1000 * max(0.0, deadline - time.monotonic())
            if not poll.poll(wait):
                self._stuck = True
                raise TimeoutError(errno.ETIMEDOUT, "its reader has stopped reading")
            try:
                left = left[os.write(descriptor, left[:_PIECE]) :]
            except BlockingIOError:
                time.sleep(_PAUSE)
        self._stuck = False

    def _say_that_it_drops(self) -> None:
        if self is not standard_error():
            notice(f"cannot write to {self._why()}; the work goes on without it")

    def _why(self) -> str:
        error = self.trouble
        reason = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
        return f"{self.name}: {one_line(reason)}"


def _attribute(stream: Any, name: str) -> Any:
    """Return an attribute of a stream that may not have it, or may raise whatever it likes; None then."""
    try:
        return getattr(stream, name, None)
    except Exception:
        return None


def _asked(stream: Any, name: str) -> Any:
    """Call a method of a stream that may not have it; return None then. An error of `flush` is raised."""
    method = _attribute(stream, name)
    if not callable(method):
        return None
    try:
        return method()
    except Exception:
        if name == "flush":
            raise
        return None


def _with_its_letters(text: str, stream: Any) -> str:
    """Return `text` with escapes for letters that the stream's encoding lacks, if the stream tells its encoding."""
    encoding, errors = _attribute(stream, "encoding"), _attribute(stream, "errors")
    if not isinstance(encoding, str):
        return text
    try:
        text.encode(encoding, errors if isinstance(errors, str) else "strict")
    except UnicodeError:
        return text.encode(encoding, "backslashreplace").decode(encoding)
    except LookupError:  # no encoding that Python knows
        return text.encode("ascii", "backslashreplace").decode("ascii")
    return text


def _descriptor(stream: Any) -> int | None:
    """Return the descriptor of a text file as Python opens it; None for other objects, whose `write` may do more."""
    if type(stream) is not io.TextIOWrapper or "".encode(stream.encoding):  # such as a mark of UTF-16
        return None
    raw = stream.buffer.raw if type(stream.buffer) is io.BufferedWriter else stream.buffer
    return raw.fileno() if type(raw) is io.FileIO else None


_known: dict[str, Output] = {}


def _standard(name: str) -> Output:
    stream = getattr(sys, name)
    if isinstance(stream, Output):
        return stream
    if name not in _known or _known[name].stream is not stream:
        _known[name] = Output(stream, _NAMES[name])
    return _known[name]


def standard_output() -> Output:
    """Return the present sys.stdout as an Output; the same one as long as sys.stdout is the same."""
    return _standard("stdout")


def standard_error() -> Output:
    """Return the present sys.stderr as an Output; the same one as long as sys.stderr is the same."""
    return _standard("stderr")


def notice(text: str, below: str = "") -> None:
    """Say `text` on standard error, as one line of adam_mp; `below` has more lines, such as stacks."""
    standard_error().say(f"adam_mp: {one_line(text)}" + (f"\n{below}" if below else ""))


def hold_descriptors() -> None:
    """Open /dev/null for each closed standard stream.

    Otherwise the next file that is opened, perhaps a checkpoint, gets the stream's number, and what a library of C or a
    child prints goes into it.
    """
    for number in _STREAMS:
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)


def guard_streams() -> None:
    """Put an Output in place of sys.stdout and sys.stderr, so that whatever prints in this process cannot fail."""
    sys.stdout, sys.stderr = standard_output(), standard_error()  # type: ignore[assignment]


@contextlib.contextmanager
def guarded_streams() -> Iterator[None]:
    """Guard the streams of a command: `hold_descriptors` and `guard_streams`, until the context ends.

    Other code may leave text in the buffer of a stream that cannot be written. It is thrown away at the end: otherwise
    Python would fail to flush it at its exit, and replace the exit code.
    """
    before = sys.stdout, sys.stderr
    hold_descriptors()
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115, for the rest of the process
    guard_streams()
    guards = sys.stdout, sys.stderr
    try:
        yield
    finally:
        for stream in before:
            _empty(stream)
        if (sys.stdout, sys.stderr) == guards:
            sys.stdout, sys.stderr = before


def _empty(stream: Any) -> None:
    try:
        _asked(stream, "flush")
    except Exception:
        if (descriptor := _descriptor(stream)) is not None:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, descriptor)
            os.close(nothing)

"""All errors that a user can cause or meet: children of `AdamError`.

The message of each is one line: what was given, what is expected, what to do. The command line ends with `exit_code`.
`several` writes a number with its noun, for messages everywhere, and `shown` a value that a user gave. Messages name
settings as flags; `spoken` turns these into keywords where adam_mp is a library. This module imports nothing of
adam_mp, and every other module may import it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

_LONGEST, _LONGEST_VALUE = 600, 90  # characters of a message, and of a value in it
_MOST_SHOWN = 6  # elements of a list that is shown whole
_AS_KEYWORD = re.compile(
    r"(?<![\w-])--([a-z][a-z0-9]*(?:-[a-z0-9]+)*)(?:[ =]([A-Z][A-Z0-9:|.,]*\b|none\b|auto\b|\d[\d.]*\d|\d)(?![\w%]))?"
)
_COMMAND = re.compile(r"(adam-mp [a-z]+[^;,'\"]*)")  # to be written in a shell as it stands
_COMMANDS_ONLY = (
    "help",
    "json",
    "debug",
    "check",
    "version",
    "snapshots",
    "advertise",
    "address-file",
    "listen",  # a setting too, but only commands listen
    "top",
    "dereference",  # these two are of tar
    "sparse",
)


def _one_line(text: str) -> str:
    return "".join(c if c >= " " and c != "\x7f" else c.encode("unicode_escape").decode() for c in text)


class AdamError(Exception):
    """Base of all errors raised by adam_mp. The message is one line of a few hundred characters, meant for the user.

    A longer message loses its middle: its beginning says what was given, its end what to do. What cannot be printed in
    it, such as the line's end in a file's name, is written as Python writes it.
    """

    exit_code = 2
    longest: int | None = _LONGEST

    def __init__(self, message: object = "") -> None:
        text = spoken(str(message))
        super().__init__(text if self.longest is None else shortened(_one_line(text), self.longest))


class SettingsError(AdamError):
    """A flag, a TOML key or a keyword argument has an unknown name or an impossible value."""


class NetworkError(AdamError):
    """A network description is malformed, or its shapes do not fit."""


class DataError(AdamError):
    """A data set is missing, damaged or inconsistent."""


class SpaceError(AdamError):
    """There is not enough shared memory or disk for what the user asked for."""


class RunFolderError(AdamError):
    """A run folder is missing, is in use, or belongs to something else."""


class DiskError(AdamError):
    """A run has trained, but its results could not be written to disk."""

    exit_code = 1


class CheckpointError(AdamError):
    """A checkpoint or model file is missing or damaged."""


class ProcessError(AdamError):
    """Workers or data servers died more often than the settings allow. The message may hold the last lines of one."""

    exit_code = 1
    longest = None


class TransportError(AdamError):
    """Another part of the run cannot be reached, does not answer, or refuses a message."""

    exit_code = 1


class PlaceError(TransportError):
    """A process cannot listen on an address or socket file, or cannot dial it: the given address itself is the cause.

    It would fail in the same way whichever other processes run.
    """

    exit_code = 2


class JoinError(TransportError):
    """The coordinator refused this member's JOIN, for example because its settings differ from the run's."""

    exit_code = 2


class StoppedError(TransportError):
    """The caller's `stop` ended the wait for an answer."""


class DivergenceError(AdamError):
    """The loss became NaN, infinite or far too large, and the run may not (again) go back to its last good state."""

    exit_code = 3


class StalledError(AdamError):
    """Nothing moved until the deadline: no counter of the run changed, or the survey before it read no image."""

    exit_code = 4


class OutputError(AdamError):
    """The answer of a command could not be written to its output; the work itself is done."""

    exit_code = 5


class ReaderGoneError(OutputError):
    """Nobody reads the answer of a command any more: the pipe is closed. The command ends without a word."""

    exit_code = 141  # as a program that SIGPIPE ends, for a shell


_ADVICE = {
    errno.EMFILE: "; allow it more (ulimit -n)",
    errno.ENFILE: "; end what holds so many on this machine",
    errno.ENOMEM: "; free some",
    errno.ENOSPC: "; free some",
    errno.EDQUOT: "; free some",
}


def refusal(error: Exception) -> str:
    """Return in words why the operating system refused something, and what to do if `_ADVICE` has it."""
    if isinstance(error, MemoryError):
        error = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    if not isinstance(error, OSError):
        return f"{type(error).__name__}: {error}"
    return f"{error.strerror or error}{_ADVICE.get(error.errno or 0, '')}"


def shortened(text: str, longest: int | None) -> str:
    """Return `text`, without its middle if it has more than `longest` characters (None: of any length)."""
    if longest is None or len(text) <= longest:
        return text
    end = longest // 3
    return f"{text[: longest - end - 5]} ... {text[-end:]}"


def shown(value: Any) -> str:
    """Return how a message names a value that a user gave, whatever it is, in at most some 90 characters.

    Numbers, texts, paths and short lists of them appear as they are, other objects by type and shape.
    """
    try:
        return shortened(_plain(value) or _described(value), _LONGEST_VALUE)
    except Exception:  # an object whose own methods raise
        return _with_article(type(value).__name__[:40])


def _plain(value: Any) -> str | None:
    """Return a plain value as Python writes it; None for other objects."""
    if isinstance(value, PurePath):
        return repr(str(value))
    for kind in (str, bytes, bool, int, float, complex, type(None)):
        if isinstance(value, kind):  # a child class may write itself in another way
            return str(kind.__repr__(value[:1000] if isinstance(value, (str, bytes)) else value))  # type: ignore
    if type(value) in (list, tuple, set, dict) and len(value) <= _MOST_SHOWN:
        elements = [*value, *value.values()] if isinstance(value, dict) else value
        return repr(value) if all(_plain(each) and not isinstance(each, PurePath) for each in elements) else None
    return None


def _described(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = _with_article(type(value).__name__[:40])
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        return f"{name} of shape {shape} and type {getattr(value, 'dtype', 'unknown')}"
    if callable(value) and isinstance(called := getattr(value, "__name__", None), str):
        return f"{name} named {called}"
    return f"{name} of length {len(value)}" if hasattr(value, "__len__") else name


def _with_article(noun: str) -> str:
    return f"an {noun}" if noun[:1].lower() in tuple("aeio") else f"a {noun}"


def flag_of(name: str) -> str:
    """Return the flag of a setting: `--batch-size` for `batch_size`."""
    return "--" + name.replace("_", "-")


class _Speech:
    flags = False


def speaks_flags() -> bool:
    """Tell whether messages name settings as flags; a child is told to do as its parent."""
    return _Speech.flags


@contextlib.contextmanager
def speaking_flags(flags: bool = True) -> Iterator[None]:
    """While entered, messages name settings as flags, because the user sees the command line.

    With `flags` False they name them as keywords.
    """
    before, _Speech.flags = _Speech.flags, flags
    try:
        yield
    finally:
        _Speech.flags = before


def spoken(text: str) -> str:
    """Return a message whose settings are written as flags, as this process's user knows them.

    On the command line it is the text itself; in a library `--batch-size` becomes `batch_size`, `--servers N`
    `servers=N`, but for commands that the text tells the user to give.
    """
    if _Speech.flags or "--" not in text:
        return text
    pieces = _COMMAND.split(text)  # commands are every second piece
    return "".join(
        piece if number % 2 else _AS_KEYWORD.sub(_keyword, piece) for number, piece in enumerate(pieces)
    )  # fmt: skip


def _keyword(found: re.Match[str]) -> str:
    if found[1] in _COMMANDS_ONLY:
        return found[0]
    name = found[1].replace("-", "_")
    value = repr(found[2]) if found[2] in ("none", "auto") else found[2]
    return name if value is None else f"{name}={value}"


def several(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: 1 worker, 2 workers. Give `plural` if it is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"

"""All errors that a user can cause or meet: children of `AdamError`.

The message of each is one line: what was given, what is expected, what to do. The command line ends with `exit_code`.
`several` writes a number with its noun, for messages everywhere. This module imports nothing of adam_mp, and every
other module may import it.
"""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable


class AdamError(Exception):
    """Base of all errors raised by adam_mp. The message is one line, meant for the user."""

    exit_code = 2


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
    """Workers or data servers died more often than the settings allow."""

    exit_code = 1


class TransportError(AdamError):
    """Another part of the run cannot be reached, does not answer, or refuses a message."""

    exit_code = 1


class PlaceError(TransportError):
    """A process cannot listen on an address or socket file, or cannot dial it: the given address itself is the cause.

    It would fail in the same way whichever other processes run.
    """

    exit_code = 2


class DivergenceError(AdamError):
    """The loss became NaN, infinite or far too large, and the run may not (again) go back to its last good state."""

    exit_code = 3


class StalledError(AdamError):
    """Nothing moved until the deadline: no counter of the run changed, or the survey before it read no image."""

    exit_code = 4


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


def nearest(name: str, known: Iterable[str], most: int | None = None) -> str:
    """Return `did you mean 'x'?` for the closest known name; if none is close, list known names, at most `most`."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    more = f" and {len(names) - most} more" if most is not None and len(names) > most else ""
    return "known: " + ", ".join(names[:most]) + more


def several(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: 1 worker, 2 workers. Give `plural` if it is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"

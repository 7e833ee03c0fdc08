"""What can go wrong, said in one line: what was given, what is expected, what to do.

Every error that a user can cause or meet is a child of `AdamError`. `exit_code` is what the command line ends
with. Here is also how messages say numbers of things. This module imports nothing of adam_mp, and every other module
may import it.
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
    """Not enough shared memory or disk for what was asked."""


class RunFolderError(AdamError):
    """A run folder is missing, is in use, or belongs to something else."""


class DiskError(AdamError):
    """The disk does not take what a run is to leave, after it has trained."""

    exit_code = 1


class CheckpointError(AdamError):
    """A checkpoint or model file is missing or damaged."""


class ProcessError(AdamError):
    """Workers or data servers died more often than the run can bear."""

    exit_code = 1


class TransportError(AdamError):
    """Another part of the run cannot be reached, does not answer, or refuses what it was sent."""

    exit_code = 1


class PlaceError(TransportError):
    """What was given as a place to listen on or to dial can be none here."""

    exit_code = 2


class DivergenceError(AdamError):
    """The loss became NaN, infinite or far too large, and the run may not go back to a good state once more."""

    exit_code = 3


class StalledError(AdamError):
    """Nothing moved for longer than the documented deadline."""

    exit_code = 4


_ADVICE = {
    errno.EMFILE: "; allow it more (ulimit -n)",
    errno.ENFILE: "; end what holds so many on this machine",
    errno.ENOMEM: "; free some",
    errno.ENOSPC: "; free some",
    errno.EDQUOT: "; free some",
}


def refusal(error: Exception) -> str:
    """Say why the system refused something, and what to do, where that is known."""
    if isinstance(error, MemoryError):
        error = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    if not isinstance(error, OSError):
        return f"{type(error).__name__}: {error}"
    return f"{error.strerror or error}{_ADVICE.get(error.errno or 0, '')}"


def nearest(name: str, known: Iterable[str], most: int | None = None) -> str:
    """Return `did you mean 'x'?` for the closest known name, or the list of the known names, `most` of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    more = f" and {len(names) - most} more" if most is not None and len(names) > most else ""
    return "known: " + ", ".join(names[:most]) + more


def several(number: int, noun: str, plural: str | None = None) -> str:
    """Say a number of things: 1 worker, 2 workers; `plural` where that is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"

"""A lock on a folder, for one process at a time. The kernel releases it when the process ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path

from adam_mp.errors import RunFolderError

LOCK_FILE = ".lock"
_HOLDER = "process "  # a signed lock file holds this and the process id of its holder
# Errors of the system for a file system that has no locks, such as some network and FUSE mounts.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
_LONGEST = 100  # bytes that are read of a lock file


class FolderHeldError(RunFolderError):
    """Another process has the lock on the folder; `holder` names it, if it has signed its lock file."""

    def __init__(self, folder: Path, holder: str) -> None:
        super().__init__(f"folder {folder} is in use by {holder}")
        self.holder = holder


def is_held(folder: Path) -> bool:
    """Return whether a process holds the folder now. Raises OSError if its lock file cannot be opened."""
    descriptor = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


class FolderLock:
    """The lock on an existing folder, held until `close`.

    It is a lock on a file in the folder. `close` leaves that file there: a process that deleted it might delete the
    file that another process has locked by then. Only the holder may delete it, together with the whole folder.
    `was_held` says whether an earlier holder signed the file (`sign`). Raises FolderHeldError if another process has
    the lock, OSError if the folder cannot be locked (FileNotFoundError if its holder removed the folder just now).

    If the file system has no locks and the lock is not `needed`, there is none, and `trouble` says so in a line for the
    user.
    """

    def __init__(self, folder: Path, needed: bool = True) -> None:
        file = folder / LOCK_FILE
        self.trouble: str | None = None
        self._needed = needed
        self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            self._lock(folder)
            if not os.path.samestat(os.stat(file), os.fstat(self._descriptor)):
                raise FileNotFoundError(f"{file} is another file by now")
            self.was_held = self._read().startswith(_HOLDER)
        except BaseException:
            self.close()
            raise

    def _lock(self, folder: Path) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderHeldError(folder, self._read() or "another process") from None
        except OSError as error:
            if self._needed or error.errno not in _NO_LOCKS:
                raise
            self.trouble = (
                f"the file system of {folder} has no locks ({error.strerror}): take care that no other process uses "
                "the folder, since none would be noticed"
            )

    def _read(self) -> str:
        return os.pread(self._descriptor, _LONGEST, 0).decode(errors="replace").strip()

    def sign(self) -> None:
        """Write this process's id into the lock file, for messages and `was_held`. Does nothing on a full disk."""
        with contextlib.suppress(OSError):
            os.truncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{_HOLDER}{os.getpid()}".encode(), 0)

    def close(self) -> None:
        """Release the lock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

"""A folder held by one process alone. The kernel takes the lock away when the process ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from adam_mp.errors import RunFolderError

LOCK_FILE = ".lock"
_HOLDER = "process "  # how what a lock file says of its holder begins
_LONGEST = 100  # bytes of that


class FolderHeldError(RunFolderError):
    """Another process holds the folder: `holder` says which, as far as its lock file does."""

    def __init__(self, folder: Path, holder: str) -> None:
        super().__init__(f"folder {folder} is in use by {holder}")
        self.holder = holder


def is_held(folder: Path) -> bool:
    """Tell whether a process holds a folder now. Raises OSError if the folder has no lock file that can be opened."""
    descriptor = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


class FolderLock:
    """The lock on a folder that exists, until `close`.

    The lock is on a file in the folder. That file stays, because who deletes one may delete another's; who holds the
    lock may delete it together with the folder, though. `was_held` says whether a process held the folder before, as
    one that called `sign` leaves it. Raises FolderHeldError if another process has the lock, OSError if the folder
    cannot be locked (FileNotFoundError if its holder removed it just then).
    """

    def __init__(self, folder: Path) -> None:
        file = folder / LOCK_FILE
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

    def _read(self) -> str:
        return os.pread(self._descriptor, _LONGEST, 0).decode(errors="replace").strip()

    def sign(self) -> None:
        """Write into the lock file who holds it. On a full disk it stays unsaid."""
        with contextlib.suppress(OSError):
            os.truncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{_HOLDER}{os.getpid()}".encode(), 0)

    def close(self) -> None:
        """Let others have the folder."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

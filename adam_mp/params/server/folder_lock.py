"""A folder held by one process alone. The lock goes with the process, however it ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

from adam_mp.errors import RunFolderError

_LOCK = ".lock"


class FolderLock:
    """The lock on a snapshot folder, which is made if it is missing, until `close`.

    The lock file stays: who deletes one may delete another's. Raises RunFolderError if the folder is in use.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file: IO[str] = open(folder / _LOCK, "a+")  # noqa: SIM115, held until close
        except OSError as error:
            raise _cannot(folder, error) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._file.truncate(0)
            self._file.write(f"process {os.getpid()}")
            self._file.flush()
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            raise RunFolderError(
                f"snapshot folder {folder} is in use by {holder}; give each server a folder of its own"
            ) from None
        except OSError as error:
            raise _cannot(folder, error) from None

    def close(self) -> None:
        """Let others use the folder."""
        self._file.close()


def _cannot(folder: Path, error: OSError) -> RunFolderError:
    return RunFolderError(f"cannot write {folder}: {error.strerror}; name another folder for snapshots")

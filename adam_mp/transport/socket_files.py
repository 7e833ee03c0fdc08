"""Socket files, unix:FILE: sockets that only processes of the user who owns the file's folder can reach.

The kernel lets no other user into a folder of mode 0700. So the parts of a run that are all on one machine need no keys
and do not encrypt what they send.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import shutil
import socket
import stat
import sys
import tempfile
from pathlib import Path

from adam_mp.errors import PlaceError, SettingsError, TransportError, refusal, shown
from adam_mp.process.folder_lock import FolderHeldError, FolderLock

PREFIX = "unix:"
NO_FILE, NO_LISTENER = "there is no such socket file", "nobody listens at this socket file any more"
_FOLDER = "adam_mp-sockets-"  # the beginning of the names of folders that `SocketFolder` makes
_THROUGH_DESCRIPTOR = sys.platform == "linux"


@dataclasses.dataclass(frozen=True)
class SocketFile:
    """The file by which processes find a socket; its path is absolute."""

    path: Path

    def __str__(self) -> str:
        return f"{PREFIX}{self.path}"


def parse_socket_file(text: str, what: str) -> SocketFile:
    """Return the socket file that `text` names; raises SettingsError, which calls it `what`, if `text` names none."""
    path = Path(text.removeprefix(PREFIX))
    if not text.startswith(PREFIX) or not text.isprintable() or not path.name:
        raise SettingsError(f"{what} is {shown(text)}; expected {PREFIX} and the name of a file")
    return SocketFile(path.absolute())


class PrivateFolder:
    """The folder of a socket file, held open until `close`; raises SettingsError if other users can enter it.

    `endpoint` is the socket in ZeroMQ's notation. On Linux it leads through the open folder (/proc/self/fd). So ZeroMQ
    uses the folder that was checked, even if the path leads elsewhere later, and the path may be longer than the 107
    bytes that the system allows for a socket's name.
    """

    def __init__(self, file: SocketFile) -> None:
        self._file, folder = file, file.path.parent
        try:
            self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise SettingsError(f"cannot use {file}: {refusal(error)}; name a file in a folder of yours") from None
        status = os.fstat(self._descriptor)
        if status.st_uid not in (os.geteuid(), 0):
            self.close()
            raise SettingsError(
                f"{folder}, the folder of {file}, belongs to user {status.st_uid}; expected one of user "
                f"{os.geteuid()}, who runs this"
            )
        if stat.S_IMODE(status.st_mode) & 0o077:
            self.close()
            raise SettingsError(
                f"{folder}, the folder of {file}, is open to other users; make one of yours with: mkdir -m 700 DIR"
            )
        self._path = f"/proc/self/fd/{self._descriptor}/{file.path.name}" if _THROUGH_DESCRIPTOR else str(file.path)
        self.endpoint = f"ipc://{self._path}"

    def check_unused(self) -> None:
        """Raise TransportError if a process listens at the socket file, PlaceError if no socket file can be made there.

        That is so if a file of another kind has that name. ZeroMQ itself would replace either with its own socket.
        """
        kind, reason = TransportError, "address already in use"
        try:
            if stat.S_ISSOCK(os.lstat(self._path).st_mode):
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.setblocking(False)
                    probe.connect(self._path)
            else:
                kind, reason = PlaceError, "a file has that name"
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ECONNREFUSED):  # no file, or left by a process that was killed
                return
            if error.errno != errno.EAGAIN:  # EAGAIN: a process listens, and many wait for it to accept them
                kind, reason = PlaceError, refusal(error)
        raise kind(f"cannot listen on {self._file}: {reason}; choose another --listen")

    def describe_absence(self) -> str:
        """Say why no process is reached at the socket file."""
        try:
            is_socket = stat.S_ISSOCK(os.lstat(self._path).st_mode)
        except OSError:
            return NO_FILE
        return NO_LISTENER if is_socket else "this file is no socket"

    def remove_file(self) -> None:
        """Remove the socket file, while this process still listens: later a successor's file may have that name."""
        with contextlib.suppress(OSError):
            os.unlink(self._path)

    def close(self) -> None:
        """Close the folder, once no socket uses `endpoint` any more."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class SocketFolder:
    """A new folder at `path`, among the system's temporary files, for the socket files of one run, until `close`.

    This process holds a lock on the folder, which the kernel releases when the process ends, even if it is killed. So
    a folder without a holder was left over by a process that was killed; making a new folder removes such folders.
    Raises TransportError if no folder can be made.
    """

    def __init__(self) -> None:
        remove_left_over()
        try:
            self.path, self._lock = _make_locked()
        except OSError as error:
            raise TransportError(f"cannot make a folder for sockets: {refusal(error)}; set TMPDIR to another") from None

    def close(self) -> None:
        """Remove the folder and its files."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def _make_locked() -> tuple[Path, FolderLock]:
    """Make a folder and lock it; if another process takes it for left over before the lock, make another."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=_FOLDER))
        with contextlib.suppress(FileNotFoundError, FolderHeldError):
            return path, FolderLock(path)


def remove_left_over() -> list[Path]:
    """Remove this user's folders whose process was killed; return the paths of those removed."""
    removed = []
    for path in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
        with contextlib.suppress(OSError, FolderHeldError):
            status = path.lstat()
            if status.st_uid == os.geteuid() and stat.S_ISDIR(status.st_mode):
                with contextlib.closing(FolderLock(path)):
                    shutil.rmtree(path, ignore_errors=True)
                removed.append(path)
    return removed

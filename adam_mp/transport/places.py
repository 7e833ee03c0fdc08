"""Places: where a part of a run listens and others dial it. HOST:PORT, or unix:FILE on one machine."""

from __future__ import annotations

import dataclasses

from adam_mp.transport.addresses import Address, check_joining, check_listening, parse_address
from adam_mp.transport.socket_files import PREFIX, PrivateFolder, SocketFile, parse_socket_file

Place = Address | SocketFile


def parse_place(text: str, what: str, least_port: int = 1) -> Place:
    """Return the place that `text` names; raises SettingsError, which calls it `what`, if `text` names none."""
    return parse_socket_file(text, what) if text.startswith(PREFIX) else parse_address(text, what, least_port)


@dataclasses.dataclass(frozen=True)
class Way:
    """How ZeroMQ listens at a place or dials it.

    `endpoint` is the place in ZeroMQ's notation, `is_version_6` says that only IPv6 leads there, `with_keys` that the
    run's keys are used, `folder` is the open folder of a socket file. The owner calls `close` after it has closed the
    socket.
    """

    endpoint: str
    is_version_6: bool = False
    with_keys: bool = False
    folder: PrivateFolder | None = None

    def end_listening(self) -> None:
        """Remove the socket file, if there is one. A listener calls this just before it closes its socket."""
        if self.folder is not None:
            self.folder.remove_file()

    def describe_absence(self) -> str:
        """Say why no process is reached at a socket file; "" for an address, of which nothing is known."""
        return "" if self.folder is None else self.folder.describe_absence()

    def close(self) -> None:
        """Close the folder of the socket file, if there is one."""
        if self.folder is not None:
            self.folder.close()


def way_to_listen(place: Place, has_keys: bool) -> Way:
    """Return how to listen at `place`.

    Raises SettingsError if others than this machine's or user's processes could connect and there are no keys,
    TransportError if a socket file is in use.
    """
    if isinstance(place, SocketFile):
        folder = PrivateFolder(place)
        try:
            folder.check_unused()
        except BaseException:
            folder.close()
            raise
        return Way(folder.endpoint, folder=folder)
    number = check_listening(place, has_keys)
    return Way(f"tcp://{number}", number.is_version_6, has_keys)


def way_to_dial(place: Place, has_keys: bool) -> Way:
    """Return how to dial `place`; raises SettingsError if messages would leave this machine and there are no keys."""
    if isinstance(place, SocketFile):
        folder = PrivateFolder(place)
        return Way(folder.endpoint, folder=folder)
    target = check_joining(place, has_keys)
    return Way(f"tcp://{target}", target.is_version_6, has_keys)

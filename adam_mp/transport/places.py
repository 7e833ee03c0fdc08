"""Where a part of a run listens and what others dial: HOST:PORT, or unix:FILE on one machine."""

from __future__ import annotations

import dataclasses

from adam_mp.transport.addresses import Address, check_joining, check_listening, parse_address
from adam_mp.transport.socket_files import PREFIX, PrivateFolder, SocketFile, parse_socket_file

Place = Address | SocketFile


def parse_place(text: str, what: str, least_port: int = 1) -> Place:
    """Return the place in `text`; `what` names it in messages. Raises SettingsError if it is none."""
    return parse_socket_file(text, what) if text.startswith(PREFIX) else parse_address(text, what, least_port)


@dataclasses.dataclass(frozen=True)
class Way:
    """How ZeroMQ gets to a place: what it calls it, whether by IPv6 alone, and whether the run's keys are used.

    Its owner calls `close` once the socket is closed.
    """

    endpoint: str
    is_version_6: bool = False
    with_keys: bool = False
    folder: PrivateFolder | None = None

    def end_listening(self) -> None:
        """Take away what others find the place by; for who listens there, just before its socket is closed."""
        if self.folder is not None:
            self.folder.remove_file()

    def describe_absence(self) -> str:
        """Say what a socket file tells of why nobody is reached there; an address tells nothing."""
        return "" if self.folder is None else self.folder.describe_absence()

    def close(self) -> None:
        """Give back what it holds."""
        if self.folder is not None:
            self.folder.close()


def way_to_listen(place: Place, has_keys: bool) -> Way:
    """Return how to listen at `place`; raises SettingsError if others could come there, and there are no keys.

    Raises TransportError too if a socket file is in use.
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
    """Return how to reach `place`; raises SettingsError if others could hear it, and there are no keys."""
    if isinstance(place, SocketFile):
        folder = PrivateFolder(place)
        return Way(folder.endpoint, folder=folder)
    target = check_joining(place, has_keys)
    return Way(f"tcp://{target}", target.is_version_6, has_keys)

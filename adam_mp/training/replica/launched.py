"""Where to find the parameter servers of a run that `train --servers` started: for the run, and for `status`."""

from __future__ import annotations

from pathlib import Path

from adam_mp.errors import RunFolderError, refusal
from adam_mp.transport.places import parse_place
from adam_mp.transport.socket_files import SocketFile

ADDRESS_FILE = "address"  # in the folder of each parameter server


def server_folder(folder: Path, number: int) -> Path:
    """Return the folder of parameter server `number` of the run in `folder`; it has its snapshot and its address."""
    return folder / f"server-{number}"


def find_launched(folder: Path) -> str:
    """Return the address of the coordinator of the run that `train --servers` runs in `folder`.

    Raises RunFolderError if no such run is going on there.
    """
    try:
        address = (server_folder(folder, 0) / ADDRESS_FILE).read_text(encoding="utf-8")
        place = parse_place(address, "the address")
        if isinstance(place, SocketFile):
            place.path.parent.stat()  # the run removes this folder at its end
    except OSError as error:
        raise RunFolderError(
            f"no run with parameter servers goes on in {folder}: {refusal(error)}; give the folder of a run that was "
            "started with --servers, or HOST:PORT"
        ) from None
    return address

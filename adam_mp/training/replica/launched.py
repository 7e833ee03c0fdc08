"""Where the parts of a run are found that `train --servers` started: for the run itself, and for who asks how it is."""

from __future__ import annotations

from pathlib import Path

from adam_mp.errors import RunFolderError, refusal
from adam_mp.transport.places import parse_place
from adam_mp.transport.socket_files import SocketFile

ADDRESS_FILE = "address"  # in the folder of each server


def server_folder(folder: Path, number: int) -> Path:
    """Return where parameter server `number` of the run in `folder` has its snapshot and its address."""
    return folder / f"server-{number}"


def find_launched(folder: Path) -> str:
    """Return where the coordinator listens of the run that `train --servers` runs in `folder`.

    Raises RunFolderError if no such run goes on there.
    """
    try:
        address = (server_folder(folder, 0) / ADDRESS_FILE).read_text(encoding="utf-8")
        place = parse_place(address, "the address")
        if isinstance(place, SocketFile):
            place.path.parent.stat()  # which ends with the run
    except OSError as error:
        raise RunFolderError(
            f"no run with parameter servers goes on in {folder}: {refusal(error)}; give the folder of a run that was "
            "started with --servers, or HOST:PORT"
        ) from None
    return address

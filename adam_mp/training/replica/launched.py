"""Where the parts of a run are found that `train --servers` started: for the run itself, and for who asks how it is."""

from __future__ import annotations

from pathlib import Path

from adam_mp.errors import RunFolderError, refusal
from adam_mp.process.folder_lock import is_held
from adam_mp.training.folder.checkpoint import find_checkpoints
from adam_mp.transport.places import parse_place
from adam_mp.transport.socket_files import SocketFile

ADDRESS_FILE = "address"  # in the folder of each server


def server_folder(folder: Path, number: int) -> Path:
    """Return where parameter server `number` of the run in `folder` has its snapshot and its address."""
    return folder / f"server-{number}"


def find_launched(folder: Path) -> str:
    """Return where the coordinator listens of the run that `train --servers` runs in `folder`.

    Raises RunFolderError if no such run goes on there: it has ended, was killed, or had no parameter servers.
    """
    try:
        address = (server_folder(folder, 0) / ADDRESS_FILE).read_text(encoding="utf-8")
    except OSError as error:
        raise _none_goes_on(
            folder, f"{server_folder(folder, 0).name}/{ADDRESS_FILE}: {refusal(error)}; give the folder of a run that "
            "was started with --servers, or HOST:PORT"
        ) from None  # fmt: skip
    place = parse_place(address, "the address")
    if isinstance(place, SocketFile):
        _check_goes_on(folder, place.path.parent)
    return address


def _check_goes_on(folder: Path, sockets: Path) -> None:
    """Raise RunFolderError if a run is over. Its folder for sockets ends with it; if it was killed, the lock does."""
    try:
        goes_on = is_held(sockets)
    except OSError:
        raise _none_goes_on(folder, f"it has ended; see: adam-mp inspect {folder}") from None
    if not goes_on:
        after = f"go on with: adam-mp train --resume {folder}"
        if not find_checkpoints(folder):
            after = "it has left no checkpoint; start it again"
        raise _none_goes_on(folder, f"its processes were killed; {after}")


def _none_goes_on(folder: Path, why: str) -> RunFolderError:
    return RunFolderError(f"no run with parameter servers goes on in {folder}: {why}")

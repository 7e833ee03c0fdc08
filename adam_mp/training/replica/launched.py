"""Where to find the parameter servers of a run that `train --servers` started: for the run, and for `status`."""

from __future__ import annotations

from pathlib import Path

from adam_mp.errors import RunFolderError, refusal
from adam_mp.process.folder_lock import is_held
from adam_mp.training.folder.checkpoint import find_checkpoints
from adam_mp.transport.places import parse_place
from adam_mp.transport.socket_files import SocketFile

ADDRESS_FILE = "address"  # in the folder of each parameter server


def server_folder(folder: Path, number: int) -> Path:
    """Return the folder of parameter server `number` of the run in `folder`; it has its snapshot and its address."""
    return folder / f"server-{number}"


def find_launched(folder: Path) -> str:
    """Return the address of the coordinator of the run that `train --servers` runs in `folder`.

    Raises RunFolderError if no such run is going on there: it has ended, was killed, or had no parameter servers.
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
    """Raise RunFolderError if the run is over.

    A run removes its folder of socket files at its end. If the run was killed, the folder stays, but nobody holds it.
    """
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

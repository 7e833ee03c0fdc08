"""The process of a parameter server, as `adam-mp serve-params` and `train --servers` start it."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adam_mp.compute.tensor_file import write_file
from adam_mp.errors import RunFolderError, SettingsError, TransportError
from adam_mp.kernels.compilation import compile_kernels
from adam_mp.params.coordinator import Coordinator
from adam_mp.params.folder_lock import FolderLock
from adam_mp.params.membership import CoordinatorLink, new_identity
from adam_mp.params.persistence import SnapshotFolder, read_facts, write_facts
from adam_mp.params.server import ALONE, STOPPED, ParameterServer
from adam_mp.transport.addresses import Address, open_notice, parse_address
from adam_mp.transport.keys import Keys
from adam_mp.transport.places import Place, parse_place
from adam_mp.transport.tcp import TcpDialer, TcpListener

_EVERYWHERE = ("0.0.0.0", "::")


class RunDoneError(RunFolderError):
    """The snapshot folder holds a run that is done."""


@dataclasses.dataclass(frozen=True)
class ServerSpec:
    """What a parameter server is told.

    `listen` is HOST:PORT, port 0 for any, or unix:FILE; `advertise` is where others find it, by default the same;
    `join` the first server's address, None for the first itself, which waits for `servers` in all. `snapshots` is its
    folder, None for none; `seconds` how often a shard is written at most. `address_file` gets the address once it
    listens. `patience` is how many seconds it may take to join, `wait` how many the first server stays while no replica
    is there.
    """

    listen: str
    advertise: str | None = None
    join: str | None = None
    servers: int = 1
    keys: Keys | None = None
    snapshots: Path | None = None
    seconds: float = 1.0
    address_file: Path | None = None
    patience: float = 60.0  # as a replica has: parts may be started in any order
    wait: float = 3600.0


def serve_parameters(spec: ServerSpec, stop: Callable[[], bool], tell: Callable[[str], None]) -> bool:
    """Serve until `stop` or the end of the run; return whether the run is done.

    Raises AdamError, before anything is served where it can, and when no replica comes in `spec.wait` seconds.
    """
    address = parse_place(spec.listen, "--listen", 0)
    if spec.advertise is None and _is_everywhere(address):
        raise SettingsError(f"listening on {address}: say with --advertise HOST:PORT where others find this server")
    first = parse_place(spec.join, "--join") if spec.join is not None else None
    if first is not None:
        _check_other(first, address, spec.advertise)
    with contextlib.ExitStack() as held:
        if spec.snapshots is not None:
            held.callback(FolderLock(spec.snapshots).close)
        return _serve(spec, address, first, stop, tell)


def _serve(
    spec: ServerSpec, address: Place, first: Place | None, stop: Callable[[], bool], tell: Callable[[str], None]
) -> bool:  # fmt: skip
    facts = read_facts(spec.snapshots) if spec.snapshots is not None else {}
    identity = int(facts.get("identity", 0)) or new_identity()
    host = _coordinator(spec, facts.get("coordinator")) if first is None else None
    compile_kernels()
    listener = TcpListener(address, spec.keys)
    dialer = None
    server = None
    try:
        snapshots = SnapshotFolder(spec.snapshots, spec.seconds) if spec.snapshots is not None else None
        link = None
        if first is not None:
            dialer = TcpDialer(spec.keys)
            link = CoordinatorLink(dialer, first, identity)
        if spec.snapshots is not None:
            _try_folder(spec.snapshots, {**facts, "identity": identity})
        known = _advertised(spec.advertise, listener.address)
        server = ParameterServer(listener, known, identity, host, link, snapshots, tell)
        role = "coordinator and parameter server" if host is not None else "parameter server"
        tell(f"{role} on {listener.address}")
        if spec.keys is None and isinstance(listener.address, Address):
            tell(open_notice(listener.address, "join the run, read its weights and change them"))
        if spec.address_file is not None:
            _write_address(spec.address_file, str(listener.address))
        outcome = server.run(stop, spec.patience, spec.wait)
        if outcome == ALONE and host is not None:
            raise TransportError(f"waited {spec.wait:g} s for {host.awaited}: {how_it_ends(server, spec)}")
        if outcome == STOPPED:
            tell(f"stopped: {how_it_ends(server, spec)}")
        return outcome not in (ALONE, STOPPED)
    finally:
        if server is not None:
            server.close()
        if dialer is not None:
            dialer.close()
        listener.close()


def how_it_ends(server: ParameterServer, spec: ServerSpec) -> str:
    """Say how far the run is that this server leaves, and how to go on."""
    host = server.host
    phase = server.phase if host is None else host.phase
    if phase == "done":
        return f"the run is done, but replicas have not left: {server.replicas}; their last updates may be lost"
    if phase == "waiting":
        return "the run has not begun; the same command starts this server again"
    epoch = f" (epoch {host.epoch + 1} of {host.facts.epochs})" if host is not None and host.facts is not None else ""
    if spec.snapshots is not None:
        return f"the run is not done{epoch}; this server's state is in {spec.snapshots}, and the same command goes on"
    return (
        f"the run is not done{epoch}, and this server has no --snapshots, so its state is lost; the same command "
        "starts it again, and replicas that still run give it what they have"
    )


def _coordinator(spec: ServerSpec, kept: dict[str, Any] | None) -> Coordinator:
    """Return a new coordinator, or the one that `kept` is of; raises RunDoneError or RefusedError."""
    if not kept:
        return Coordinator(new_identity(), spec.servers)
    host = Coordinator.restored(kept)
    if host.phase == "done":
        raise RunDoneError(f"{spec.snapshots} holds a run that is done; name another folder")
    return host


def _is_everywhere(place: Place) -> bool:
    """Whether it stands for all addresses of this machine."""
    return isinstance(place, Address) and place.host in _EVERYWHERE


def _check_other(first: Place, own: Place, advertise: str | None) -> None:
    """Raise SettingsError if the first server's address is this server's own."""
    advertised = advertise is not None and str(first) == _advertised(advertise, own)
    if first == own or advertised or (isinstance(first, Address) and isinstance(own, Address) and _shared(first, own)):
        raise SettingsError(
            f"--join {first} is where this server listens itself; give the first server's address, or start the first "
            "without --join"
        )


def _shared(first: Address, own: Address) -> bool:
    """Whether two addresses are, or one of them includes, the same."""
    if first.port != own.port:
        return False
    try:
        return bool({*first.numbers()} & {*own.numbers()}) or (_is_everywhere(own) and first.is_loopback)
    except OSError:
        return first.host == own.host


def _try_folder(folder: Path, facts: dict[str, Any]) -> None:
    """Write the facts, so that a folder that cannot be written is known before anything is served."""
    try:
        write_facts(folder, facts)
    except OSError as error:
        raise RunFolderError(f"cannot write {folder}: {error.strerror}; name another folder for snapshots") from None


def _write_address(file: Path, address: str) -> None:
    try:
        write_file(file, address.encode())
    except OSError as error:
        raise SettingsError(f"cannot write {file}: {error.strerror}; name another --address-file") from None


def _advertised(text: str | None, bound: Place) -> str:
    """Return where others find the server; a text without a port means the one that is listened on."""
    if text is None:
        return str(bound)
    if ":" not in text and isinstance(bound, Address):
        text = f"{text}:{bound.port}"
    return str(parse_address(text, "--advertise"))


def serve_for_supervisor(spec: ServerSpec) -> None:
    """Run a server as a child process; what it says goes to the supervisor's file of last words.

    One that died in the last moments of its run, and is started again, has nothing left to do.
    """
    with contextlib.suppress(RunDoneError):
        serve_parameters(spec, lambda: False, lambda text: print(text, file=sys.stderr, flush=True))

"""The process of a parameter server, as `adam-mp serve-params` and `train --servers` start it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adam_mp.compute.tensor_file import write_file
from adam_mp.errors import RunFolderError, SettingsError, TransportError
from adam_mp.kernels.compilation import compile_kernels
from adam_mp.params.controller.entrance import open_controller
from adam_mp.params.controller.place import EtcdPlace
from adam_mp.params.controller.record import Elected, Record
from adam_mp.params.run.bucket_map import COMMIT_COPIED
from adam_mp.params.run.coordinator import Coordinator
from adam_mp.params.run.membership import CoordinatorLink, new_identity
from adam_mp.params.server.copy_path import CopyThread
from adam_mp.params.server.copying import CopySettings
from adam_mp.params.server.loop import ALONE, STOPPED, CopyPlace, Elections, ServerLoop, make_loop
from adam_mp.params.server.persistence import SnapshotFolder, read_facts, write_facts
from adam_mp.params.server.run_view import RunView
from adam_mp.process.folder_lock import FolderHeldError, FolderLock
from adam_mp.process.output import one_line, standard_error
from adam_mp.transport.addresses import Address, open_notice, parse_address
from adam_mp.transport.keys import Keys
from adam_mp.transport.places import Place, parse_place
from adam_mp.transport.zeromq import SocketDialer, SocketListener

_EVERYWHERE = ("0.0.0.0", "::")
NOTE = "note: "  # how a line begins that the supervisor of a server shows the user


class RunDoneError(RunFolderError):
    """The snapshot folder holds a run that is done."""


@dataclasses.dataclass(frozen=True)
class ServerSpec:
    """The settings of a parameter server.

    `listen` is HOST:PORT, port 0 for any, or unix:FILE; `advertise` is where others find the server, by default the
    same. `join` is the first server's address; None for the first server itself, which waits for `servers` in all.
    `snapshots` is the server's snapshot folder, None for none; a shard is written at most once in `seconds`. The server
    writes its address into `address_file` once it listens. It may take `patience` seconds to join. The first server
    ends after `wait` seconds in which the run has no replica.

    With `copies` above 1 the server takes copies at `copies_listen`, by default on a port of the host of `listen` that
    the system chooses, which others find at the host of `advertise`. The first server says how many copies the run has,
    and how it commits (`BucketMap.commit`). Servers beat every `beat` seconds; one that misses its beats for `failover`
    seconds is replaced.

    With a `controller` (`parse_etcd`) no server is the first: they find each other in etcd, which elects the
    coordinator. All of them get `servers`, `copies` and `commit`, and none gets `join`.
    """

    listen: str
    advertise: str | None = None
    join: str | None = None
    servers: int = 1
    keys: Keys | None = None
    snapshots: Path | None = None
    seconds: float = 1.0
    address_file: Path | None = None
    patience: float = 60.0  # as for a replica: the parts of a run may be started in any order
    wait: float = 3600.0
    copies: int = 1
    commit: str = COMMIT_COPIED
    copies_listen: str | None = None
    beat: float = 0.1
    failover: float = 0.5
    controller: EtcdPlace | None = None


def serve_parameters(
    spec: ServerSpec, stop: Callable[[], bool], tell: Callable[[str], None], note: Callable[[str], None] | None = None
) -> bool:  # fmt: skip
    """Serve until `stop` returns True or the run ends; return whether the run is done.

    `tell` and `note` get lines for the user (`Announcements`).

    Raises AdamError: for wrong settings before it serves, and when the run has had no replica for `spec.wait` seconds.
    """
    address = parse_place(spec.listen, "--listen", 0)
    if spec.advertise is None and _is_everywhere(address):
        raise SettingsError(f"listening on {address}: say with --advertise HOST:PORT where others find this server")
    first = parse_place(spec.join, "--join") if spec.join is not None else None
    if first is not None:
        _check_other(first, address, spec.advertise)
    _check_controller(spec)
    with contextlib.ExitStack() as held:
        if spec.snapshots is not None:
            lock = _hold(spec.snapshots)
            held.callback(lock.close)
            if lock.trouble is not None:
                tell(lock.trouble)
        return _serve(spec, address, first, stop, tell, note or tell)


def _serve(
    spec: ServerSpec, address: Place, first: Place | None, stop: Callable[[], bool], tell: Callable[[str], None],
    note: Callable[[str], None],
) -> bool:  # fmt: skip
    facts = read_facts(spec.snapshots) if spec.snapshots is not None else {}
    identity = int(facts.get("identity", 0)) or new_identity()
    coordinator = None
    if first is None and spec.controller is None:
        coordinator = _make_coordinator(spec, facts.get("coordinator"))
    tell_once = functools.cache(lambda: tell("compiling kernels, once for this machine"))
    compile_kernels("float32", lambda done, total: tell_once())
    with contextlib.ExitStack() as ends:
        listener = SocketListener(address, spec.keys)
        ends.callback(listener.close)
        at_address = _advertised(spec.advertise, listener.address)
        snapshots = SnapshotFolder(spec.snapshots, spec.seconds) if spec.snapshots is not None else None
        at = coordinator or _find_coordinator(spec, first, Elected(identity, at_address), facts, stop, ends)
        if at is None:
            return False
        if spec.snapshots is not None:
            _try_folder(spec.snapshots, {**facts, "identity": identity})
        copies = _open_copies(spec, address, listener, ends) if spec.copies > 1 else None
        loop = make_loop(listener, at_address, identity, at, snapshots, tell, copies=copies, note=note)
        ends.callback(loop.close)
        _announce(spec, listener, coordinator is not None, tell)
        outcome = loop.run(stop, spec.patience, spec.wait)
        if isinstance(at, Elections):
            _leave_etcd(at, loop, outcome, spec, tell)
        view, coordinator = loop.server.view, loop.service.coordinator if loop.service is not None else None
        if outcome == ALONE and coordinator is not None:
            how = how_it_ends(view, coordinator, spec)
            raise TransportError(f"waited {spec.wait:g} s for {coordinator.awaited}: {how}")
        if outcome == STOPPED:
            tell(f"stopped: {how_it_ends(view, coordinator, spec)}")
        return outcome not in (ALONE, STOPPED)


def _check_controller(spec: ServerSpec) -> None:
    """Raise SettingsError if the settings do not go together with a controller in etcd."""
    if spec.controller is None:
        return
    if spec.join is not None:
        raise SettingsError("--join is not for servers with --controller: they find each other in etcd")
    if min(spec.copies, spec.servers) == 1:
        raise SettingsError("--controller is for servers with copies; give --copies N and --servers N too, above 1")


def _find_coordinator(
    spec: ServerSpec, first: Place | None, me: Elected, facts: dict[str, Any], stop: Callable[[], bool],
    ends: contextlib.ExitStack,
) -> CoordinatorLink | Elections | None:  # fmt: skip
    """Return the way to the run's coordinator; None if `stop` returned True meanwhile. `ends` has what ends it."""
    dialer = SocketDialer(spec.keys)
    ends.callback(dialer.close)
    if first is not None:
        return CoordinatorLink(dialer, first, me.identity)
    assert spec.controller is not None
    fresh = Record(new_identity(), spec.servers, min(spec.copies, spec.servers), spec.commit)
    controller = open_controller(spec.controller, me, fresh, int(facts.get("run", 0)), stop)
    if controller is None:
        return None
    ends.callback(controller.close)
    return Elections(controller, lambda place: CoordinatorLink(dialer, place, me.identity))


def _leave_etcd(at: Elections, loop: ServerLoop, outcome: str, spec: ServerSpec, tell: Callable[[str], None]) -> None:
    """Leave the coordinator's part to another server; remove the run's keys if nobody needs them any more."""
    alone = loop.service is not None and loop.service.coordinator.map is None and spec.snapshots is None
    at.controller.close(forget=outcome not in (STOPPED, ALONE) or alone)
    if at.controller.keeper.trouble:
        tell(f"the run's keys may be left in etcd: {at.controller.keeper.trouble}")


def _open_copies(spec: ServerSpec, address: Place, server: SocketListener, ends: contextlib.ExitStack) -> CopyPlace:
    """Listen for copies, and start the thread that sends and takes them; `ends` has what ends it."""
    place, known = _place_for_copies(spec, address)
    try:
        listener = SocketListener(place, spec.keys)
    except TransportError as error:
        raise TransportError(str(error).replace("--listen", "--copies-listen")) from None
    path = CopyThread(listener, spec.keys, spec.beat, spec.beat + spec.failover)
    ends.callback(path.close)
    at = listener.address
    if known is not None and isinstance(at, Address):
        at = Address(known, at.port)
    settings = CopySettings(patience=spec.beat + spec.failover)
    return CopyPlace(str(at), path, settings, lambda seconds: server in server.wait(seconds, [path.heard]))


def _place_for_copies(spec: ServerSpec, address: Place) -> tuple[Place, str | None]:
    """Return where to listen for copies, and the host by which others find that, None for the same."""
    if spec.copies_listen is not None:
        place = parse_place(spec.copies_listen, "--copies-listen", 0)
    elif isinstance(address, Address):
        place = Address(address.host, 0)
    else:
        raise SettingsError("--copies on a socket file: say with --copies-listen unix:FILE where to take copies")
    if not isinstance(place, Address) or not (spec.copies_listen is None or _is_everywhere(place)):
        return place, None
    if spec.advertise is None:
        if _is_everywhere(place):
            raise SettingsError(
                f"--copies-listen {place}: say with --advertise HOST:PORT where others find this server"
            )
        return place, None
    advertised = parse_place(_advertised(spec.advertise, address), "--advertise", 0)
    return place, advertised.host if isinstance(advertised, Address) else None


def _announce(spec: ServerSpec, listener: SocketListener, coordinates: bool, tell: Callable[[str], None]) -> None:
    """Show where this server listens, and write it to the address file."""
    role = "coordinator and parameter server" if coordinates else "parameter server"
    tell(f"{role} on {listener.address}")
    if coordinates and spec.copies > spec.servers:
        tell(f"--copies is {spec.copies}, --servers {spec.servers}: all servers have all weights")
    if spec.keys is None and isinstance(listener.address, Address):
        tell(open_notice(listener.address, "join the run, read its weights and change them"))
    if spec.address_file is not None:
        _write_address(spec.address_file, str(listener.address))


def how_it_ends(view: RunView, host: Coordinator | None, spec: ServerSpec) -> str:
    """Say how far the run is when a server stops, and how to go on; `host` is the coordinator if the server has it."""
    if view.phase == "done":
        return f"the run is done, but replicas have not left: {view.replicas}; their last updates may be lost"
    if view.phase == "waiting":
        return "the run has not begun; the same command starts this server again"
    epoch = (
        f" (epoch {host.course.epoch + 1} of {host.course.facts.epochs})"
        if host is not None and host.course.facts is not None
        else ""
    )
    if spec.snapshots is not None:
        return f"the run is not done{epoch}; this server's state is in {spec.snapshots}; go on with the same command"
    return (
        f"the run is not done{epoch}, and this server has no --snapshots, so its state is lost; the same command "
        "starts it again, and replicas that still run give it what they have"
    )


def _make_coordinator(spec: ServerSpec, kept: dict[str, Any] | None) -> Coordinator:
    """Return a new coordinator, or one restored from the snapshot `kept`; raises RunDoneError or RefusedError.

    A run that is done may have replicas that still validate, and need the coordinator until they leave.
    """
    if not kept:
        return Coordinator(new_identity(), spec.servers, copies=spec.copies, commit=spec.commit)
    host = Coordinator.restored(kept)
    if host.over:
        raise RunDoneError(f"{spec.snapshots} holds a run that is done; name another folder")
    return host


def _is_everywhere(place: Place) -> bool:
    """Whether a place means all addresses of this machine."""
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
    """Whether two addresses share a port and a network address, so that one cannot dial the first from `own`."""
    if first.port != own.port:
        return False
    try:
        return bool({*first.numbers()} & {*own.numbers()}) or (_is_everywhere(own) and first.is_loopback)
    except OSError:
        return first.host == own.host


def _hold(folder: Path) -> FolderLock:
    """Make the snapshot folder if it is missing, and lock it. Raises RunFolderError if another process uses it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(folder, needed=False)
    except FolderHeldError as error:
        raise RunFolderError(
            f"snapshot folder {folder} is in use by {error.holder}; give each server a folder of its own"
        ) from None
    except OSError as error:
        raise _unwritable(folder, error) from None
    lock.sign()
    return lock


def _try_folder(folder: Path, facts: dict[str, Any]) -> None:
    """Write `identity.json`, so that a folder that cannot be written raises RunFolderError before the server serves."""
    try:
        write_facts(folder, facts)
    except OSError as error:
        raise _unwritable(folder, error) from None


def _unwritable(folder: Path, error: OSError) -> RunFolderError:
    return RunFolderError(f"cannot write {folder}: {error.strerror}; name another folder for snapshots")


def _write_address(file: Path, address: str) -> None:
    try:
        write_file(file, address.encode())
    except OSError as error:
        raise SettingsError(f"cannot write {file}: {error.strerror}; name another --address-file") from None


def _advertised(text: str | None, bound: Place) -> str:
    """Return where others find the server; if `text` has no port, it gets the one that the server listens on."""
    if text is None:
        return str(bound)
    if ":" not in text and isinstance(bound, Address):
        text = f"{text}:{bound.port}"
    return str(parse_address(text, "--advertise"))


def serve_for_supervisor(spec: ServerSpec) -> None:
    """Run a server as a supervisor's child; its lines go to standard error, which the supervisor keeps in a file.

    The supervisor shows the user those that begin with NOTE.
    If the server died when all replicas had left and is started again, its snapshot says so: it just ends.
    """
    with contextlib.suppress(RunDoneError):
        serve_parameters(
            spec, lambda: False, standard_error().say, lambda line: standard_error().say(NOTE + one_line(line))
        )

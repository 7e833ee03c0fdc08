"""How a server finds its run in etcd: it begins one, or finds the coordinator of one that fits its settings."""

from __future__ import annotations

import time
from collections.abc import Callable

from adam_mp.errors import SettingsError
from adam_mp.params.controller.etcd import Etcd, EtcdError
from adam_mp.params.controller.keeper import Keeper
from adam_mp.params.controller.keeper_thread import KeeperThread
from adam_mp.params.controller.place import EtcdPlace
from adam_mp.params.controller.record import Elected, Record, RecordError

_ANSWER = 3.0  # seconds that etcd has to answer for the first time
_ABANDONED = 12.0  # seconds after which a run without a coordinator has no living server: an election takes 4
_LOOK = 0.02  # seconds


def open_controller(
    place: EtcdPlace, me: Elected, fresh: Record, run: int, stop: Callable[[], bool]
) -> KeeperThread | None:  # fmt: skip
    """Return the controller of the run at `place`, once it has a coordinator; None if `stop` returned True before.

    `fresh` is the run that is begun if there is none yet, `run` the one that the server's snapshots are of, 0 for none.
    Raises SettingsError if etcd does not answer or has a run that does not fit, and RecordError or EtcdError later.
    """
    etcd = Etcd(place)
    keeper = Keeper(etcd, me, fresh, run)
    try:
        etcd.check(_ANSWER)
        keeper.look(time.monotonic())
        _check_run(place, keeper.record, fresh, run)
    except BaseException as error:
        etcd.close()
        if isinstance(error, EtcdError | RecordError):
            raise SettingsError(f"--controller: {error}") from None
        raise
    thread = KeeperThread(keeper, etcd)
    try:
        is_found = _wait(thread, place, fresh, run, stop)
    except BaseException:
        thread.close()
        raise
    if not is_found:
        thread.close()
        return None
    return thread


def _wait(thread: KeeperThread, place: EtcdPlace, fresh: Record, run: int, stop: Callable[[], bool]) -> bool:
    """Wait for a coordinator of the run; return False if `stop` returned True. Raises SettingsError."""
    keeper, began = thread.keeper, time.monotonic()
    while not stop():
        thread.check()
        if keeper.leads or (keeper.elected is not None and keeper.elected != keeper.me):
            _check_run(place, keeper.record, fresh, run)
            return True
        if time.monotonic() - began > _ABANDONED:
            if keeper.trouble:
                raise SettingsError(f"--controller: {keeper.trouble}")
            raise SettingsError(
                f"etcd has the keys of run {keeper.record.run if keeper.record else 0:x}, of which no server lives; "
                f"{_remedy(place)}"
            )
        time.sleep(_LOOK)
    return False


def _check_run(place: EtcdPlace, record: Record | None, fresh: Record, run: int) -> None:
    """Raise SettingsError if the run in etcd is not that of this server."""
    if record is None:
        if run:
            raise SettingsError(
                f"the snapshots here are of run {run:x}, of which etcd has no keys: it is done, or etcd has lost them; "
                "name another folder for snapshots"
            )
        return
    if run not in (0, record.run):
        raise SettingsError(
            f"etcd has the keys of run {record.run:x}, the snapshots here are of run {run:x}; {_remedy(place)}"
        )
    for name in ("servers", "copies", "commit"):
        ours, theirs = getattr(fresh, name), getattr(record, name)
        if ours != theirs:
            raise SettingsError(
                f"--{name} is {ours}, the run in etcd under /{place.name} has {theirs}; give the same, or, if that is "
                f"another run, {_remedy(place)}"
            )


def _remedy(place: EtcdPlace) -> str:
    return (
        f"name this run otherwise (--controller etcd://.../NAME), or remove them: etcdctl del --prefix {place.prefix}"
    )

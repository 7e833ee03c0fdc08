"""The leader's part in a group over machines: it waits for the other partitions, and tells them how the run ended."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
from collections.abc import Callable, Iterator

from adam_mp.errors import AdamError, PlaceError, refusal
from adam_mp.partitions.frames import space_names
from adam_mp.partitions.leader_side import PartitionLostError, Partitions
from adam_mp.partitions.statements import BEGINS_AGAIN, FAILED, IS_DONE
from adam_mp.training.group.task import task_of
from adam_mp.training.plan.run_plan import RunPlan
from adam_mp.transport.addresses import Address
from adam_mp.transport.keys import read_keys
from adam_mp.transport.places import Place, parse_place
from adam_mp.transport.socket_files import SocketFile

WAITING = 600.0  # seconds for which partitions and leader wait for each other


@contextlib.contextmanager
def gathered(
    plan: RunPlan, stop: Callable[[], bool], say: Callable[[str], None], begins_again: Callable[[], bool]
) -> Iterator[RunPlan]:  # fmt: skip
    """Wait until all partitions have joined; return the plan with them. On leaving, they are told how the run ended.

    `begins_again` returns whether a run that has lost a partition goes on from a checkpoint.

    Raises TransportError if one does not come, StoppedError if `stop` returns True.
    """
    settings = plan.settings
    assert settings.listen is not None, "partition 1/P listens"
    place = parse_place(settings.listen, "--listen")
    partitions = Partitions(
        place, read_keys(settings.key_file), plan.parts, task_of(plan), str(courier_place(place, 1)),
        space_names(plan.state_names), "" if settings.key_file is None else f" --key-file {settings.key_file}",
    )  # fmt: skip
    try:
        partitions.gather(WAITING, stop, say)
        yield dataclasses.replace(plan, elsewhere=partitions)
        partitions.end(IS_DONE if not stop() else FAILED, "" if not stop() else "the leader was stopped")
    except PartitionLostError as error:
        partitions.end(BEGINS_AGAIN if begins_again() else FAILED, str(error))
        raise
    except AdamError as error:
        partitions.end(FAILED, str(error))
        raise
    except BaseException as error:
        partitions.end(FAILED, f"the leader ended: {type(error).__name__}")
        raise
    finally:
        partitions.close()


def courier_place(beside: Place, further: int = 0) -> Place:
    """Return a free place for a courier to listen: a port on the same host, or a socket file in the same folder.

    The port is `further` ports from that of `beside` if that is free, and `further` is not 0; else the system chooses.

    Raises PlaceError if this machine does not have the host's address.
    """
    if isinstance(beside, SocketFile):
        return SocketFile(beside.path.with_name(f"{beside.path.name}-courier"))
    family = socket.AF_INET6 if beside.is_version_6 else socket.AF_INET
    try:
        if further:
            with contextlib.suppress(OSError, OverflowError), socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((beside.host, beside.port + further))
                return Address(beside.host, beside.port + further)
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((beside.host, 0))
            return Address(beside.host, probe.getsockname()[1])
    except OSError as error:
        raise PlaceError(f"cannot listen on {beside}: {refusal(error)}; choose another --listen") from None

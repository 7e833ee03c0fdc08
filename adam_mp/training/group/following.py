"""The supervisor of a partition that is on a machine of its own: `train --join HOST:PORT --partition 2/4`.

It joins the leader, makes the memory that the leader's settings ask for, and starts the member and the courier. The
leader fills in the weights. If the leader is lost, or begins again because another partition is, this one begins again
too, and waits for the leader: the weights come from its checkpoint then.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adam_mp import __version__
from adam_mp.compute.shares import shares_of
from adam_mp.compute.views import parse_views
from adam_mp.errors import AdamError, SettingsError, StoppedError, TransportError, flag_of
from adam_mp.kernels.compilation import compile_kernels
from adam_mp.kernels.finite import all_finite
from adam_mp.memory.board import TRAIN
from adam_mp.memory.group import GroupMemory
from adam_mp.memory.ring import RingShape
from adam_mp.memory.run_memory import RunMemory, RunShape
from adam_mp.memory.segment import check_space
from adam_mp.memory.store import ParameterStore
from adam_mp.network.traffic import input_rows
from adam_mp.partitions.courier import CourierSpec
from adam_mp.partitions.own_side import LeaderLine, LeaderLostError
from adam_mp.partitions.statements import (
    BEGINS_AGAIN,
    GOES_ON,
    IS_DONE,
    Exchanged,
    PartJoining,
    PartOrders,
    PartReport,
    PartWelcome,
)
from adam_mp.process.interruption import EXIT_CODES, Interruption
from adam_mp.training.crew.copies import move_own_average
from adam_mp.training.crew.crew import Crew, courier_of
from adam_mp.training.group.exchanging import PartExchange, exchange_bytes
from adam_mp.training.group.gathering import WAITING, courier_place
from adam_mp.training.group.task import PartTask
from adam_mp.training.plan.calibration import STATISTICS, calibration_fields
from adam_mp.training.plan.memory_need import CHILD_BYTES, bytes_of_member
from adam_mp.training.plan.run_plan import state_names
from adam_mp.training.settings.averages import AVERAGE, parse_average
from adam_mp.training.settings.combinations import parse_partition
from adam_mp.training.settings.rates import parse_rates
from adam_mp.training.settings.settings import TrainSettings
from adam_mp.training.worker.spec import PartSpec, WorkerSpec
from adam_mp.transport.addresses import Address
from adam_mp.transport.keys import read_keys
from adam_mp.transport.places import Place, parse_place
from adam_mp.transport.socket_files import SocketFile

_OWN = ("partition", "join", "key_file", "listen", "memory_dir", "restarts")  # settings of a partition's own
_LOOK = 0.005
_LEAVING = 10.0  # seconds for which a partition that is asked to stop waits for the leader's own end


def follows(given: Mapping[str, Any]) -> bool:
    """Return whether settings ask for a partition that follows a leader; raises SettingsError if they are malformed."""
    partition = given.get("partition")
    return isinstance(partition, str) and partition != "none" and parse_partition(partition)[0] > 1


def follow(given: Mapping[str, Any], say: Callable[[str], None]) -> int:
    """Train a partition until the run is done, and return 0; return 128 plus its number if a signal ended it.

    Raises SettingsError for settings that the leader has to give, JoinError if the leader refuses, TransportError if it
    does not answer or its run fails, ProcessError if the member dies too often.
    """
    settings = _settings(given)
    assert settings.join is not None
    assert settings.partition is not None
    leader, keys = parse_place(settings.join, "--join"), read_keys(settings.key_file)
    number, parts = parse_partition(settings.partition)
    compile_kernels("float32")
    with Interruption() as interruption:

        def stop() -> bool:
            return interruption.requested is not None

        while True:
            courier, name = _own_place(settings, leader), f"{socket.gethostname()}-{os.getpid()}"
            line = LeaderLine(leader, keys, PartJoining(number, parts, __version__, name, str(courier)))
            try:
                orders = _train(line, line.join(WAITING, stop, say), settings, stop, say)
            except LeaderLostError as error:
                say(f"{error}; waiting for it, to begin again from its checkpoint")
                continue
            except StoppedError:
                line.leave()
                say(
                    f"{interruption.requested}: partition {settings.partition} leaves; the leader waits for a successor"
                )
                return EXIT_CODES[interruption.requested or "SIGINT"]
            finally:
                line.close()
            if orders.state == IS_DONE:
                say("the run is done")
                return 0
            if orders.state != BEGINS_AGAIN:
                raise TransportError(f"the run ended: {orders.why}")
            say(f"{orders.why}; beginning again from the leader's checkpoint")


def _settings(given: Mapping[str, Any]) -> TrainSettings:
    for name in given:
        if name not in _OWN:
            raise SettingsError(
                f"{flag_of(name)} is given with --partition {given['partition']}; the leader's settings count: give it "
                "to partition 1"
            )
    return TrainSettings(**given)


def _own_place(settings: TrainSettings, leader: Place) -> Place:
    """Return where this partition's courier listens: as --listen says, or on the address that leads to the leader."""
    if settings.listen is not None:
        return parse_place(settings.listen, "--listen")
    if not isinstance(leader, Address):
        return SocketFile(leader.path.with_name(f"{leader.path.name}-{os.getpid()}"))
    family = socket.AF_INET6 if leader.is_version_6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((leader.host, leader.port))
            return courier_place(Address(probe.getsockname()[0], 0))
    except socket.gaierror:
        raise SettingsError(f"--join is {leader}, and nobody knows this name here; give an address") from None
    except OSError as error:
        raise SettingsError(f"no way leads to --join {leader}: {error.strerror}; give --listen HOST:PORT too") from None


def _train(
    line: LeaderLine, welcome: PartWelcome, settings: TrainSettings, stop: Callable[[], bool],
    say: Callable[[str], None],
) -> PartOrders:  # fmt: skip
    """Do what the leader says until the run ends; return its last orders. The leader hears why this cannot go on."""
    assert settings.partition is not None
    try:
        task = PartTask.read(welcome.task, parse_partition(settings.partition)[0] - 1)
        with _Partition(task, settings, welcome.run, say) as partition:
            say(f"partition {settings.partition} of {task.network.name} joined {line.place}")
            return _serve(line, partition, stop)
    except (LeaderLostError, StoppedError):
        raise
    except AdamError as error:
        _tell_fault(line, str(error))
        raise


def _serve(line: LeaderLine, partition: _Partition, stop: Callable[[], bool]) -> PartOrders:
    leaves_at: float | None = None
    while True:
        orders = line.step(PartReport(ready=True, exchanged=partition.exchanged), partition, _LOOK)
        if stop():
            # The leader may have been asked to stop too, and needs this partition's weights for its checkpoint.
            leaves_at = leaves_at or time.monotonic() + _LEAVING
            if time.monotonic() > leaves_at:
                raise StoppedError("interrupted")
        if orders.state != GOES_ON:
            return orders
        if orders.places:
            partition.train(orders)


class _NoSpaces:
    """The spaces of a partition that has none: it only tells the leader why."""

    def read(self, space: int, begin: int, end: int) -> np.ndarray:
        return np.zeros(0, np.float32)

    def write(self, space: int, begin: int, values: np.ndarray) -> None: ...

    def are_finite(self) -> bool:
        return False

    def average(self, share: float) -> None: ...

    def note_updates(self, updates: int) -> None: ...


def _tell_fault(line: LeaderLine, fault: str) -> None:
    deadline = time.monotonic() + 2.0
    with contextlib.suppress(AdamError):
        while time.monotonic() < deadline:
            line.step(PartReport(ready=False, fault=fault[:400]), _NoSpaces(), _LOOK)


class _Partition:
    """The memory and processes of this machine. Use as a context manager: leaving it ends all of them."""

    def __init__(self, task: PartTask, settings: TrainSettings, run: int, say: Callable[[str], None]) -> None:
        self._task, self._settings, self._run, self._say = task, settings, run, say
        self._crew: Crew | None = None
        self._exchange: PartExchange | None = None
        asked = task.settings
        self._shares = shares_of(task.network.parameters, asked.decay_all, parse_rates(asked.rates))

    def __enter__(self) -> _Partition:
        task, folder = self._task, self._settings.memory_dir
        folder = None if folder is None else Path(folder)
        average = parse_average(task.settings.average, task.settings.epochs)
        states = state_names(task.settings, task.optimizer)
        layout, shape = task.storage.part_layout(task.part), task.group_shape
        self._check_space(4 * layout.size * (1 + len(states)), GroupMemory.bytes_needed(shape, 1))
        with contextlib.ExitStack() as made:
            self._memory = RunMemory.create(self._run_shape(), folder)
            made.callback(self._memory.close)
            self._store = ParameterStore.create(layout, states, folder, task.optimizer.own_states, 1)
            made.callback(self._store.close)
            self._groups = GroupMemory.create(shape, 1, folder)
            made.callback(self._groups.close)
            self._ends = made.pop_all()
        self._average = average
        statistics = self._memory.arrays.get(STATISTICS, np.zeros(0, np.float32))
        self._spaces = [self._store.weights, *self._store.states.values(), statistics]
        return self

    def __exit__(self, *_: object) -> None:
        if self._crew is not None:
            self._crew.stop()
        self._spaces.clear()
        if self._exchange is not None:
            self._exchange.close()
        self._ends.close()

    def _run_shape(self) -> RunShape:
        task = self._task
        arrays = calibration_fields(task.network, np.zeros(0, np.int64), known=True)
        return RunShape(1, 0, 1, 1, 1, RingShape(1, 1, (1, 1, 1)), arrays, helpers=2)

    def _check_space(self, store: int, group: int) -> None:
        task = self._task
        member = bytes_of_member(
            task.storage.plan, task.part, task.settings, task.choices, task.optimizer, self._shares
        )  # fmt: skip
        need = {
            "weights and optimizer state": store, "values between partitions": group,
            "gradients and activations": member, "processes": 2 * CHILD_BYTES,
        }  # fmt: skip
        if task.exchange is not None:
            need["processes"] += CHILD_BYTES
            need["the exchange with the parameter servers"] = exchange_bytes(task)
        check_space(sum(need.values()), f"partition {self._settings.partition}", None, need)

    @property
    def exchanged(self) -> Exchanged | None:
        """What this machine has exchanged with parameter servers."""
        return None if self._exchange is None else self._exchange.exchanged

    def train(self, orders: PartOrders) -> None:
        """Start the processes once all couriers listen and there are weights to exchange; replace those that died."""
        if self._task.exchange is not None and orders.exchange is None:
            return
        if self._exchange is not None and orders.exchange is not None:
            self._exchange.follow(orders.exchange)
        if self._crew is not None:
            self._crew.step()
            return
        keys = read_keys(self._settings.key_file)
        courier = courier_of(
            CourierSpec(
                process=1, part=self._task.part, memory=self._memory.handle, group=self._groups.handle(0),
                run=self._run, places=orders.places, rows=self._rows(), keys=keys,
            )
        )  # fmt: skip
        helpers, descriptors = [courier], [*self._descriptors, *self._groups.descriptors]
        if orders.exchange is not None:
            self._exchange = PartExchange(self._task, orders.exchange, self._settings.memory_dir)
            helpers.append(self._exchange.synchronizer(2, self._memory.handle, self._store.handle, keys))
            descriptors += self._exchange.descriptors
        self._crew = Crew(
            self._memory, descriptors, [self._worker()], [], self._settings.restarts,
            lambda text, *_: self._say(text), helpers, groups=self._groups,
        )  # fmt: skip
        self._crew.start()
        self._memory.board.give_order(TRAIN)

    @property
    def _descriptors(self) -> list[int]:
        return [self._memory.handle.segment.descriptor, self._store.handle.arena.segment.descriptor]

    def _rows(self) -> tuple[Any, ...]:
        plan = self._task.storage.plan
        return tuple(input_rows(plan, part) for part in range(plan.parts))

    def _worker(self) -> WorkerSpec:
        task = self._task
        settings = task.settings
        return WorkerSpec(
            process=0, memory=self._memory.handle, store=self._store.handle, network=task.network,
            choices=task.choices, pictures=None, optimizer=task.optimizer, schedule=task.schedule,
            batch_size=settings.batch_size, seed=settings.seed,
            shares=self._shares,
            label_smoothing=settings.label_smoothing, clip_norm=settings.clip_norm, average=self._average,
            views=parse_views(settings.views, task.network.input_shape),
            part=PartSpec(task.storage.plan, task.part, self._groups.handle(0), apart=True),
        )  # fmt: skip

    # The leader asks for these while the member is idle.

    def read(self, space: int, begin: int, end: int) -> np.ndarray:
        """See `own_side.Spaces`."""
        return self._place(space, begin, end)

    def write(self, space: int, begin: int, values: np.ndarray) -> None:
        """See `own_side.Spaces`."""
        self._place(space, begin, begin + len(values))[...] = values

    def _place(self, space: int, begin: int, end: int) -> np.ndarray:
        if not (0 <= space < len(self._spaces) and 0 <= begin <= end <= self._spaces[space].size):
            raise IndexError(f"numbers {begin} to {end} of space {space}")
        return self._spaces[space].reshape(-1)[begin:end]

    def are_finite(self) -> bool:
        """See `own_side.Spaces`."""
        return all_finite(self._store.weights)

    def note_updates(self, updates: int) -> None:
        """See `own_side.Spaces`."""
        self._store.set_updates(updates)
        self._store.note_average(updates)

    def average(self, share: float) -> None:
        """See `own_side.Spaces`."""
        if AVERAGE in self._store.states:
            move_own_average(self._store, share)

"""From a plan to a run's shared memory, filled with data and weights, and to what each process is told."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from adam_mp.data.serving.server import DataServerSpec
from adam_mp.errors import SpaceError
from adam_mp.memory.cache import LEFT_FREE, ImageCache
from adam_mp.memory.exchange import ExchangeMemory
from adam_mp.memory.group import GroupMemory
from adam_mp.memory.ledger import TRAINED
from adam_mp.memory.run_memory import RunMemory
from adam_mp.memory.segment import Segment
from adam_mp.memory.steps import StepMemory
from adam_mp.memory.store import ParameterStore
from adam_mp.network.initialization import draw_weights
from adam_mp.network.traffic import input_rows
from adam_mp.params.replica.factors import FactorShape, make_outboxes
from adam_mp.training.crew.copies import move_averages, note_updates, set_updates, spaces_of
from adam_mp.training.crew.crew import Helper, courier_of
from adam_mp.training.folder.checkpoint import RunState
from adam_mp.training.plan.calibration import fill_calibration
from adam_mp.training.plan.fitting import fitting_advice
from adam_mp.training.plan.memory_need import plan_outbox_slots, run_need, step_shape
from adam_mp.training.plan.run_plan import RunPlan
from adam_mp.training.settings.averages import AVERAGE
from adam_mp.training.worker.spec import PartSpec, WorkerSpec
from adam_mp.transport.keys import read_keys
from adam_mp.transport.local import ChannelHandle

if TYPE_CHECKING:
    from adam_mp.data.serving.remote import RemoteSource


@dataclasses.dataclass(frozen=True)
class Shared:
    """All memory that the processes of a run share. A field is None, or empty, if the run does not need that memory.

    `cache` has decoded images, `exchange` and `outboxes` are for a replica's synchronizer, `channels` are the workers'
    outboxes, `steps` is the memory of the steps that all workers make together, `groups` that of the groups that have
    a model in parts.
    """

    memory: RunMemory
    store: ParameterStore
    cache: ImageCache | None
    exchange: ExchangeMemory | None = None
    outboxes: Segment | None = None
    channels: tuple[ChannelHandle, ...] = ()
    steps: StepMemory | None = None
    groups: GroupMemory | None = None

    @property
    def descriptors(self) -> list[int]:
        """The open files that every process of the run inherits."""
        files = [self.memory.handle.segment.descriptor, self.store.handle.arena.segment.descriptor]
        if self.cache is not None:
            files.append(self.cache.handle.segment.descriptor)
        if self.outboxes is not None:
            files.append(self.outboxes.handle.descriptor)
        if self.steps is not None:
            files.append(self.steps.handle.segment.descriptor)
        if self.groups is not None:
            files += self.groups.descriptors
        return files if self.exchange is None else [*files, *self.exchange.descriptors]

    def close(self) -> None:
        """Free all of it; the kernel keeps what a child still maps until that child ends."""
        if self.groups is not None:
            self.groups.close()
        if self.steps is not None:
            self.steps.close()
        if self.outboxes is not None:
            self.outboxes.close()
        if self.exchange is not None:
            self.exchange.close()
        if self.cache is not None:
            self.cache.close()
        self.store.close()
        self.memory.close()


def prepare_memory(
    plan: RunPlan, factors: FactorShape | None = None, parameter_servers: int = 1, keeps: bool = True,
    copied: bool = False,
) -> Shared:  # fmt: skip
    """Make the shared memory, owned by the caller, and fill in the data set and the weights to begin with.

    `factors` are the layers whose updates go to the `parameter_servers`, so many, as activations and errors, if any do;
    `keeps` is whether the run writes checkpoints and models, `copied` whether a replica keeps its updates until copies
    of the parameter servers have them. Raises SpaceError, before any memory is taken, if there is not enough for all of
    the run.
    """
    shape = plan.run_shape
    folder = None if plan.settings.memory_dir is None else Path(plan.settings.memory_dir)
    need = run_need(plan, factors, keeps, copied)
    try:
        need.check("the run", folder, plan.data.kept_images)
    except SpaceError as error:
        apart = folder is not None or plan.is_apart
        direct = plan.optimizer.is_plain_descent and not plan.settings.clip_norm
        advice = "" if apart else fitting_advice(plan.network, len(plan.optimizer.states), direct)
        raise SpaceError(f"{error}{advice}") from None
    cache, exchange, outboxes, steps, groups = None, None, None, None, None
    channels: tuple[ChannelHandle, ...] = ()
    with contextlib.ExitStack() as made:
        memory = RunMemory.create(shape, folder)
        made.callback(memory.close)
        store = ParameterStore.create(plan.layout, plan.state_names, folder, plan.optimizer.own_states, plan.owners)
        made.callback(store.close)
        plan.data.fill(memory.arrays)
        fill_calibration(memory.arrays, plan.network, plan.data.training, plan.weights)
        _fill_store(plan, store)
        if plan.data.source is not None:
            cache = plan.data.open_cache(memory.arrays["cache_places"], folder, LEFT_FREE + need.kept)
            made.callback(cache.close)
        if plan.is_replica:
            exchange = ExchangeMemory.create(plan.held(parameter_servers), folder, copied)
            made.callback(exchange.close)
        if factors is not None:
            slots = plan_outbox_slots(plan)
            outboxes = Segment.create("outboxes", need.shared["outboxes"], folder)
            made.callback(outboxes.close)
            channels = tuple(each.handle for each in make_outboxes(outboxes, plan.split.workers, slots, factors))
        if plan.consistency.in_steps:
            steps = StepMemory.create(step_shape(plan), folder)
            made.callback(steps.close)
        if plan.partitions is not None:
            groups = GroupMemory.create(plan.group_shape, plan.groups, folder)
        made.pop_all()
    return Shared(memory, store, cache, exchange, outboxes, channels, steps, groups)


def _fill_store(plan: RunPlan, store: ParameterStore) -> None:
    """Put the weights, optimizer state and average that the run begins with straight into the store.

    An average that the checkpoint lacks begins as the weights.
    """
    has_average = False
    if plan.resumed is not None:
        has_average = AVERAGE in plan.resumed.space_names
        spaces = spaces_of(store)
        wanted = {name: spaces[name] for name in spaces if name != AVERAGE or has_average}
        plan.resumed.read_into(wanted, plan.tensors_of)
        store.share_out()
        set_updates(store, _updates_so_far(plan, plan.resumed))
        note_updates(plan, store.read_updates())
    elif plan.weights is not None:
        for name, tensor in plan.tensors_of("weights", store.weights).items():
            tensor[...] = plan.weights[name]
    else:
        draw_weights(plan.network, plan.settings.seed, plan.tensors_of("weights", store.weights), plan.data.examples)
    if plan.average is not None and not has_average:
        move_averages(plan, store, 1.0)


def _updates_so_far(plan: RunPlan, resumed: RunState) -> int:
    """Return how many updates a resumed run has behind it in its schedule.

    In the modes in which all workers make each update together, an epoch has fewer updates the more workers there are,
    and the resumed run may have another number of them. So this function counts how many updates the present workers
    would have made of the batches that are trained.
    """
    if not plan.consistency.in_steps:
        return resumed.updates
    done = int(np.count_nonzero(resumed.ledger == TRAINED))
    return resumed.epoch * plan.schedule.steps_per_epoch + done // plan.split.workers


def make_specs(
    plan: RunPlan, shared: Shared, factors: FactorShape | None = None
) -> tuple[list[WorkerSpec], list[DataServerSpec]]:
    """Return what each worker and each data server is told. Rows of the board are numbered in this order."""
    settings = plan.settings
    pictures = plan.data.pictures(None if shared.cache is None else shared.cache.handle)
    remote = _remote_source(plan)
    workers = [
        WorkerSpec(
            process=number,
            memory=shared.memory.handle,
            store=shared.store.handle,
            network=plan.network,
            choices=plan.choices,
            pictures=pictures,
            optimizer=plan.optimizer,
            schedule=plan.schedule,
            batch_size=settings.batch_size,
            seed=settings.seed,
            shares=plan.shares,
            factors=factors,
            outbox=shared.channels[number] if shared.channels else None,
            bound=plan.consistency.bound,
            steps=None if shared.steps is None else shared.steps.handle,
            label_smoothing=settings.label_smoothing,
            clip_norm=settings.clip_norm,
            average=plan.average,
            views=plan.views,
            part=_part_of(plan, shared, number),
        )
        for number in range(plan.split.workers)
    ]
    data_servers = [
        DataServerSpec(
            process=plan.split.workers + number,
            memory=shared.memory.handle,
            batch_size=settings.batch_size,
            seed=settings.seed,
            pictures=pictures,
            remote=remote,
            mixing=plan.mixing,
        )
        for number in range(plan.split.data_servers)
    ]
    return workers, data_servers


def _part_of(plan: RunPlan, shared: Shared, worker: int) -> PartSpec | None:
    """Return which part of the model a worker has, None if it has all."""
    if plan.partitions is None or shared.groups is None:
        return None
    here = plan.parts_here
    return PartSpec(plan.partitions, worker % here, shared.groups.handle(worker // here), plan.is_apart)


def leaders_courier(plan: RunPlan, shared: Shared) -> Helper:
    """Return the courier of the leader's machine, where partitions on other machines have joined."""
    from adam_mp.partitions.courier import CourierSpec

    assert plan.elsewhere is not None
    assert plan.partitions is not None
    assert shared.groups is not None
    return courier_of(
        CourierSpec(
            process=plan.split.workers + plan.split.data_servers + plan.is_replica,
            part=0,
            memory=shared.memory.handle,
            group=shared.groups.handle(0),
            run=plan.elsewhere.run,
            places=plan.elsewhere.places,
            rows=tuple(input_rows(plan.partitions, part) for part in range(plan.parts)),
            keys=read_keys(plan.settings.key_file),
        )
    )


def _remote_source(plan: RunPlan) -> RemoteSource | None:
    """Return which data servers on other machines make the pictures, None if those of this machine do."""
    settings, dataset = plan.settings, plan.data.dataset
    if settings.data_from is None:
        return None
    from adam_mp.data.serving.remote import RemoteSource

    addresses = tuple(settings.data_from.split(","))
    return RemoteSource(
        addresses, read_keys(settings.key_file), dataset.digest, dataset.image_shape, dataset.count,
        classes=dataset.class_names,
    )  # fmt: skip

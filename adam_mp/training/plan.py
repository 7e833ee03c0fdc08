"""From settings to a plan: everything is checked and decided here, before any process starts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adam_mp.compute.choice import KernelChoices, likely_choices
from adam_mp.compute.measurement import choose_kernels
from adam_mp.compute.optimizer import Optimizer, make_optimizer
from adam_mp.data.dataset import DataSet
from adam_mp.errors import RunFolderError, SettingsError
from adam_mp.kernels.compilation import compile_kernels
from adam_mp.machine import usable_cores
from adam_mp.memory.layout import Layout
from adam_mp.memory.ring import RingShape
from adam_mp.memory.run_memory import RunShape
from adam_mp.memory.segment import check_space
from adam_mp.network.description import load_network
from adam_mp.network.initialization import initial_weights
from adam_mp.network.network import Network
from adam_mp.params.protocols import choose_protocols
from adam_mp.training.checkpoint import Checkpoint, read_checkpoint
from adam_mp.training.consistency import Consistency, parse_consistency
from adam_mp.training.data_plan import DataPlan, load_dataset, plan_data
from adam_mp.training.events import KernelCompiled, Listener, Notice
from adam_mp.training.run_folder import GIVEN, read_record
from adam_mp.training.schedule import Schedule
from adam_mp.training.settings import FIELDS, TrainSettings, make_settings
from adam_mp.training.split import Costs, Split, divide_cores, measure_costs
from adam_mp.transport.addresses import check_joining, parse_address

_RING_BYTES = 64 << 20  # at most this much read ahead per ring, but never fewer than two slots
_MOST_SLOTS = 16
_BATCH_LIMIT = 1 << 20
_RECEIVED = 8  # workers whose batches from other machines one process receives
_SERVED = 8  # workers for whom one process augments images that are in memory
# A resumed run must keep these: they decide what the samples, batches and optimizer state of a checkpoint mean.
_FIXED = ("model", "data", "image_size", "validation", "batch_size", "seed", "optimizer")


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """All decisions of a run. `weights` are its first weights by name; `resumed` the checkpoint it goes on from.

    `share` is which of how many replicas on this machine this is.
    """

    settings: TrainSettings
    network: Network
    data: DataPlan
    optimizer: Optimizer
    schedule: Schedule
    split: Split
    choices: KernelChoices
    costs: Costs
    cores: int
    weights: Mapping[str, np.ndarray]
    resumed: Checkpoint | None
    share: tuple[int, int] = (0, 1)

    @property
    def batches(self) -> int:
        """Batches of an epoch."""
        return math.ceil(len(self.data.training) / self.settings.batch_size)

    @property
    def layout(self) -> Layout:
        """The layout of weights and optimizer state."""
        return Layout.of(self.network.parameters)

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with to be resumed under this plan."""
        settings = self.settings
        return {
            "data_digest": self.data.dataset.digest,
            "validation": settings.validation,
            "batch_size": settings.batch_size,
            "seed": settings.seed,
            "optimizer": settings.optimizer,
        }

    @property
    def consistency(self) -> Consistency:
        """How the workers keep together."""
        return parse_consistency(self.settings.consistency)

    @property
    def is_replica(self) -> bool:
        """Whether the weights are exchanged with parameter servers."""
        return self.settings.join is not None or self.settings.servers is not None

    @property
    def run_shape(self) -> RunShape:
        """The sizes of the shared memory."""
        data, batch = self.data, self.settings.batch_size
        slot = RingShape(1, batch, self.network.input_shape).slot_bytes
        slots = max(2, min(_MOST_SLOTS, _RING_BYTES // slot))
        evaluated = max(len(data.validation), len(data.test))
        return RunShape(
            self.split.workers, self.split.data_servers, self.batches, math.ceil(evaluated / batch),
            len(data.training), RingShape(slots, batch, self.network.input_shape), data.fields,
            int(self.is_replica), self.consistency.in_steps,
        )  # fmt: skip

    @property
    def store_bytes(self) -> int:
        """Bytes of weights and optimizer state."""
        return 4 * self.layout.size * (1 + len(self.optimizer.states))


def make_plan(explicit: Mapping[str, Any], listener: Listener) -> RunPlan:
    """Check everything and decide; `explicit` are the settings that were given, the rest have their defaults.

    Raises a child of AdamError for anything that cannot work. Compiles kernels that are not cached, telling `listener`.
    """
    settings = make_settings(explicit)
    for text in (settings.join, *(settings.data_from or "").split(",")):
        if text:
            check_joining(parse_address(text, "the address"), settings.key_file is not None)
    resumed = None
    if settings.resume:
        settings, resumed = _resume_settings(settings, explicit)
    optimizer = make_optimizer(settings.optimizer)
    if not isinstance(settings.data, DataSet) and isinstance(settings.data, str) and not settings.data:
        raise SettingsError("data is empty; expected a folder, or 'mnist'")
    dataset = _load_with_kernels(settings, listener)
    source = resumed.network if resumed and "model" not in explicit else settings.model
    network = load_network(source, dataset.image_shape, dataset.classes)
    if settings.batch_size > _BATCH_LIMIT:
        raise SettingsError(f"batch_size is {settings.batch_size}; expected at most {_BATCH_LIMIT}")
    cores = max(1, (settings.cores or usable_cores()) // settings.replicas)
    data = plan_data(
        dataset, settings, resumed.normalization if resumed else None, min(cores, usable_cores()), listener
    )
    settings = dataclasses.replace(settings, batch_size=min(settings.batch_size, len(data.training)))
    store_bytes = 4 * network.parameter_count * (1 + len(optimizer.states))
    # Weights stand in this process, in the store, and as a gradient in at least one worker.
    check_space(store_bytes + 2 * 4 * network.parameter_count, f"network {network.name!r}")
    choose_protocols(network, 1, 1, settings.protocol, optimizer.is_plain_descent)  # raises what it would raise later
    weights = initial_weights(network, settings.seed)
    choices = _recorded_choices(settings) if resumed else None
    timeless = parse_consistency(settings.consistency).timeless
    choices = choices or (likely_choices(network) if timeless else choose_kernels(network, settings.batch_size))
    costs = measure_costs(network, weights, data, settings.batch_size, choices)
    if cores > usable_cores():
        listener(
            Notice(f"{cores} cores asked for, but only {usable_cores()} are usable here: processes will share them")
        )
    split = _split(settings, cores, costs, data.source is not None)
    assert settings.lr is not None, "settings fill in the optimizer's own"
    together = split.workers if parse_consistency(settings.consistency).in_steps else 1
    schedule = Schedule(settings.lr, settings.epochs, math.ceil(len(data.training) / (settings.batch_size * together)))
    schedule.check()
    plan = RunPlan(
        settings=settings,
        network=network,
        data=data,
        optimizer=optimizer,
        schedule=schedule,
        split=split,
        choices=choices,
        costs=costs,
        cores=cores,
        weights=weights,
        resumed=resumed,
    )
    if resumed:
        _check_same_run(plan, resumed)
    return plan


def _split(settings: TrainSettings, cores: int, costs: Costs, reads_files: bool) -> Split:
    """Divide the cores; where other machines make the batches, a process here receives those of eight workers.

    Where nothing may hang on a measurement there is a worker for each core, and a rule for data servers.
    """
    assert not isinstance(settings.data_servers, str), "settings turn 'auto' into None"
    if parse_consistency(settings.consistency).timeless:
        return Split(cores, settings.data_servers or (cores if reads_files else math.ceil(cores / _SERVED)))
    if settings.data_from is not None:
        return Split(cores, settings.data_servers or math.ceil(cores / _RECEIVED))
    return divide_cores(cores, costs, settings.epochs, settings.data_servers)


def _load_with_kernels(settings: TrainSettings, listener: Callable[[Any], None]) -> DataSet:
    compile_kernels("float32", lambda done, total: listener(KernelCompiled(done, total)))
    return load_dataset(settings)


def _recorded_choices(settings: TrainSettings) -> KernelChoices | None:
    """Return the kernels a run to be resumed has used so far: others would round differently."""
    assert settings.folder is not None
    try:
        return KernelChoices.from_dict(read_record(settings.folder)["plan"]["kernels"])
    except (KeyError, TypeError, ValueError):
        return None


def _resume_settings(settings: TrainSettings, explicit: Mapping[str, Any]) -> tuple[TrainSettings, Checkpoint]:
    """Take the settings of the run in the folder, and over them what was given now."""
    folder = settings.folder
    assert folder is not None
    if not folder.is_dir():
        raise RunFolderError(f"run folder {folder} does not exist; give the folder of the run to resume")
    record = read_record(folder)
    stored = {name: value for name, value in record["settings"].items() if name in FIELDS}
    for name in _FIXED:
        given = explicit.get(name)
        if name in ("model", "data") and not isinstance(given, (str, Path)):
            continue  # objects are compared by what they are, in _check_same_run
        if given is not None and stored.get(name) != (str(given) if isinstance(given, Path) else given):
            raise RunFolderError(
                f"run folder {folder} belongs to a run with {name} {stored.get(name)!r}, not {given!r}; "
                f"leave {name} out, or name another folder"
            )
    if stored.get("data") == GIVEN and "data" not in explicit:
        raise RunFolderError(f"the run in {folder} was given its data by the caller; give the same data again")
    checkpoint = read_checkpoint(folder)
    if stored.get("model") == GIVEN:
        stored.pop("model")
    merged = {**stored, **explicit, "run_dir": str(folder), "resume": True}
    return make_settings(merged), checkpoint


def _check_same_run(plan: RunPlan, checkpoint: Checkpoint) -> None:
    folder = plan.settings.folder
    if checkpoint.network.layers != plan.network.layers or checkpoint.network.input_shape != plan.network.input_shape:
        raise RunFolderError(
            f"run folder {folder} belongs to another network, {checkpoint.network.name!r}; name another folder"
        )
    for name, value in plan.identity.items():
        if checkpoint.identity.get(name) != value:
            raise RunFolderError(
                f"run folder {folder} belongs to a run with {name} {checkpoint.identity.get(name)!r}, now {value!r}; "
                "resume with the same data and settings, or name another folder"
            )
    if len(checkpoint.ledger) != plan.batches:
        raise RunFolderError(f"run folder {folder} has {len(checkpoint.ledger)} batches an epoch, now {plan.batches}")
    if checkpoint.epoch >= plan.settings.epochs:
        raise RunFolderError(
            f"the run in {folder} has done its {checkpoint.epoch} epochs; give --epochs more than that to go on"
        )

"""From settings to a plan: everything is checked and decided here, before any process starts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from adam_mp.compute.choice import likely_choices
from adam_mp.compute.measurement import choose_kernels
from adam_mp.compute.optimizer import CONSTANTS, Optimizer, make_optimizer
from adam_mp.compute.views import parse_views
from adam_mp.data.mixing import Mixing
from adam_mp.data.reading.dataset import DataSet
from adam_mp.errors import SettingsError, several
from adam_mp.kernels.compilation import compile_kernels
from adam_mp.machine import usable_cores
from adam_mp.memory.cache import LEFT_FREE
from adam_mp.network.description import load_network
from adam_mp.network.initialization import initial_weights
from adam_mp.network.network import Network
from adam_mp.network.partition import PartitionPlan
from adam_mp.training.data.data_plan import (
    BY_CLASS,
    DRAWN,
    Division,
    divide,
    load_dataset,
    plan_data,
    settle_validation,
)
from adam_mp.training.data.kept_images import KeptImages
from adam_mp.training.data.understanding import understand
from adam_mp.training.folder.checkpoint import StoredCheckpoint
from adam_mp.training.plan.requirements import (
    check_before_reading,
    check_keys,
    check_network,
    check_rate,
    schedule_of,
    spaces_left_free,
    unused_numbers,
)
from adam_mp.training.plan.resuming import check_same_network, check_same_run, recorded_choices, resume_settings
from adam_mp.training.plan.run_plan import MEASURED, RunPlan, plan_partitions_asked, shares_asked
from adam_mp.training.plan.same_data import check_same_data
from adam_mp.training.plan.split import Costs, Split, divide_cores, measure_costs, measure_part_costs
from adam_mp.training.settings.consistency import parse_consistency
from adam_mp.training.settings.events import KernelCompiled, Listener, Notice
from adam_mp.training.settings.schedule import default_rate
from adam_mp.training.settings.settings import TrainSettings, check_none_absent, make_settings

_RECEIVED = 8  # workers for which one data server receives batches from other machines
_SERVED = 8  # workers for which one data server augments images that are in memory


class _Asked(NamedTuple):
    """What is asked for, before any data are read: `notices` are told once it is sure that a resumed run goes on."""

    settings: TrainSettings
    optimizer: Optimizer
    resumed: StoredCheckpoint | None
    notices: list[str]


def make_plan(explicit: Mapping[str, Any], listener: Listener, kept: KeptImages | None = None) -> RunPlan:
    """Check all settings and decide everything; `explicit` are those that the user gave, the rest have their defaults.

    Compiles kernels that are not cached yet, and reports that and the survey to `listener`. The survey puts decoded
    images into `kept`, if it is given, for the run to take over. Raises a child of AdamError for anything that cannot
    work.
    """
    settings, optimizer, resumed, notices = _ask(explicit, listener)
    settings, dataset, division = _read(settings, resumed, explicit, listener)
    understood = understand(dataset, division)
    listener(understood)
    settings, network, partitions = _build(settings, resumed, explicit, dataset, len(division.training))
    mixing = Mixing(settings.mixup, settings.cutmix)
    mixing.check(min(settings.batch_size, len(division.training)), dataset.image_shape)
    compile_kernels("float32", lambda done, total: listener(KernelCompiled(done, total)))
    cores = _cores_of_each(settings, listener)
    apart = None if settings.partition is None else partitions
    check_network(settings, network, optimizer, len(division.training), cores, apart)
    data = plan_data(
        dataset, settings, resumed.normalization if resumed else None, min(cores, usable_cores()), listener, kept,
        LEFT_FREE + 4 * network.parameter_count * spaces_left_free(settings, optimizer, cores), division,
    )  # fmt: skip
    if data.source is not None:
        _ = dataset.fingerprints  # now: training may find other files, and those of the survey are in memory
    settings = dataclasses.replace(settings, batch_size=min(settings.batch_size, len(data.training)))
    choices = recorded_choices(settings) if resumed else None
    timeless = parse_consistency(settings.consistency).timeless
    choices = choices or (likely_choices(network) if timeless else choose_kernels(network, settings.batch_size))
    if partitions is None:
        weights = initial_weights(network, settings.seed, data.examples)
        costs = measure_costs(network, weights, data, settings.batch_size, choices, mixing)
    else:
        costs = measure_part_costs(partitions, data, settings.batch_size, choices, mixing, apart is not None)
    split = _split(settings, cores, costs, data.source is not None, listener)
    plan = RunPlan(
        settings=settings, network=network, data=data, optimizer=optimizer,
        schedule=schedule_of(settings, len(data.training), split.workers), split=split, choices=choices, costs=costs,
        cores=cores, resumed=resumed, understood=understood, partitions=partitions,
    )  # fmt: skip
    if resumed:
        assert settings.folder is not None, "the checkpoint was read from it"
        check_same_run(settings.folder, resumed, network, plan.identity, plan.batches, settings.epochs)
    for text in notices:
        listener(Notice(text))
    return plan


def _ask(explicit: Mapping[str, Any], listener: Listener) -> _Asked:
    """Settle the settings, with those of the run that is resumed, if there is one."""
    settings = make_settings(explicit)
    if settings.partition is not None and settings.listen is None:
        raise SettingsError(
            f"--partition {settings.partition} follows a leader; in a shell: adam-mp train --join {settings.join} "
            f"--partition {settings.partition}"
        )
    check_before_reading(settings)
    resumed, notices = None, list[str]()
    if settings.resume:
        settings, resumed = resume_settings(settings, explicit, notices.append)
    else:
        check_none_absent(explicit)
    check_keys(settings)
    optimizer = optimizer_of(settings)
    if unused := unused_numbers(explicit, settings, optimizer):
        listener(
            Notice(f"{' and '.join(unused)}: no effect, since the formula of the optimizer {optimizer.name} has none")
        )
    return _Asked(settings, optimizer, resumed, notices)


def _read(
    settings: TrainSettings, resumed: StoredCheckpoint | None, explicit: Mapping[str, Any], listener: Listener
) -> tuple[TrainSettings, DataSet, Division]:
    """Read the data set, and divide it into what is trained, validated and tested."""
    dataset = load_dataset(settings, resumed is not None and resumed.identity.get("white") == MEASURED)
    if resumed is not None:
        assert settings.folder is not None
        check_same_data(settings.folder, resumed.identity, dataset)
    settings = dataclasses.replace(settings, white=dataset.options.white)  # as it was measured, for --resume
    if resumed is None:
        settings = settle_validation(settings, explicit, dataset, lambda text: listener(Notice(text)))
    way = BY_CLASS if resumed is None else resumed.identity.get("division", DRAWN)
    return settings, dataset, divide(dataset, settings, way)


def _build(
    settings: TrainSettings, resumed: StoredCheckpoint | None, explicit: Mapping[str, Any], dataset: DataSet,
    images: int,
) -> tuple[TrainSettings, Network, PartitionPlan | None]:  # fmt: skip
    """Build the network for the data set, of which `images` train, cut it, and settle what depends on it."""
    source = resumed.network if resumed and "model" not in explicit else settings.model
    network = load_network(source, dataset.image_shape, dataset.classes)
    if resumed is not None:
        assert settings.folder is not None
        check_same_network(settings.folder, resumed, network)
    if settings.lr is None:
        settings = dataclasses.replace(settings, lr=default_rate(settings.optimizer, network.scores_means))
    check_rate(settings, images)
    parse_views(settings.views, network.input_shape)  # only for its SettingsError, as the next one
    shares_asked(settings, network)  # only for its SettingsError, before kernels are compiled
    return settings, network, plan_partitions_asked(settings, network)


def _cores_of_each(settings: TrainSettings, listener: Listener) -> int:
    """Return the number of cores of each replica on this machine; tell `listener` if they do not divide as asked."""
    asked, replicas = settings.cores or usable_cores(), settings.replicas
    cores = max(1, asked // replicas)
    taken = cores * replicas
    if taken > asked:
        listener(
            Notice(
                f"{several(replicas, 'replica')} for {several(asked, 'core')}: each has the processes of one core, and "
                "they share; give fewer --replicas or more --cores"
            )
        )
    elif taken < asked:
        listener(
            Notice(
                f"{several(asked, 'core')} for {several(replicas, 'replica')}: each takes {cores}, and {asked - taken} "
                f"of them stays free; give --cores {taken} or {taken + replicas}"
            )
        )
    if asked > usable_cores():
        listener(
            Notice(
                f"{several(asked, 'core')} asked for, but only {usable_cores()} usable here: processes will share them"
            )
        )
    return cores


def _split_apart(settings: TrainSettings, cores: int, costs: Costs) -> Split:
    """Return one worker, for the partition of this machine, and data servers enough for the whole group."""
    assert not isinstance(settings.data_servers, str), "TrainSettings turns 'auto' into None"
    needed = math.ceil(settings.partitions * costs.serve_seconds(1) / max(costs.train_seconds, 1e-9))
    return Split(1, settings.data_servers or max(1, min(needed, cores - 1)))


def optimizer_of(settings: TrainSettings) -> Optimizer:
    """Return the update rule that the settings describe; raises SettingsError."""
    return make_optimizer(settings.optimizer, {name: getattr(settings, name) for name in CONSTANTS})


def _split(settings: TrainSettings, cores: int, costs: Costs, reads_files: bool, listener: Listener) -> Split:
    """Divide the cores between workers and data servers.

    Only measured costs call for a division: a deterministic run may not depend on a measurement, and where other
    machines make the batches, data servers only receive them. Both have a worker for each core, and data servers by a
    fixed rule.
    """
    assert not isinstance(settings.data_servers, str), "TrainSettings turns 'auto' into None"
    if parse_consistency(settings.consistency).timeless:
        return Split(cores, settings.data_servers or (cores if reads_files else math.ceil(cores / _SERVED)))
    if settings.partition is not None:
        return _split_apart(settings, cores, costs)
    if settings.data_from is not None:
        split = Split(cores, settings.data_servers or math.ceil(cores / _RECEIVED))
    else:
        split = divide_cores(cores, costs, settings.epochs, settings.data_servers)
    if settings.partitions == 1:
        return split
    groups, left = divmod(split.workers, settings.partitions)
    if groups and left:
        listener(
            Notice(
                f"{several(split.workers, 'core')} for workers in groups of {settings.partitions}: {left} of them "
                "free; give another number of --cores or --partitions to use all"
            )
        )
    return dataclasses.replace(split, workers=max(1, groups) * settings.partitions)

"""From settings to a plan: everything is checked and decided here, before any process starts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from adam_mp.compute.choice import KernelChoices, likely_choices
from adam_mp.compute.measurement import choose_kernels
from adam_mp.compute.optimizer import CONSTANTS, Optimizer, make_optimizer
from adam_mp.compute.shares import Shares, shares_of
from adam_mp.compute.views import View, parse_views
from adam_mp.data.mixing import Mixing
from adam_mp.errors import SettingsError, several
from adam_mp.kernels.compilation import compile_kernels
from adam_mp.machine import usable_cores
from adam_mp.memory.cache import LEFT_FREE
from adam_mp.memory.layout import Layout
from adam_mp.memory.ring import RingShape
from adam_mp.memory.run_memory import RunShape
from adam_mp.memory.segment import check_space
from adam_mp.memory.store import store_spaces
from adam_mp.network.description import load_network
from adam_mp.network.initialization import initial_weights
from adam_mp.network.network import Network
from adam_mp.params.replica.protocols import choose_protocols
from adam_mp.training.data.data_plan import (
    BY_CLASS,
    DRAWN,
    DataPlan,
    divide,
    load_dataset,
    plan_data,
    settle_validation,
)
from adam_mp.training.data.kept_images import KeptImages
from adam_mp.training.data.understanding import understand
from adam_mp.training.folder.checkpoint import StoredCheckpoint
from adam_mp.training.plan.calibration import calibration_fields
from adam_mp.training.plan.quorum import quorum_batches
from adam_mp.training.plan.resuming import check_same_network, check_same_run, recorded_choices, resume_settings
from adam_mp.training.plan.same_data import check_same_data, data_identity
from adam_mp.training.plan.split import Costs, Split, divide_cores, measure_costs
from adam_mp.training.settings.averages import AVERAGE, Average, parse_average
from adam_mp.training.settings.consistency import Consistency, parse_consistency
from adam_mp.training.settings.events import DataUnderstood, KernelCompiled, Listener, Notice
from adam_mp.training.settings.rates import parse_rates
from adam_mp.training.settings.schedule import Schedule, default_rate
from adam_mp.training.settings.settings import TrainSettings, check_none_absent, make_settings
from adam_mp.transport.keys import read_keys
from adam_mp.transport.places import parse_place, way_to_dial

MEASURED = "measured"  # noted in a checkpoint of a run whose `white` nobody chose
_RING_BYTES = 64 << 20  # at most this much read ahead per ring, but never fewer than two slots
_MOST_SLOTS = 16
_BATCH_LIMIT = 1 << 20
_RECEIVED = 8  # workers for which one data server receives batches from other machines
_STORES_FREE = 5  # times weights and optimizer state that the survey leaves free: the store, its copies, gradients
_SERVED = 8  # workers for which one data server augments images that are in memory


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """All decisions of a run. The plan owns no weights: they are drawn, or read from a file, straight into the store.

    `resumed` is the checkpoint from which the run goes on, `weights` are those of a model that is only evaluated; if
    both are None, first weights are drawn from the seed. `share` is (index, count) among the replicas of this machine.
    `understood` is what was understood of the data, None in an evaluation.
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
    resumed: StoredCheckpoint | None
    weights: Mapping[str, np.ndarray] | None = None
    share: tuple[int, int] = (0, 1)
    understood: DataUnderstood | None = None

    @property
    def batches(self) -> int:
        """Number of batches in an epoch."""
        return math.ceil(len(self.data.training) / self.settings.batch_size)

    @property
    def layout(self) -> Layout:
        """The layout of weights and optimizer state."""
        return Layout.of(self.network.parameters)

    @property
    def identity(self) -> dict[str, Any]:
        """Values that a checkpoint notes, and that must be the same when it is resumed; the data are what they are."""
        settings = self.settings
        # Checkpoints of versions that knew one way to divide the images do not name it.
        way = {} if self.data.division == DRAWN else {"division": self.data.division}
        white = {} if self.data.dataset.options.clipped else {"white": MEASURED}
        return {
            **way,
            **white,
            "data_digest": self.data.dataset.digest,
            "data": data_identity(self.data.dataset),
            "validation": settings.validation,
            "batch_size": settings.batch_size,
            "seed": settings.seed,
            "optimizer": settings.optimizer,
        }

    @property
    def shares(self) -> Shares:
        """The shares of the learning rate and the weight decay that each tensor takes."""
        return _shares(self.settings, self.network)

    @property
    def average(self) -> Average | None:
        """Which average of the weights is validated, tested and saved, None for the weights themselves."""
        return parse_average(self.settings.average, self.settings.epochs)

    @property
    def views(self) -> tuple[View, ...]:
        """The views of each image in an evaluation."""
        return parse_views(self.settings.views, self.network.input_shape)

    @property
    def state_names(self) -> tuple[str, ...]:
        """The names of the store's spaces beside the weights: the optimizer's, and the average's if there is one."""
        return _state_names(self.settings, self.optimizer)

    @property
    def consistency(self) -> Consistency:
        """How the workers keep together."""
        return parse_consistency(self.settings.consistency)

    @property
    def mixing(self) -> Mixing:
        """How the images of a batch are mixed."""
        return _mixing(self.settings)

    @property
    def is_replica(self) -> bool:
        """Whether this run is a replica, whose weights are exchanged with parameter servers."""
        return self.settings.join is not None or self.settings.servers is not None

    @property
    def run_shape(self) -> RunShape:
        """The sizes of everything in the run's shared memory."""
        data, batch = self.data, self.settings.batch_size
        slot = RingShape(1, batch, self.network.input_shape).slot_bytes
        slots = max(2, min(_MOST_SLOTS, _RING_BYTES // slot))
        evaluated = max(len(data.validation), len(data.test))
        return RunShape(
            self.split.workers, self.split.data_servers, self.batches, math.ceil(evaluated / batch),
            len(data.training), RingShape(slots, batch, self.network.input_shape),
            {**data.fields, **calibration_fields(self.network, data.training, self.weights is not None)},
            int(self.is_replica), self.consistency.in_steps,
        )  # fmt: skip

    @property
    def owners(self) -> int:
        """How many workers have optimizer state of their own: one if they make each update together."""
        return 1 if self.consistency.in_steps else self.split.workers

    @property
    def checkpoint_bytes(self) -> int:
        """Bytes of weights, optimizer state and average as a checkpoint has them."""
        return 4 * self.layout.size * (1 + len(self.state_names))

    @property
    def own_bytes(self) -> int:
        """Bytes of the optimizer states that workers have of their own, of all of them."""
        return 4 * self.layout.size * len(self.optimizer.own_states) * self.owners

    @property
    def store_bytes(self) -> int:
        """Bytes of weights, average, and the optimizer state of all workers."""
        return 4 * self.layout.size * store_spaces(self.state_names, self.optimizer.own_states, self.owners)


def make_plan(explicit: Mapping[str, Any], listener: Listener, kept: KeptImages | None = None) -> RunPlan:
    """Check all settings and decide everything; `explicit` are those that the user gave, the rest have their defaults.

    Compiles kernels that are not cached yet, and reports that and the survey to `listener`. The survey puts decoded
    images into `kept`, if it is given, for the run to take over. Raises a child of AdamError for anything that cannot
    work.
    """
    settings = make_settings(explicit)
    _check_before_reading(settings)
    resumed, notices = None, list[str]()
    if settings.resume:
        settings, resumed = resume_settings(settings, explicit, notices.append)
    else:
        check_none_absent(explicit)
    if settings.key_file is not None and not (settings.join or settings.data_from or settings.servers):
        raise SettingsError(
            "--key-file is for runs of many machines; give --servers N, --join HOST:PORT or --data-from HOST:PORT too"
        )
    read_keys(settings.key_file)  # a bad key file is reported now, before processes run
    optimizer = optimizer_of(settings)
    unused = [name for name in CONSTANTS if name in explicit and name not in optimizer.numbers]
    if optimizer.statements and settings.decay_all and "decay_all" in explicit:
        unused.append("decay_all")
    if unused:
        listener(
            Notice(f"{' and '.join(unused)}: no effect, since the formula of the optimizer {optimizer.name} has none")
        )
    dataset = load_dataset(settings, resumed is not None and resumed.identity.get("white") == MEASURED)
    if resumed is not None:
        assert settings.folder is not None
        check_same_data(settings.folder, resumed.identity, dataset)
    settings = dataclasses.replace(settings, white=dataset.options.white)  # as it was measured, for --resume
    if resumed is None:
        settings = settle_validation(settings, explicit, dataset, lambda text: listener(Notice(text)))
    division = divide(dataset, settings, BY_CLASS if resumed is None else resumed.identity.get("division", DRAWN))
    understood = understand(dataset, division)
    listener(understood)
    source = resumed.network if resumed and "model" not in explicit else settings.model
    network = load_network(source, dataset.image_shape, dataset.classes)
    if resumed is not None:
        assert settings.folder is not None
        check_same_network(settings.folder, resumed, network)
    if settings.lr is None:
        settings = dataclasses.replace(settings, lr=default_rate(settings.optimizer, network.scores_means))
    _check_rate(settings, len(division.training))
    parse_views(settings.views, network.input_shape)  # only for its SettingsError, as the next one
    _shares(settings, network)  # only for its SettingsError, before kernels are compiled
    mixing = _mixing(settings)
    mixing.check(min(settings.batch_size, len(division.training)), dataset.image_shape)
    compile_kernels("float32", lambda done, total: listener(KernelCompiled(done, total)))
    cores = _cores_of_each(settings, listener)
    _check_network(settings, network, optimizer, len(division.training), cores)
    data = plan_data(
        dataset, settings, resumed.normalization if resumed else None, min(cores, usable_cores()), listener, kept,
        LEFT_FREE + 4 * network.parameter_count * _spaces_left_free(settings, optimizer, cores), division,
    )  # fmt: skip
    if data.source is not None:
        _ = dataset.fingerprints  # now: training may find other files, and those of the survey are in memory
    settings = dataclasses.replace(settings, batch_size=min(settings.batch_size, len(data.training)))
    choices = recorded_choices(settings) if resumed else None
    timeless = parse_consistency(settings.consistency).timeless
    choices = choices or (likely_choices(network) if timeless else choose_kernels(network, settings.batch_size))
    weights = initial_weights(network, settings.seed, data.examples)
    costs = measure_costs(network, weights, data, settings.batch_size, choices, mixing)
    split = _split(settings, cores, costs, data.source is not None)
    plan = RunPlan(
        settings=settings, network=network, data=data, optimizer=optimizer,
        schedule=_schedule(settings, len(data.training), split.workers), split=split, choices=choices, costs=costs,
        cores=cores, resumed=resumed, understood=understood,
    )  # fmt: skip
    if resumed:
        assert settings.folder is not None, "the checkpoint was read from it"
        check_same_run(settings.folder, resumed, network, plan.identity, plan.batches, settings.epochs)
    for text in notices:  # only now is it sure that the run goes on
        listener(Notice(text))
    return plan


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


def optimizer_of(settings: TrainSettings) -> Optimizer:
    """Return the update rule that the settings describe; raises SettingsError."""
    return make_optimizer(settings.optimizer, {name: getattr(settings, name) for name in CONSTANTS})


def _state_names(settings: TrainSettings, optimizer: Optimizer) -> tuple[str, ...]:
    """Return the names of the flat spaces beside the weights; see `RunPlan.state_names`."""
    average = parse_average(settings.average, settings.epochs)
    return optimizer.states if average is None else (*optimizer.states, AVERAGE)


def _shares(settings: TrainSettings, network: Network) -> Shares:
    """Return the shares that the settings give the tensors of a network; raises SettingsError."""
    return shares_of(network.parameters, settings.decay_all, parse_rates(settings.rates))


def _mixing(settings: TrainSettings) -> Mixing:
    """Return how a run with these settings mixes the images of a batch."""
    return Mixing(settings.mixup, settings.cutmix)


def _check_before_reading(settings: TrainSettings) -> None:
    """Raise SettingsError for settings that are wrong whatever the files hold that they name."""
    for text in (settings.join, *(settings.data_from or "").split(",")):
        if text:
            way_to_dial(parse_place(text, "the address"), settings.key_file is not None).close()
    if isinstance(settings.data, str) and not settings.data:
        raise SettingsError("--data is empty; expected a folder, or 'mnist'")
    if settings.batch_size > _BATCH_LIMIT:
        raise SettingsError(f"--batch-size is {settings.batch_size}; expected at most {_BATCH_LIMIT}")


def _most_spaces(settings: TrainSettings, optimizer: Optimizer, cores: int) -> int:
    """Return how many flat spaces the store has at most: with a worker on each core."""
    in_steps = parse_consistency(settings.consistency).in_steps
    return store_spaces(_state_names(settings, optimizer), optimizer.own_states, 1 if in_steps else cores)


def _spaces_left_free(settings: TrainSettings, optimizer: Optimizer, cores: int) -> int:
    """Return how many flat spaces the survey's cache leaves free: what a checkpoint has some times, and the rest."""
    in_checkpoint = 1 + len(_state_names(settings, optimizer))
    return _STORES_FREE * in_checkpoint + _most_spaces(settings, optimizer, cores) - in_checkpoint


def _check_network(settings: TrainSettings, network: Network, optimizer: Optimizer, images: int, cores: int) -> None:
    """Raise SpaceError for a network that is too large, SettingsError for one that the protocol does not fit.

    Called before any weights are made.
    """
    weights = 4 * network.parameter_count
    # This process measures the costs of a step on weights of its own. `memory_need` counts the whole run later.
    need = {
        "weights and optimizer state": weights * _most_spaces(settings, optimizer, cores),
        "weights to measure with": 2 * weights,
    }
    check_space(sum(need.values()), f"network {network.name!r}", None, need)
    choose_protocols(network, 1, 1, settings.protocol, optimizer.is_plain_descent)  # only for its SettingsError
    for node, shape in zip(network.nodes, network.input_shapes, strict=True):
        if node.layer.statistics(shape) and settings.batch_size < 2:
            raise SettingsError(
                f"{node.name} takes mean and variance of a batch, but --batch-size is {settings.batch_size}; give at "
                "least 2, better 16"
            )
        if node.layer.statistics(shape) and math.prod(shape[:-1]) == 1 and images % settings.batch_size == 1:
            raise SettingsError(
                f"{node.name} takes mean and variance of a batch, but the last batch of an epoch has one image: there "
                f"are {images:,} to train on, and --batch-size is {settings.batch_size}; give another size"
            )


def _check_rate(settings: TrainSettings, images: int) -> None:
    """Raise SettingsError for a bad learning rate before kernels are compiled, which takes a minute on a new machine.

    With sync and deterministic, the number of updates in an epoch depends on the number of workers. A rate that changes
    within an epoch is then checked only later, by `_schedule`, once that number is known.
    """
    assert settings.lr is not None, "the plan replaces None by the default"
    in_steps = parse_consistency(settings.consistency).in_steps
    if not (in_steps and Schedule(settings.lr, settings.epochs, 1).follows_steps):
        _schedule(settings, images, 1)


def _schedule(settings: TrainSettings, images: int, workers: int) -> Schedule:
    """Return the schedule of the learning rate for `images` training images an epoch. Raises SettingsError.

    With sync and deterministic, each update takes a batch of every worker, so an epoch has fewer updates.
    """
    assert settings.lr is not None, "the plan replaces None by the default"
    batches = math.ceil(images / settings.batch_size)
    if parse_consistency(settings.consistency).in_steps:
        batches = math.ceil(quorum_batches(settings.quorum, settings.batch_size, images) / workers)
    schedule = Schedule(settings.lr, settings.epochs, batches)
    schedule.check()
    return schedule


def _split(settings: TrainSettings, cores: int, costs: Costs, reads_files: bool) -> Split:
    """Divide the cores between workers and data servers.

    Only measured costs call for a division: a deterministic run may not depend on a measurement, and where other
    machines make the batches, data servers only receive them. Both have a worker for each core, and data servers by a
    fixed rule.
    """
    assert not isinstance(settings.data_servers, str), "TrainSettings turns 'auto' into None"
    if parse_consistency(settings.consistency).timeless:
        return Split(cores, settings.data_servers or (cores if reads_files else math.ceil(cores / _SERVED)))
    if settings.data_from is not None:
        return Split(cores, settings.data_servers or math.ceil(cores / _RECEIVED))
    return divide_cores(cores, costs, settings.epochs, settings.data_servers)

"""All decisions of a run, and what follows from them by arithmetic."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from adam_mp.compute.choice import KernelChoices
from adam_mp.compute.optimizer import Optimizer
from adam_mp.compute.part_storage import PartStorage, WholeTensors
from adam_mp.compute.shares import Shares, shares_of
from adam_mp.compute.views import View, parse_views
from adam_mp.data.mixing import Mixing
from adam_mp.memory.group import GroupShape
from adam_mp.memory.layout import Held, Layout
from adam_mp.memory.ring import RingShape
from adam_mp.memory.run_memory import RunShape
from adam_mp.memory.store import store_spaces
from adam_mp.network.cuts import plan_partitions
from adam_mp.network.network import Network
from adam_mp.network.partition import PartitionPlan
from adam_mp.training.data.data_plan import DRAWN, DataPlan
from adam_mp.training.folder.checkpoint import StoredCheckpoint
from adam_mp.training.plan.calibration import calibration_fields
from adam_mp.training.plan.group_shape import group_shape
from adam_mp.training.plan.same_data import data_identity
from adam_mp.training.plan.split import Costs, Split
from adam_mp.training.settings.averages import AVERAGE, Average, parse_average
from adam_mp.training.settings.consistency import Consistency, parse_consistency
from adam_mp.training.settings.events import DataUnderstood
from adam_mp.training.settings.rates import parse_rates
from adam_mp.training.settings.schedule import Schedule
from adam_mp.training.settings.settings import TrainSettings

if TYPE_CHECKING:  # a run of one machine does not import what runs of many need
    from adam_mp.partitions.leader_side import Partitions

MEASURED = "measured"  # noted in a checkpoint of a run whose `white` nobody chose
_RING_BYTES = 64 << 20  # at most this much read ahead per ring, but never fewer than two slots
_MOST_SLOTS = 16


def state_names(settings: TrainSettings, optimizer: Optimizer) -> tuple[str, ...]:
    """Return the names of the store's spaces beside the weights: the optimizer's, and the average's if there is one."""
    average = parse_average(settings.average, settings.epochs)
    return optimizer.states if average is None else (*optimizer.states, AVERAGE)


def shares_asked(settings: TrainSettings, network: Network) -> Shares:
    """Return the shares that the settings give the tensors of a network; raises SettingsError."""
    return shares_of(network.parameters, settings.decay_all, parse_rates(settings.rates))


def plan_partitions_asked(settings: TrainSettings, network: Network) -> PartitionPlan | None:
    """Return how the settings cut a network, None if they do not; raises SettingsError or NetworkError."""
    if settings.partitions == 1:
        return None
    return plan_partitions(network, settings.partitions, settings.cut, settings.batch_size)


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """All decisions of a run. The plan owns no weights: they are drawn, or read from a file, straight into the store.

    `resumed` is the checkpoint from which the run goes on, `weights` are those of a model that is only evaluated; if
    both are None, first weights are drawn from the seed. `share` is (index, count) among the replicas of this machine.
    `understood` is what was understood of the data, None in an evaluation. `elsewhere` are the partitions on other
    machines, once they have joined; None if there are none.
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
    partitions: PartitionPlan | None = None
    elsewhere: Partitions | None = None

    @property
    def is_apart(self) -> bool:
        """Whether each partition of the model is on a machine of its own, and partition 1 here."""
        return self.settings.partition is not None

    @property
    def parts_here(self) -> int:
        """How many workers of this machine train each batch together."""
        return 1 if self.is_apart else self.parts

    @property
    def parts(self) -> int:
        """How many partitions the model is cut into; 1 if it is not."""
        return 1 if self.partitions is None else self.partitions.parts

    @property
    def groups(self) -> int:
        """How many workers, or groups of them with a partition each, train a batch of their own at a time."""
        return self.split.workers // self.parts_here

    @cached_property
    def storage(self) -> PartStorage | None:
        """Where the tensors of a model lie that is cut; None if it is not."""
        return None if self.partitions is None else PartStorage(self.partitions)

    def tensors_of(self, space: str, flat: np.ndarray) -> WholeTensors:
        """Return the tensors of the network, by their names, in the flat space `space`, of which `flat` is here.

        What partitions on other machines have is read and written by `elsewhere`.
        """
        if self.storage is None:
            return self.layout.views(flat)
        if not self.is_apart:
            return self.storage.whole_views(flat)
        from adam_mp.partitions.spaces import tensors_of

        assert self.elsewhere is not None, "the other partitions have joined"
        return tensors_of(self.storage, self.elsewhere, space, flat, space in self.optimizer.states)

    @property
    def group_shape(self) -> GroupShape:
        """The sizes of the memory of a group; only for a model that is cut."""
        assert self.storage is not None, "the model is not cut"
        return group_shape(self.storage, self.settings, 0 if self.is_apart else None)

    @property
    def batches(self) -> int:
        """Number of batches in an epoch."""
        return math.ceil(len(self.data.training) / self.settings.batch_size)

    @property
    def layout(self) -> Layout:
        """The layout of weights and optimizer state on this machine."""
        if self.storage is None:
            return Layout.of(self.network.parameters)
        return self.storage.part_layout(0) if self.is_apart else self.storage.layout

    @property
    def exchanged(self) -> Layout:
        """The layout of all of the model's weights as replicas exchange them with parameter servers."""
        return self.layout if self.storage is None else self.storage.exchanged

    def held(self, servers: int) -> Held:
        """Return the shards that this machine exchanges with so many parameter servers."""
        if self.storage is not None and self.is_apart:
            return self.storage.held(0, servers)
        return Held.all_of(self.exchanged.for_servers(servers))

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
        return shares_asked(self.settings, self.network)

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
        return state_names(self.settings, self.optimizer)

    @property
    def consistency(self) -> Consistency:
        """How the workers keep together."""
        return parse_consistency(self.settings.consistency)

    @property
    def mixing(self) -> Mixing:
        """How the images of a batch are mixed."""
        return Mixing(self.settings.mixup, self.settings.cutmix)

    @property
    def is_replica(self) -> bool:
        """Whether this run is a replica, whose weights are exchanged with parameter servers."""
        return self.settings.join is not None or self.settings.servers is not None

    @property
    def run_shape(self) -> RunShape:
        """The sizes of everything in the run's shared memory."""
        data, batch = self.data, self.settings.batch_size
        slot = RingShape(1, batch, self.network.input_shape).slot_bytes
        # A batch on its way holds its slot; one more is for the data server to fill meanwhile.
        least = 2 if self.partitions is None else self.settings.in_flight + 1
        slots = max(least, min(_MOST_SLOTS, _RING_BYTES // slot))
        evaluated = max(len(data.validation), len(data.test))
        return RunShape(
            self.split.workers, self.split.data_servers, self.batches, math.ceil(evaluated / batch),
            len(data.training), RingShape(slots, batch, self.network.input_shape),
            {**data.fields, **calibration_fields(self.network, data.training, self.weights is not None)},
            self.is_replica + self.is_apart, self.consistency.in_steps, self.parts_here,
        )  # fmt: skip

    @property
    def owners(self) -> int:
        """How many workers have optimizer state of their own: one if they make each update together."""
        return 1 if self.consistency.in_steps else self.groups

    @property
    def file_bytes(self) -> int:
        """Bytes of a checkpoint's file, about: it has all of the model, wherever its partitions are."""
        return max(self.checkpoint_bytes, 4 * self.network.parameter_count * (1 + len(self.state_names)))

    @property
    def checkpoint_bytes(self) -> int:
        """Bytes of weights, optimizer state and average of this machine, as a checkpoint has them."""
        return 4 * self.layout.size * (1 + len(self.state_names))

    @property
    def own_bytes(self) -> int:
        """Bytes of the optimizer states that workers have of their own, of all of them."""
        return 4 * self.layout.size * len(self.optimizer.own_states) * self.owners

    @property
    def store_bytes(self) -> int:
        """Bytes of weights, average, and the optimizer state of all workers."""
        return 4 * self.layout.size * store_spaces(self.state_names, self.optimizer.own_states, self.owners)

"""What a partition on a machine of its own must know of the run, as the leader tells it: plain values, in JSON.

It is enough to make the same cut, and to train: no data, and no settings of other machines.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from adam_mp.compute.choice import KernelChoices
from adam_mp.compute.optimizer import Optimizer
from adam_mp.compute.part_storage import PartStorage
from adam_mp.errors import AdamError, TransportError
from adam_mp.memory.group import GroupShape
from adam_mp.network.description import from_json, to_json
from adam_mp.network.network import Network
from adam_mp.network.partition import partition
from adam_mp.training.plan.group_shape import group_shape
from adam_mp.training.plan.plan import optimizer_of
from adam_mp.training.plan.requirements import schedule_of
from adam_mp.training.plan.run_plan import RunPlan
from adam_mp.training.settings.schedule import Schedule
from adam_mp.training.settings.settings import TrainSettings

_SETTINGS = (
    "partitions", "in_flight", "epochs", "batch_size", "lr", "rates", "momentum", "beta1", "beta2", "epsilon",
    "weight_decay", "decay_all", "clip_norm", "label_smoothing", "average", "views", "optimizer", "quorum", "seed",
)  # fmt: skip


def task_of(plan: RunPlan) -> dict[str, Any]:
    """Return what partitions are told of a run whose model is cut."""
    assert plan.partitions is not None, "the model is cut"
    return {
        "settings": {name: getattr(plan.settings, name) for name in _SETTINGS},
        "network": json.loads(to_json(plan.network)),
        "ways": dict(plan.partitions.ways),
        "kernels": plan.choices.as_dict(),
        "images": len(plan.data.training),
        "messages": _digest(plan.group_shape),
        "exchange": [plan.settings.wire, plan.settings.stall_seconds] if plan.is_replica else None,
    }


@dataclasses.dataclass(frozen=True)
class ExchangeTask:
    """How a partition exchanges its weights with parameter servers: see `SynchronizerSpec`."""

    wire: str
    patience: float


@dataclasses.dataclass(frozen=True)
class PartTask:
    """The same as a partition understands it. `part` is its number, counted from 0.

    `exchange` is None in a run without parameter servers.
    """

    part: int
    settings: TrainSettings
    network: Network
    storage: PartStorage
    choices: KernelChoices
    optimizer: Optimizer
    schedule: Schedule
    exchange: ExchangeTask | None

    @property
    def group_shape(self) -> GroupShape:
        """The sizes of the memory of the group on this partition's machine."""
        return group_shape(self.storage, self.settings, self.part)

    @classmethod
    def read(cls, told: Mapping[str, Any], part: int) -> PartTask:
        """Understand what the leader told; raises TransportError if this version cuts the model in another way."""
        try:
            settings = TrainSettings(**{name: told["settings"][name] for name in _SETTINGS})
            network = from_json(json.dumps(told["network"]))
            plan = partition(network, settings.partitions, told["ways"])
            exchange = told["exchange"]
            found = cls(
                part, settings, network, PartStorage(plan), KernelChoices.from_dict(told["kernels"]),
                optimizer_of(settings), schedule_of(settings, int(told["images"]), 1),
                None if exchange is None else ExchangeTask(str(exchange[0]), float(exchange[1])),
            )  # fmt: skip
            same = _digest(found.group_shape) == told["messages"]
        except (AdamError, KeyError, IndexError, TypeError, ValueError) as error:
            raise TransportError(f"the leader's settings cannot be understood here: {error}") from None
        if not same:
            raise TransportError("this machine cuts the model in another way than the leader; install one version")
        return found


def _digest(shape: GroupShape) -> str:
    """Return a digest of all messages, by which machines know that they have the same cut."""
    text = repr((shape.parts, shape.lanes, shape.batch, shape.messages, shape.scored))
    return hashlib.sha256(text.encode()).hexdigest()[:16]

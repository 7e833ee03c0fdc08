"""What the supervisor tells a worker."""

from __future__ import annotations

import dataclasses

from adam_mp.compute.choice import KernelChoices
from adam_mp.compute.optimizer import Optimizer
from adam_mp.compute.shares import Shares
from adam_mp.compute.views import ONLY, View
from adam_mp.data.pictures import PictureSpec
from adam_mp.memory.group import GroupHandle
from adam_mp.memory.run_memory import RunHandle
from adam_mp.memory.steps import StepHandle
from adam_mp.memory.store import StoreHandle
from adam_mp.network.network import Network
from adam_mp.network.partition import PartitionPlan
from adam_mp.params.replica.factors import FactorShape
from adam_mp.training.settings.averages import Average
from adam_mp.training.settings.schedule import Schedule
from adam_mp.transport.local import ChannelHandle


@dataclasses.dataclass(frozen=True)
class PartSpec:
    """Which part of the model a worker has: partition `part` of `plan`, in the group whose memory `group` names.

    `apart` says that each partition is on a machine of its own.
    """

    plan: PartitionPlan
    part: int
    group: GroupHandle
    apart: bool = False


@dataclasses.dataclass(frozen=True)
class WorkerSpec:
    """What the supervisor tells a worker: its row on the board (`process`), the shared memory, what to train, and how.

    `shares` are those of the learning rate and the weight decay that each tensor takes. `factors` and `outbox` are for
    dense layers whose updates go to parameter servers as activations and errors. `bound` is by how many updates the
    worker may be ahead of the slowest. `steps` is the memory of the steps that all workers make together. Each of these
    four is None in a run without it. `clip_norm` is the largest norm of an update's gradient, 0.0 for any. `average` is
    which average of the weights is evaluated in their place, None for none; `views` are those of each image evaluated.
    `part` is which part of the model it has, None if it has all.
    """

    process: int
    memory: RunHandle
    store: StoreHandle
    network: Network
    choices: KernelChoices
    pictures: PictureSpec | None  # None for a partition whose batches come from another machine
    optimizer: Optimizer
    schedule: Schedule
    batch_size: int
    seed: int
    shares: Shares
    factors: FactorShape | None = None
    outbox: ChannelHandle | None = None
    bound: int | None = None
    steps: StepHandle | None = None
    label_smoothing: float = 0.0
    clip_norm: float = 0.0
    average: Average | None = None
    views: tuple[View, ...] = ONLY
    part: PartSpec | None = None

"""The memory that a run will need, counted part by part before any of it is taken; a run with too little is refused.

Memory that a run takes only for a moment, such as the second copy of a checkpoint, counts as if the run had it all the
time: a slow disk may hold that copy up just when memory is shortest. The cache of decoded images does not count: it
takes what is left over, and leaves `kept` bytes free for copies that the supervisor makes later. If the run needs the
memory of images that the survey has cached, they are dropped.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from adam_mp.compute.choice import KernelChoices
from adam_mp.compute.context import TrainingContext
from adam_mp.compute.optimizer import Optimizer
from adam_mp.compute.part_measurement import context_bytes_of
from adam_mp.compute.shares import Shares, of_own_rate
from adam_mp.errors import SpaceError, several
from adam_mp.memory.exchange import ExchangeMemory
from adam_mp.memory.group import GroupMemory
from adam_mp.memory.layout import Layout
from adam_mp.memory.segment import check_space
from adam_mp.memory.steps import StepShape
from adam_mp.network.layers import Dense
from adam_mp.network.network import Network
from adam_mp.network.partition import PartitionPlan
from adam_mp.params.replica.factors import FactorShape, outbox_slots
from adam_mp.params.run.bucket_map import COMMIT_COPIED
from adam_mp.params.server.server_memory import server_memory
from adam_mp.training.data.kept_images import KeptImages
from adam_mp.training.folder.keeper import COPIES
from adam_mp.training.plan.run_plan import RunPlan
from adam_mp.training.settings.settings import TrainSettings
from adam_mp.transport.local import LocalChannel

_INTERPRETER_BYTES = 70 << 20  # a process that is not forked: the interpreter, numpy, numba and the kernels
_FORK_SERVER_BYTES = 90 << 20  # the fork server, which has loaded all of these; its children share this memory
CHILD_BYTES = 24 << 20  # a forked child: the shared pages that it changes, and what it makes for itself


@dataclasses.dataclass(frozen=True)
class MemoryNeed:
    """Part of the run -> bytes, for `shared` memory and for memory that is `private` to a process.

    Shared memory lies in the folder of `--memory-dir` if the user gave one. `kept` bytes of the private memory are
    copies for checkpoints and models, which the supervisor makes only during the run.
    """

    shared: Mapping[str, int]
    private: Mapping[str, int]
    kept: int = 0

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return sum(self.shared.values()) + sum(self.private.values())

    def check(self, purpose: str, folder: Path | None, kept: KeptImages | None = None) -> None:
        """Raise SpaceError, which names `purpose` and the parts, unless so much memory is free.

        If too little is free, the survey's images in `kept` are dropped before that; they can be decoded again.
        """
        try:
            self._check(purpose, folder)
        except SpaceError:
            if kept is None or not kept.drop():
                raise
            self._check(purpose, folder)

    def _check(self, purpose: str, folder: Path | None) -> None:
        if folder is None:
            check_space(self.total, purpose, None, {**self.shared, **self.private})
            return
        check_space(sum(self.shared.values()), purpose, folder, self.shared)
        check_space(sum(self.private.values()), purpose, None, self.private)


def run_need(plan: RunPlan, factors: FactorShape | None, keeps: bool, copied: bool = False) -> MemoryNeed:
    """Return what a run needs on one machine, alone or as a replica.

    `factors` are the layers whose updates go to parameter servers as activations and errors, None without any; `keeps`
    is whether the run writes checkpoints and models; `copied` is whether a replica keeps updates until copies have
    them.
    """
    workers, data_servers, sizes = plan.split.workers, plan.split.data_servers, plan.run_shape.sizes
    rings = sum(size for name, size in sizes.items() if name.startswith("ring"))
    data = sum(sizes[name] for name in plan.run_shape.arrays)
    own = plan.own_bytes if plan.owners > 1 else 0
    shared = {
        "weights and optimizer state": plan.checkpoint_bytes - own // plan.owners, "the data set": data,
        "rings": rings, "ledgers": sum(sizes.values()) - rings - data,
    }  # fmt: skip
    if own:
        shared["velocities of the workers"] = own
    if plan.consistency.in_steps:
        shared["gradients of a step"] = step_shape(plan).bytes
    if plan.is_replica:
        shared["the exchange with the parameter servers"] = ExchangeMemory.bytes_needed(plan.held(1), copied)
    if plan.partitions is not None:
        return _of_groups(plan, shared, keeps)
    context = plan.costs.context_bytes - 4 * plan.layout.size
    if not plan.consistency.in_steps:
        direct = plan.optimizer.is_plain_descent and not plan.settings.clip_norm
        context += gradient_bytes(plan.network, plan.layout, direct, of_own_rate(plan.shares))
    pictures = 4 * plan.settings.batch_size * math.prod(plan.network.input_shape)
    processes = workers + data_servers + int(plan.is_replica)
    private = {
        "processes": _FORK_SERVER_BYTES + CHILD_BYTES * processes,
        "gradients and activations": workers * context,
        "pictures to evaluate": workers * 2 * pictures,  # as they are, and as a view
    }
    if plan.average is not None:
        private["activations of the average"] = workers * evaluation_bytes(plan)
    if factors is not None:
        outboxes = workers * LocalChannel.bytes_needed(plan_outbox_slots(plan), factors.numbers)
        shared["outboxes"] = outboxes
        private["activations on their way"] = outboxes  # the synchronizer's copy of what it gathered
    return _with_copies(plan, shared, private, keeps)


def _with_copies(plan: RunPlan, shared: dict[str, int], private: dict[str, int], keeps: bool) -> MemoryNeed:
    """Return a need with the supervisor's copies, if the run writes checkpoints and models."""
    if not keeps:
        return MemoryNeed(shared, private)
    if plan.is_apart:  # nothing is copied but a piece of a tensor at a time
        return MemoryNeed(shared, private)
    # COPIES of checkpoints and of models, less one: a single thread writes, so only one kind has a copy in writing.
    copies, model = COPIES * plan.checkpoint_bytes, (COPIES - 1) * 4 * plan.layout.size
    private = {**private, f"{COPIES} copies of a checkpoint": copies, "the best model": model}
    return MemoryNeed(shared, private, copies + model)


def _of_groups(plan: RunPlan, shared: dict[str, int], keeps: bool) -> MemoryNeed:
    """Return the need of a run whose model is cut: `shared`, and that of all members of all groups."""
    partitions, batch = plan.partitions, plan.settings.batch_size
    assert partitions is not None, "the model is cut"
    shared = {**shared, "values between partitions": group_bytes(plan)}
    members = sum(member_bytes(plan, part) for part in range(plan.parts_here))
    pictures = 4 * batch * math.prod(plan.network.input_shape)
    processes = plan.split.workers + plan.split.data_servers + int(plan.is_replica or plan.is_apart)
    private = {
        "processes": _FORK_SERVER_BYTES + CHILD_BYTES * processes,
        "gradients and activations": plan.groups * members,
        "pictures to evaluate": plan.groups * pictures,
    }
    return _with_copies(plan, shared, private, keeps)


def worker_bytes(plan: RunPlan) -> int:
    """Return the bytes of a worker's gradient and activations; if the model is cut, of a group's largest member."""
    if plan.partitions is None:
        return plan.costs.context_bytes
    return max(member_bytes(plan, part) for part in range(plan.parts_here))


def group_bytes(plan: RunPlan) -> int:
    """Return the bytes of the memory of all groups, 0 if the model is not cut."""
    return 0 if plan.partitions is None else GroupMemory.bytes_needed(plan.group_shape, plan.groups)


def member_bytes(plan: RunPlan, part: int) -> int:
    """Return the bytes of a member's gradient, and of the activations of its lanes and of its evaluation."""
    assert plan.partitions is not None, "the model is cut"
    return bytes_of_member(plan.partitions, part, plan.settings, plan.choices, plan.optimizer, plan.shares)


def bytes_of_member(
    partitions: PartitionPlan, part: int, settings: TrainSettings, choices: KernelChoices, optimizer: Optimizer,
    shares: Shares,
) -> int:  # fmt: skip
    """Return the same for one partition of a model, wherever the others are."""
    batch = settings.batch_size
    graph, direct = partitions.graphs[part], optimizer.is_plain_descent and not settings.clip_norm
    gradient = Layout.of(graph.parameters).size
    lane = context_bytes_of(partitions, part, batch, choices) - 4 * gradient
    scoring = context_bytes_of(partitions, part, batch, choices, backward=False)
    if direct:  # dense layers that are cut are updated without a gradient
        kept = of_own_rate(shares)
        names = [f"{node.name}.weight" for node in graph.nodes if isinstance(node.layer, Dense)]
        found = [name for name in names if name in partitions.columns and name not in kept]
        gradient -= sum(math.prod(graph.parameters[name]) for name in found)
    return 4 * gradient + settings.in_flight * lane + scoring


def launch_need(plan: RunPlan, factors: FactorShape | None) -> MemoryNeed:
    """Return what a run needs with its parameter servers and replicas all on this machine."""
    settings = plan.settings
    assert settings.servers is not None
    copies = min(settings.copies, settings.servers)
    one = run_need(plan, factors, keeps=True, copied=copies > 1 and settings.commit == COMMIT_COPIED)
    shards = [4 * shard.size for shard in plan.exchanged.shards]
    server = sum(server_memory(0, max(shards), snapshots=True).values()) + _INTERPRETER_BYTES
    private = {name: size * settings.replicas for name, size in one.private.items()}
    private[several(settings.servers, "parameter server")] = copies * sum(shards) + settings.servers * server
    # The supervisor of each other replica loads the data set, then copies it into the memory its processes share.
    others = (settings.replicas - 1) * (_INTERPRETER_BYTES + one.shared["the data set"])
    if others:
        private["supervisors of the other replicas"] = others
    return MemoryNeed({name: size * settings.replicas for name, size in one.shared.items()}, private)


def step_shape(plan: RunPlan) -> StepShape:
    """Return the sizes of the memory of steps that all workers make together."""
    moving = int(plan.average is not None and plan.average.moves)
    return StepShape(plan.split.workers, plan.layout.size, 1 + len(plan.optimizer.states) + moving)


def evaluation_bytes(plan: RunPlan) -> int:
    """Return the bytes of the context in which a worker evaluates the average; its weights are those in the store."""
    weights = {name: np.zeros(shape, np.float32) for name, shape in plan.network.parameters.items()}  # never touched
    batch, choices = plan.settings.batch_size, plan.choices
    return TrainingContext(plan.network, weights, batch, choices=choices, backward=False).nbytes


def plan_outbox_slots(plan: RunPlan) -> int:
    """Return how many updates each worker's outbox holds."""
    return outbox_slots(plan.settings.exchange_images, plan.settings.batch_size, plan.split.workers)


def gradient_bytes(network: Network, layout: Layout, direct: bool, apart: Collection[str] = ()) -> int:
    """Return the bytes of a worker's gradient that take memory, because the worker writes them.

    If the weights of dense layers but those `apart` are updated directly, without a gradient, their part is never
    written.
    """
    dense = [node.name for node in network.nodes if isinstance(node.layer, Dense) and node.name in network.tail]
    names = {f"{name}.weight" for name in dense if direct}.difference(apart)
    unwritten = sum(tensor.size for tensor in layout.tensors if tensor.name in names)
    return 4 * (layout.size - unwritten)

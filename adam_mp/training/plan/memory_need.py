"""What memory a run will take, part by part: the one place that counts it, and refuses a run that has not enough.

It counts memory that a run takes for a moment only, such as the second copy of a checkpoint, as if the run had it all
the time: the disk may be slow when memory is shortest. The cache of decoded images is not counted: it takes what is
left, and leaves the rest of the run what `kept` says. What the survey kept of it is given up where the run needs it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from adam_mp.errors import SpaceError, several
from adam_mp.memory.exchange import ExchangeMemory
from adam_mp.memory.layout import Layout
from adam_mp.memory.segment import check_space
from adam_mp.memory.steps import StepShape
from adam_mp.network.layers import Dense
from adam_mp.network.network import Network
from adam_mp.params.replica.factors import FactorShape, outbox_slots
from adam_mp.params.server.server_memory import server_memory
from adam_mp.training.data.kept_images import KeptImages
from adam_mp.training.folder.keeper import COPIES
from adam_mp.training.plan.plan import RunPlan
from adam_mp.transport.local import LocalChannel

_INTERPRETER_BYTES = 70 << 20  # of a process of its own: the interpreter, numpy, numba and the kernels
_FORK_SERVER_BYTES = 90 << 20  # the same, loaded whole, which all children of a run share
_CHILD_BYTES = 24 << 20  # what a forked child writes of that, and makes for itself


@dataclasses.dataclass(frozen=True)
class MemoryNeed:
    """Bytes by what they are for. `shared` lies in memory, or in the folder of `--memory-dir`; `private` in memory.

    `kept` of the private ones are the copies that the supervisor takes as the run goes.
    """

    shared: Mapping[str, int]
    private: Mapping[str, int]
    kept: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.shared.values()) + sum(self.private.values())

    def check(self, purpose: str, folder: Path | None, kept: KeptImages | None = None) -> None:
        """Raise SpaceError, which names the parts, unless all of it is free.

        The images of `kept` are given up where there is not enough beside them: they can be decoded again.
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


def run_need(plan: RunPlan, factors: FactorShape | None, keeps: bool) -> MemoryNeed:
    """Return what a run needs on one machine, as a replica too.

    `factors` are the layers whose updates go to parameter servers as activations and errors; `keeps` whether it writes
    checkpoints and models.
    """
    workers, servers, sizes = plan.split.workers, plan.split.data_servers, plan.run_shape.sizes
    rings = sum(size for name, size in sizes.items() if name.startswith("ring"))
    data = sum(sizes[name] for name in plan.run_shape.arrays)
    shared = {
        "weights and optimizer state": plan.store_bytes, "the data set": data, "rings": rings,
        "ledgers": sum(sizes.values()) - rings - data,
    }  # fmt: skip
    if plan.consistency.in_steps:
        shared["gradients of a step"] = step_shape(plan).bytes
    if plan.is_replica:
        shared["the exchange with the servers"] = ExchangeMemory.bytes_needed(plan.layout)
    context = plan.costs.context_bytes - 4 * plan.layout.size
    if not plan.consistency.in_steps:
        context += gradient_bytes(plan.network, plan.layout, plan.optimizer.is_plain_descent)
    processes = workers + servers + int(plan.is_replica)
    private = {
        "processes": _FORK_SERVER_BYTES + _CHILD_BYTES * processes,
        "gradients and activations": workers * context,
    }
    if factors is not None:
        outboxes = workers * LocalChannel.bytes_needed(plan_outbox_slots(plan), factors.numbers)
        shared["outboxes"] = outboxes
        private["activations on their way"] = outboxes  # as the synchronizer gathers them
    kept = 0
    if keeps:
        # One thread writes one thing at a time: of models and checkpoints, one of the four copies cannot be there.
        copies, model = COPIES * plan.store_bytes, (COPIES - 1) * 4 * plan.layout.size
        private.update({f"{COPIES} copies of a checkpoint": copies, "the best model": model})
        kept = copies + model
    return MemoryNeed(shared, private, kept)


def launch_need(plan: RunPlan, factors: FactorShape | None) -> MemoryNeed:
    """Return what a run needs whose parameter servers and replicas are all on this machine."""
    settings, one = plan.settings, run_need(plan, factors, keeps=True)
    assert settings.servers is not None
    shards = [4 * shard.size for shard in plan.layout.shards]
    server = sum(server_memory(0, max(shards), snapshots=True).values()) + _INTERPRETER_BYTES
    private = {name: size * settings.replicas for name, size in one.private.items()}
    private[several(settings.servers, "parameter server")] = sum(shards) + settings.servers * server
    # The other replicas load the data set for themselves before they share it.
    others = (settings.replicas - 1) * (_INTERPRETER_BYTES + one.shared["the data set"])
    if others:
        private["supervisors of the other replicas"] = others
    return MemoryNeed({name: size * settings.replicas for name, size in one.shared.items()}, private)


def step_shape(plan: RunPlan) -> StepShape:
    """Return the sizes of the memory of synchronous steps."""
    return StepShape(plan.split.workers, plan.layout.size, 1 + len(plan.optimizer.states))


def plan_outbox_slots(plan: RunPlan) -> int:
    """Return how many updates each worker's outbox holds."""
    return outbox_slots(plan.settings.exchange_images, plan.settings.batch_size, plan.split.workers)


def gradient_bytes(network: Network, layout: Layout, plain: bool) -> int:
    """Return what a worker writes of its gradient: with plain descent dense weights are updated without one."""
    dense = [name for name, layer in zip(network.names, network.layers, strict=True) if isinstance(layer, Dense)]
    direct = sum(tensor.size for tensor in layout.tensors if plain and tensor.name.removesuffix(".weight") in dense)
    return 4 * (layout.size - direct)

"""From a plan to shared memory with everything in it, and to what each process is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from adam_mp.data.server import DataServerSpec
from adam_mp.memory.run_memory import RunMemory
from adam_mp.memory.segment import check_space
from adam_mp.memory.store import ParameterStore
from adam_mp.training.plan import RunPlan
from adam_mp.training.worker import WorkerSpec

_INTERPRETER_BYTES = 70 << 20  # what a child takes for itself: the interpreter, numpy, numba and the kernels


def prepare_memory(plan: RunPlan) -> tuple[RunMemory, ParameterStore]:
    """Make the run's shared memory, owned by the caller, and fill in images and first or resumed weights.

    Raises SpaceError, before taking any, if there is not enough for it and for the workers' contexts.
    """
    shape = plan.run_shape
    folder = None if plan.settings.memory_dir is None else Path(plan.settings.memory_dir)
    needed = shape.offsets()[1] + plan.store_bytes
    processes = plan.costs.context_bytes * plan.split.workers
    processes += _INTERPRETER_BYTES * (plan.split.workers + plan.split.data_servers)
    if folder is not None:
        check_space(needed, "the run", folder)
        needed = 0
    check_space(needed + processes, f"the run, with {plan.split.workers + plan.split.data_servers} processes,")
    memory = RunMemory.create(shape, folder)
    try:
        store = ParameterStore.create(plan.layout, plan.optimizer.states, folder)
    except BaseException:
        memory.close()
        raise
    _fill_data(plan, memory.arrays)
    _fill_store(plan, store)
    return memory, store


def _fill_data(plan: RunPlan, arrays: dict[str, np.ndarray]) -> None:
    arrays["train_images"][...] = plan.data.train.images
    arrays["train_labels"][...] = plan.data.train.labels
    arrays["validation"][...] = plan.validation
    if plan.data.test is not None:
        arrays["test_images"][...] = plan.data.test.images
        arrays["test_labels"][...] = plan.data.test.labels
        arrays["test_indices"][...] = np.arange(len(plan.data.test))


def _fill_store(plan: RunPlan, store: ParameterStore) -> None:
    if plan.resumed is None:
        store.load(plan.weights)
        return
    store.weights[...] = plan.resumed.spaces["weights"]
    for name, state in store.states.items():
        state[...] = plan.resumed.spaces[name]
    store.set_updates(plan.resumed.updates)


def make_specs(
    plan: RunPlan, memory: RunMemory, store: ParameterStore
) -> tuple[list[WorkerSpec], list[DataServerSpec]]:
    """Return what each worker and each data server is told; workers are numbered first."""
    settings = plan.settings
    workers = [
        WorkerSpec(
            process=number,
            memory=memory.handle,
            store=store.handle,
            network=plan.network,
            choices=plan.choices,
            normalization=plan.normalization,
            optimizer=plan.optimizer,
            schedule=plan.schedule,
            batch_size=settings.batch_size,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            seed=settings.seed,
        )
        for number in range(plan.split.workers)
    ]
    servers = [
        DataServerSpec(
            process=plan.split.workers + number,
            memory=memory.handle,
            batch_size=settings.batch_size,
            seed=settings.seed,
            augmentation=plan.augmentation,
            normalization=plan.normalization,
        )
        for number in range(plan.split.data_servers)
    ]
    return workers, servers

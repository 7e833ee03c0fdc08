"""Copies of a run's weights: from the store to a checkpoint or a model, and from a checkpoint back to the store."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from adam_mp.compute.model import Model, Tensors
from adam_mp.compute.part_storage import WholeTensors
from adam_mp.kernels.average import move_average
from adam_mp.memory.store import ParameterStore
from adam_mp.training.folder.checkpoint import Checkpoint, Spaces, StoredCheckpoint, TensorsOf
from adam_mp.training.folder.figures import Figures
from adam_mp.training.plan.run_plan import RunPlan
from adam_mp.training.settings.averages import AVERAGE


def spaces_of(store: ParameterStore) -> Spaces:
    """Return the store's own arrays, by the names that a checkpoint gives them; the average is one of them.

    Of states that each worker has for itself they are those of worker 0, where a checkpoint has the sum of all. Who
    fills the arrays from a checkpoint then calls `ParameterStore.share_out`.
    """
    return {"weights": store.weights, **store.states}


def take_checkpoint(
    plan: RunPlan, store: ParameterStore, figures: Figures, epoch: int, states: np.ndarray, place: Spaces | None
) -> Checkpoint:
    """Copy the state of a run that is paused in `epoch`, whose batches have the ledger `states` [batches].

    `place` are the arrays of an earlier copy, to be written over; if None, new arrays are made. Of a model whose
    partitions are on several machines no copy is made: the result is to be written before training goes on.
    """
    spaces = spaces_of(store) if plan.is_apart else _copy(spaces_of(store), place)
    for name in store.own_names:
        store.add_own(name, spaces[name])
    return Checkpoint(
        network=plan.network,
        normalization=plan.data.normalization,
        spaces=spaces,
        ledger=states,
        epoch=epoch,
        updates=store.read_step(),
        identity=plan.identity,
        progress=dataclasses.asdict(figures),
        tensors_of=plan.tensors_of,
    )


def restore(
    store: ParameterStore, checkpoint: Checkpoint | StoredCheckpoint, updates: int, tensors_of: TensorsOf | None = None
) -> None:  # fmt: skip
    """Copy weights and optimizer state of a checkpoint into the store, and set the store's count of updates.

    `tensors_of` is as in `Checkpoint`, for one that is read from its file.
    """
    if isinstance(checkpoint, StoredCheckpoint):
        checkpoint.read_into(spaces_of(store), tensors_of)
    else:
        for name, space in spaces_of(store).items():
            space[...] = checkpoint.spaces[name]
    store.share_out()
    set_updates(store, updates)


def note_updates(plan: RunPlan, updates: int) -> None:
    """Tell the partitions on other machines how many updates the run has made, if there are any."""
    if plan.elsewhere is not None:
        plan.elsewhere.note_updates(updates)


def set_updates(store: ParameterStore, updates: int) -> None:
    """Set the store's count of updates, when a run resumes or goes back; the average moves by those after them."""
    store.set_updates(updates)
    store.note_average(updates)


def evaluated_tensors(plan: RunPlan, store: ParameterStore) -> WholeTensors:
    """Return views of the weights, by name, that are evaluated and become the model: the average if there is one."""
    if plan.average is None:
        return plan.tensors_of("weights", store.weights)
    return plan.tensors_of(AVERAGE, store.states[AVERAGE])


def average_epoch(plan: RunPlan, store: ParameterStore, epoch: int, averaged: int) -> int:
    """Take the weights into the average of the last epochs, at the end of `epoch`, while workers are idle.

    `averaged` is how many epochs were in the average before; return how many are now. Before the last epochs it is 0,
    and the average is the weights. Without such an average nothing is done.
    """
    average = plan.average
    if average is None or average.moves:
        return 0
    now = average.of_epochs(epoch, plan.settings.epochs, averaged)
    move_averages(plan, store, 1 / max(now, 1))
    return now


def move_own_average(store: ParameterStore, share: float) -> None:
    """Move the average by `share` towards the weights in this machine's store; 1.0 makes it the weights."""
    if share < 1:
        move_average(store.states[AVERAGE], store.weights, share)
    else:
        store.states[AVERAGE][...] = store.weights


def move_averages(plan: RunPlan, store: ParameterStore, share: float) -> None:
    """Do the same on all machines of the group."""
    move_own_average(store, share)
    if plan.elsewhere is not None:
        plan.elsewhere.average(share)


def begin_average(plan: RunPlan, store: ParameterStore) -> None:
    """Let an average of the last epochs be the weights of a run that ends before an epoch has ended."""
    if plan.average is not None and not plan.average.moves:
        move_averages(plan, store, 1.0)


def take_model(
    plan: RunPlan, store: ParameterStore, statistics: Tensors, figures: Figures, place: Tensors | None
) -> Model:  # fmt: skip
    """Copy the weights, or their average, as a model whose epoch and accuracy are those of the best in `figures`.

    `statistics` are those of norms for these weights, which the model keeps. `place` are the arrays of an earlier
    model, to be written over; if None, new arrays are made. As with a checkpoint, no copy is made of a model whose
    partitions are on several machines.
    """
    evaluated: Any = evaluated_tensors(plan, store)
    weights = {**(evaluated if plan.is_apart else _copy(evaluated, place)), **statistics}
    data = plan.data
    normalization = data.normalization
    return Model(
        plan.network, weights, normalization.mean, normalization.deviation, normalization.fill,
        data.dataset.class_names, data.keep, figures.best_epoch or 0, figures.validation_accuracy,
        {
            **data.dataset.options.as_dict(), "even_background": data.even_background,
            "untrained": data.dataset.untrained, "columns": list(data.dataset.columns),
        }, data.dataset.values,
    )  # fmt: skip


def _copy(arrays: WholeTensors, place: Tensors | None) -> Tensors:
    """Copy each array into the one of its name in `place`, or into a new one if `place` is None; return the copies."""
    if place is None:
        return {name: array.copy() for name, array in arrays.items()}
    for name, array in arrays.items():
        place[name][...] = np.asarray(array)
    return place

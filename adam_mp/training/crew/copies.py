"""Copies of what a run has learned: of its weights into a checkpoint or a model, and of a checkpoint into its store."""

from __future__ import annotations

import dataclasses

import numpy as np

from adam_mp.compute.model import Model, Tensors
from adam_mp.memory.store import ParameterStore
from adam_mp.training.folder.checkpoint import Checkpoint, Spaces
from adam_mp.training.folder.figures import Figures
from adam_mp.training.plan.plan import RunPlan


def spaces_of(store: ParameterStore) -> Spaces:
    """Return the store's own arrays as those of a checkpoint."""
    return {"weights": store.weights, **store.states}


def take_checkpoint(
    plan: RunPlan, store: ParameterStore, figures: Figures, epoch: int, states: np.ndarray, place: Spaces | None
) -> Checkpoint:
    """Copy the state of a run, which must be paused in `epoch` with its ledger in `states`.

    The numbers are written over those in `place`, arrays of an earlier copy, if there are some.
    """
    return Checkpoint(
        network=plan.network,
        normalization=plan.data.normalization,
        spaces=_copy(spaces_of(store), place),
        ledger=states,
        epoch=epoch,
        updates=store.read_step(),
        identity=plan.identity,
        progress=dataclasses.asdict(figures),
    )


def restore(store: ParameterStore, checkpoint: Checkpoint, updates: int) -> None:
    """Copy weights and optimizer state of a checkpoint into the store, and set its count of updates."""
    for name, space in spaces_of(store).items():
        space[...] = checkpoint.spaces[name]
    store.set_updates(updates)


def take_model(plan: RunPlan, store: ParameterStore, figures: Figures, place: Tensors | None) -> Model:
    """Copy the present weights as a model, the best so far, over those of an earlier one in `place`, if any."""
    weights = _copy(store.tensors, place)
    data = plan.data
    normalization = data.normalization
    return Model(
        plan.network, weights, normalization.mean, normalization.deviation, normalization.fill,
        data.dataset.class_names, data.keep, figures.best_epoch or 0, figures.validation_accuracy,
    )  # fmt: skip


def _copy(arrays: Tensors, place: Tensors | None) -> Tensors:
    """Copy arrays by name, into those of `place` if it is given; return the copies."""
    if place is None:
        return {name: array.copy() for name, array in arrays.items()}
    for name, array in arrays.items():
        place[name][...] = array
    return place

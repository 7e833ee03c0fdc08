"""Copies of what a run has learned: of its weights into a checkpoint or a model, and of a checkpoint into its store."""

from __future__ import annotations

import dataclasses

import numpy as np

from adam_mp.compute.model import Model
from adam_mp.memory.store import ParameterStore
from adam_mp.training.checkpoint import Checkpoint
from adam_mp.training.figures import Figures
from adam_mp.training.plan import RunPlan


def take_checkpoint(
    plan: RunPlan, store: ParameterStore, figures: Figures, epoch: int, states: np.ndarray
) -> Checkpoint:
    """Copy the state of a run, which must be paused in `epoch` with its ledger in `states`."""
    return Checkpoint(
        network=plan.network,
        normalization=plan.data.normalization,
        spaces={"weights": store.weights.copy(), **{name: state.copy() for name, state in store.states.items()}},
        ledger=states,
        epoch=epoch,
        updates=store.read_step(),
        identity=plan.identity,
        progress=dataclasses.asdict(figures),
    )


def restore(store: ParameterStore, checkpoint: Checkpoint, updates: int) -> None:
    """Copy weights and optimizer state of a checkpoint into the store, and set its count of updates."""
    store.weights[...] = checkpoint.spaces["weights"]
    for name, state in store.states.items():
        state[...] = checkpoint.spaces[name]
    store.set_updates(updates)


def take_model(plan: RunPlan, store: ParameterStore, figures: Figures) -> Model:
    """Copy the present weights as a model, which is the best so far."""
    weights = {name: tensor.copy() for name, tensor in store.tensors.items()}
    data = plan.data
    normalization = data.normalization
    return Model(
        plan.network, weights, normalization.mean, normalization.deviation, normalization.fill,
        data.dataset.class_names, data.keep, figures.best_epoch or 0, figures.validation_accuracy,
    )  # fmt: skip

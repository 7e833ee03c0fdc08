"""Resuming a run: its settings, checkpoint and best model, and whether they fit the settings that are given now."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from adam_mp.compute.choice import KernelChoices
from adam_mp.compute.model import MODEL_FILE, load
from adam_mp.data.reading.options import WHITE
from adam_mp.errors import CheckpointError, RunFolderError, several
from adam_mp.network.network import Network
from adam_mp.training.folder.checkpoint import RunState, StoredCheckpoint, read_checkpoint
from adam_mp.training.folder.places import GIVEN, PATHS, find_path
from adam_mp.training.folder.run_folder import RUN_FILE, read_record
from adam_mp.training.settings.combinations import OF_MANY, OF_PARTITIONS, OF_SERVERS
from adam_mp.training.settings.settings import FIELDS, TrainSettings, make_settings

# Settings that a resumed run must keep: they decide what the samples, batches and optimizer state of a checkpoint mean.
# `model` and `data` are not among them: they are compared by what they are, wherever their files lie now.
_FIXED = ("image_size", "ignore_orientation", "white", "validation", "batch_size", "seed", "optimizer")
_OF_DATA = ("data", "data_digest")  # values of a checkpoint's identity that `check_same_data` compares
# Earlier versions lacked these settings, so their runs noted nothing of them. Such a run did what stands here.
_BEFORE = {"ignore_orientation": True, "white": WHITE, "decay_all": True}


def recorded_choices(settings: TrainSettings) -> KernelChoices | None:
    """Return the kernels that the run has used so far, None if it noted none; other kernels would round differently."""
    assert settings.folder is not None
    try:
        return KernelChoices.from_dict(read_record(settings.folder)["plan"]["kernels"])
    except (KeyError, TypeError, ValueError):
        return None


def resume_settings(
    settings: TrainSettings, explicit: Mapping[str, Any], say: Callable[[str], None]
) -> tuple[TrainSettings, StoredCheckpoint]:
    """Return the settings of the run in the folder, replaced by those given now, and its newest checkpoint.

    `explicit` are the settings that the user gave now, `settings` are the same with defaults for the rest. `say` gets a
    line if a run of many machines goes on alone. Raises RunFolderError if the settings are those of another run, and
    CheckpointError.
    """
    folder = settings.folder
    assert folder is not None
    if folder.is_file():
        parent = f", {folder.parent}" if (folder.parent / RUN_FILE).is_file() else ""
        raise RunFolderError(f"{folder} is a file; give the folder of the run to resume{parent}")
    if not folder.is_dir():
        raise RunFolderError(f"run folder {folder} does not exist; give the folder of the run to resume")
    record = read_record(folder)
    stored = {name: value for name, value in {**_BEFORE, **record["settings"]}.items() if name in FIELDS}
    for name in _FIXED:
        given = explicit.get(name)
        if given is not None and stored.get(name) != (str(given) if isinstance(given, Path) else given):
            raise RunFolderError(
                f"run folder {folder} belongs to a run with {name} {stored.get(name)!r}, not {given!r}; "
                f"leave {name} out, or name another folder"
            )
    if stored.get("data") == GIVEN and "data" not in explicit:
        raise RunFolderError(f"the run in {folder} was given its data by the caller; give the same data again")
    checkpoint = read_checkpoint(folder)
    if stored.get("model") == GIVEN:
        stored.pop("model")
    for name in PATHS:
        if name not in explicit and stored.get(name) is not None:
            stored[name] = find_path(folder, record, name)
    left_behind = _drop_machines_of_partitions(stored, settings, explicit)
    if (settings.partitions if "partitions" in explicit else stored.get("partitions", 1)) == 1:
        for name in OF_PARTITIONS:
            stored.pop(name, None)
    left_behind = _drop_other_machines(stored, settings, explicit) or left_behind
    merged = make_settings({**stored, **explicit, "run_dir": str(folder), "resume": True})
    if left_behind is not None:
        say(f"the run goes on alone from its checkpoint in epoch {checkpoint.epoch + 1}, without {left_behind}")
    return merged, checkpoint


def _drop_machines_of_partitions(
    stored: dict[str, Any], settings: TrainSettings, explicit: Mapping[str, Any]
) -> str | None:  # fmt: skip
    """Remove from `stored` how a model was cut over machines, if those given now cut it otherwise.

    If its partitions are all on this machine by that, return what the run goes on without, in words; else None.
    """
    before = stored.get("partition")
    if settings.partition is not None:
        stored.pop("partitions", None)  # another number of machines
    elif "partition" in explicit or "partitions" in explicit:
        for name in ("partition", "listen"):
            stored.pop(name, None)
        return None if before is None else "its partitions on other machines"
    return None


def _drop_other_machines(stored: dict[str, Any], settings: TrainSettings, explicit: Mapping[str, Any]) -> str | None:
    """Remove settings of other machines from `stored` that those given now replace or leave without meaning.

    If a run of many machines goes on alone by that, return what it goes on without, in words; else None.
    """
    before = {name: stored.get(name) for name in ("join", "servers")}
    for name, other in (("join", "servers"), ("servers", "join")):
        if getattr(settings, name) is not None:  # a run with parameter servers of its own may now join others, and back
            stored.pop(other, None)
    after = {name: getattr(settings, name) if name in explicit else stored.get(name) for name in before}
    if after["servers"] is None:
        for name in OF_SERVERS:
            stored.pop(name, None)
    if after != {"join": None, "servers": None}:
        return None
    for name in OF_MANY:
        stored.pop(name, None)
    served = settings.data_from if "data_from" in explicit else stored.get("data_from")
    if served is None and stored.get("partition") is None and settings.partition is None:
        stored.pop("key_file", None)
    if before["join"] is not None:
        return f"the run of many machines at {before['join']}"
    return f"its {several(before['servers'], 'parameter server')}" if before["servers"] is not None else None


@dataclasses.dataclass(frozen=True)
class BestModel:
    """The best model of a run that is resumed: its epoch (from 1) and validation accuracy, None if not known.

    `in_checkpoint` says that its weights are those of the checkpoint, and that the model's file does not have them yet.
    """

    epoch: int | None
    accuracy: float | None
    in_checkpoint: bool


def find_best(folder: Path, checkpoint: RunState) -> BestModel:
    """Find out whether the model's file or the checkpoint has the best model.

    A run writes first the model's file, then the checkpoint. If it was killed between the two, or the disk refused one
    of them, the file and the checkpoint name different epochs. Raises CheckpointError if the file is damaged.
    """
    path, progress = folder / MODEL_FILE, checkpoint.progress
    try:
        saved = load(path) if path.exists() else None
    except CheckpointError as error:
        raise CheckpointError(f"{error}; remove it to resume without") from None
    epoch, accuracy = progress["best_epoch"], progress["validation_accuracy"]
    if saved is not None and saved.epoch is None:
        return BestModel(epoch, accuracy, False)  # an older adam_mp wrote the file, which noted no epoch
    whole_epoch = progress["epochs_done"] > 0 and not progress["epoch_part"]  # the checkpoint is of an epoch's end
    if whole_epoch and (saved is None or saved.epoch != epoch == checkpoint.epoch):
        return BestModel(progress["epochs_done"], progress["last_validation_accuracy"], True)
    if saved is None:
        return BestModel(None, None, False)
    return BestModel(saved.epoch or None, saved.validation_accuracy, False)


def _other_layers(before: Network, now: Network) -> str:
    """Say in which layer a network differs from the one before."""
    if before.input_shape != now.input_shape:
        return f"it takes {before.input_shape}, not {now.input_shape}"
    for old, new in zip(before.nodes, now.nodes, strict=False):
        if old.layer != new.layer:
            return f"its {old.name} is {old.layer}, not {new.layer}"
        if old.name != new.name:
            return f"its {old.name} is named {new.name} now"
        if old.inputs != new.inputs:
            return f"its {old.name} reads {' and '.join(old.inputs)}, not {' and '.join(new.inputs)}"
    return f"it has {several(len(before.nodes), 'layer')}, not {len(now.nodes)}"


def check_same_network(folder: Path, checkpoint: RunState, network: Network) -> None:
    """Raise RunFolderError, with the first layer that differs, unless `checkpoint` is of the same network."""
    if checkpoint.network.nodes != network.nodes or checkpoint.network.input_shape != network.input_shape:
        raise RunFolderError(
            f"run folder {folder} belongs to another network, {checkpoint.network.name!r}: "
            f"{_other_layers(checkpoint.network, network)}; leave model out, or name another folder"
        )


def check_same_run(
    folder: Path,
    checkpoint: RunState,
    network: Network,
    identity: Mapping[str, Any],
    batches: int,
    epochs: int,
) -> None:
    """Raise RunFolderError unless `checkpoint` is of the same network, `identity` and number of batches in an epoch.

    Also raises it if nothing is left to do: all `epochs` are trained, and the model's file has the best model.
    """
    check_same_network(folder, checkpoint, network)
    for name, value in identity.items():
        if name not in _OF_DATA and checkpoint.identity.get(name) != value:
            raise RunFolderError(
                f"run folder {folder} belongs to a run with {name} {checkpoint.identity.get(name)!r}, now {value!r}; "
                "resume with the same data and settings, or name another folder"
            )
    if len(checkpoint.ledger) != batches:
        raise RunFolderError(
            f"run folder {folder} has {several(len(checkpoint.ledger), 'batch', 'batches')} an epoch, now {batches}; "
            "resume with as many training images and the same batch_size, or name another folder"
        )
    if not find_best(folder, checkpoint).in_checkpoint and checkpoint.epoch >= epochs:
        raise RunFolderError(
            f"the run in {folder} has done its {several(checkpoint.epoch, 'epoch')}; give --epochs more than "
            "that to go on"
        )

"""What was understood of the data: parts, classes, pixels, and what was left out. It is shown before a run trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from adam_mp.data.reading.account import left_out, some
from adam_mp.data.reading.dataset import DataSet
from adam_mp.data.reading.samples import Samples
from adam_mp.training.data.data_plan import Division, divide, load_dataset, settle_validation
from adam_mp.training.settings.events import DataUnderstood, Listener, Notice
from adam_mp.training.settings.settings import make_settings

_MOST_REASONS = 8


def check_data(explicit: Mapping[str, Any], listener: Listener) -> DataUnderstood:
    """Read the data that the settings name as a run would, tell `listener` what was understood, and return it."""
    settings = make_settings(explicit)
    dataset = load_dataset(settings)
    settings = settle_validation(settings, explicit, dataset, lambda text: listener(Notice(text)))
    found = understand(dataset, divide(dataset, settings))
    listener(found)
    return found


def understand(dataset: DataSet, division: Division) -> DataUnderstood:
    """Return what was understood of a data set and of its division into images to train, validate and test on."""
    labels = {"train": dataset.train.labels[division.training], "validation": dataset.labels[division.validation]}
    labels["test"] = np.zeros(0, np.int32) if dataset.test is None else dataset.test.labels
    counts = {part: np.bincount(each, minlength=dataset.classes) for part, each in labels.items()}
    names = dataset.class_names or tuple(map(str, range(dataset.classes)))
    reasons = left_out(dataset.rejected)
    return DataUnderstood(
        name=dataset.name,
        layout=dataset.account.layout,
        parts={part: len(each) for part, each in labels.items()},
        places=dict(dataset.account.places),
        held_out=dataset.validation is None and len(division.validation) > 0,
        class_names=names,
        class_counts={part: tuple(each.tolist()) for part, each in counts.items()},
        pixels=_pixels(dataset),
        left_out=tuple(str(each) for each in reasons[:_MOST_REASONS]),
        files_left_out=sum(each.count for each in reasons),
        notes=(*dataset.account.notes, *dataset.notices, *_gaps(dataset, names, counts)),
    )


def _gaps(dataset: DataSet, names: tuple[str, ...], counts: Mapping[str, np.ndarray]) -> list[str]:
    """Return notes about classes that have no image to train on, or none to validate or test on where others have.

    Classes without names that have no image at all, to train on or held out, are among the data set's own notices.
    Images that are held out to validate on may lack small classes without a note.
    """
    missing = {part: found == 0 for part, found in counts.items()}
    if not dataset.class_names:
        missing["train"] &= counts["validation"] > 0
    missing["validation"] &= dataset.validation is not None
    missing["validation"] &= counts["train"] > 0
    notes = []
    for part, what in (("train", "to train on"), ("validation", "to validate on"), ("test", "to test on")):
        if counts[part].any() and (lacking := [names[index] for index in np.flatnonzero(missing[part])]):
            notes.append(f"no image {what} of the class {some(lacking)}")
    return notes


def _pixels(dataset: DataSet) -> str:
    height, width, channels = dataset.image_shape
    if isinstance(dataset.train, Samples):
        kind = dataset.stored_type
        return f"{channels} features, {kind}" if height == width == 1 else f"{height}x{width}x{channels}, {kind}"
    colour = "grey" if channels == 1 else "colour"
    return f"pictures of {height}x{width}, {colour}"

"""The data of a run, known again when it is resumed: by what they are, wherever they lie, however that is spelled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adam_mp.data.reading.account import some
from adam_mp.data.reading.dataset import DataSet
from adam_mp.data.reading.fingerprint import Fingerprint, difference
from adam_mp.errors import RunFolderError

_MOST_NAMES = 1000  # of classes that a checkpoint notes


def data_identity(dataset: DataSet) -> dict[str, Any]:
    """Return what a checkpoint notes of the data, as plain values."""
    names = list(dataset.class_names) if len(dataset.class_names) <= _MOST_NAMES else []
    parts = {part: each.as_dict() for part, each in dataset.fingerprints.items()}
    return {"classes": names, "parts": parts, "turned": dataset.options.turned}


def check_same_data(folder: Path, identity: Mapping[str, Any], dataset: DataSet) -> None:
    """Raise RunFolderError, with what differs, unless a checkpoint of this `identity` is of a run on `dataset`."""
    why = data_difference(identity, dataset) or _reading_difference(identity, dataset)
    if why is not None:
        raise RunFolderError(
            f"the run in {folder} was trained on other data than {dataset.name}: {why}; give --data with the data of "
            "that run, or begin another run with another --run-dir"
        )


def data_difference(identity: Mapping[str, Any], dataset: DataSet) -> str | None:
    """Say in words how `dataset` differs from the data that a checkpoint's `identity` notes; None if it is the same.

    A test part may have come since. Checkpoints of earlier versions noted only names and labels of the images to train
    on, and those of tar shards with their paths.
    """
    noted = identity.get("data")
    if noted is not None:
        try:
            return _difference(noted, dataset)
        except (KeyError, TypeError, ValueError) as error:
            return f"its checkpoint has damaged notes of its data: {error!r}"
    if identity.get("data_digest") in (dataset.digest, dataset.digest_before):
        return None
    return (
        "the names, labels or number of the images to train on differ, or tar shards have moved since an earlier "
        "version of adam_mp began the run"
    )


def same_training_images(identity: Mapping[str, Any], dataset: DataSet) -> bool:
    """Tell whether the images to train on of `dataset` are those that a checkpoint's `identity` notes; reads files."""
    if identity.get("data_digest") != dataset.digest:
        return False
    try:
        before = Fingerprint.of_dict(identity["data"]["parts"]["train"])
    except (KeyError, TypeError, ValueError):  # an earlier version noted no contents
        return True
    return difference("train", before, dataset.fingerprints["train"], str, str) is None


def _reading_difference(identity: Mapping[str, Any], dataset: DataSet) -> str | None:
    """Say in words how images are read otherwise than before; None if as before. Earlier versions noted nothing."""
    turned = dataset.options.turned
    if (identity.get("data") or {}).get("turned", turned) == turned:
        return None
    return f"their images are {'turned' if turned else 'not turned'} as their EXIF orientation asks"


def _difference(noted: Mapping[str, Any], dataset: DataSet) -> str | None:
    names = list(dataset.class_names)
    if noted["classes"] and noted["classes"] != names and len(names) <= _MOST_NAMES:
        return f"they have the classes {some(names) or 'without names'}, and had {some(noted['classes'])}"
    before = {part: Fingerprint.of_dict(values) for part, values in noted["parts"].items()}
    for part, now in dataset.fingerprints.items():
        if part not in before:
            if part == "test":
                continue
            return f"they have a {part} part now"
        numbers = dataset.numbers(getattr(dataset, part))

        def place(number: int, numbers: Any = numbers) -> str:
            return dataset.place(int(numbers[number]))

        def name_of(number: int) -> str:
            return names[number] if number < len(names) else f"class {number}"

        if (found := difference(part, before[part], now, name_of, place)) is not None:
            return found
    if lacking := [part for part in before if part not in dataset.fingerprints]:
        return f"they have no {lacking[0]} part any more"
    return None

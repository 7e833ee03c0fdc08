"""Where the files of a run's settings are, from whatever folder the run is resumed or evaluated."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adam_mp.errors import RunFolderError
from adam_mp.training.settings.settings import FIELDS

_EMBEDDED = FIELDS["data"].default
PATHS = ("data", "key_file", "memory_dir")  # settings that name files or folders
GIVEN = "given by the caller"  # in the record, in place of a setting that is an object


def places_of(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what run.json keeps to find files again: the present folder, and the way from `folder` to the data."""
    here = os.getcwd()
    data = settings.get("data")
    if not isinstance(data, str) or data in (_EMBEDDED, GIVEN):
        return {"started_in": here}
    try:
        way = os.path.relpath(data, folder)
    except ValueError:
        return {"started_in": here}
    return {"started_in": here, "data_from_run": way}


def find_path(folder: Path, record: Mapping[str, Any], name: str) -> Any:
    """Return the setting `name` of a run's `record`, a path that leads to its file from the present folder.

    Looks where the file was when the run began; then, for data, at the same way from the run folder, in case both have
    moved together; then from the present folder. Without any file there, and for what is no path, it is returned as it
    is, but data that are gone raise RunFolderError.
    """
    from adam_mp.data.reading.loading import names_files  # brings the image libraries, which writing a record needs not

    value = record["settings"][name]
    if not isinstance(value, str) or (name == "data" and value in (_EMBEDDED, GIVEN)):
        return value
    places = record.get("places") or {}
    started = places.get("started_in") or _likely_start(folder, record["settings"])
    candidates = [os.path.join(started, value)] if started else []
    if name == "data" and "data_from_run" in places:
        candidates.append(os.path.normpath(os.path.join(folder, places["data_from_run"])))
    candidates.append(value)
    for candidate in candidates:
        if names_files(candidate):
            return value if os.path.abspath(candidate) == os.path.abspath(value) else os.path.abspath(candidate)
    if name != "data":
        return value
    looked = list(dict.fromkeys(os.path.abspath(each) for each in candidates))
    raise RunFolderError(
        f"the data of the run in {folder} ({value}) are not at {' nor at '.join(looked)}; give --data with their place"
    )


def _likely_start(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """Return the folder in which an earlier version began a run: it noted the run folder as it was named there."""
    named = settings.get("run_dir")
    steps = Path(named).parts if isinstance(named, str) else ("runs", folder.name)
    place = Path(os.path.abspath(folder))
    if not steps or os.path.isabs(steps[0]) or ".." in steps or place.parts[-len(steps) :] != steps:
        return None
    return str(place.parents[len(steps) - 1])

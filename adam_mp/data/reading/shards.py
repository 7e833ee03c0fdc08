"""Tar shards, as WebDataset writes them: tar files with an image `key.jpg` and its label `key.cls` or `key.json`.

The members of one key follow each other. (A *shard* without "tar" is a piece of the weights: see `memory.layout`.)
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from adam_mp.data.reading.faults import BadSample, Fault
from adam_mp.data.reading.image_folder import ENDINGS, PARTS
from adam_mp.data.reading.labels import most_alike, plain_label, plain_of
from adam_mp.data.reading.records import Records, RecordTable
from adam_mp.errors import DataError

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_LABEL_LIMIT = 1 << 20  # bytes of a label file


def is_shard_name(source: str) -> bool:
    """Tell whether `source` names tar shards: `name.tar`, or `name-{0000..0146}.tar`."""
    return source.endswith(".tar")


def expand_braces(pattern: str) -> list[str]:
    """Return the names that `name-{0000..0146}.tar` stands for; of several braces, the last counts fastest."""
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    first, last = match[1], match[2]
    if int(last) < int(first):
        raise DataError(f"{pattern}: {match[0]} counts down; expected the smaller number first")
    width = len(first) if first.startswith("0") or len(first) == len(last) else 0
    numbers = (str(number).zfill(width) for number in range(int(first), int(last) + 1))
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return [name for number in numbers for name in expand_braces(head + number + tail)]


def shards_by_part(folder: Path) -> dict[str, list[Path]]:
    """Return part -> tar shards of a folder.

    A name that begins with train, val or test says the part; all others are "train".
    """
    shards = sorted(folder.glob("*.tar"))
    parts: dict[str, list[Path]] = {}
    for shard in shards:
        part = next((part for part, names in PARTS.items() if shard.name.lower().startswith(tuple(names))), None)
        parts.setdefault(part or "train", []).append(shard)
    return parts


def read_shards(paths: Sequence[Path]) -> tuple[Records, np.ndarray]:
    """Return the samples of all tar shards, in the order given, and their plain labels (see `labels`).

    The samples' own labels are not numbered yet. A label of another kind, text or number, than most
    is left out. Raises DataError if a tar shard is missing or damaged, or if none has an image with a label.
    """
    parts: list[tuple[int, int, int]] = []
    labels: list[int | bool | str] = []
    names: list[str] = []
    rejected: list[BadSample] = []
    for number, path in enumerate(paths):
        for key, members in _samples(path):
            image = next((members[ending] for ending in members if f".{ending}".endswith(ENDINGS)), None)
            if image is None:
                rejected.append(BadSample(f"{path.absolute()}: {key}", Fault.NOT_AN_IMAGE))
                continue
            label = _label(path, members)
            if label is None:
                rejected.append(BadSample(f"{path.absolute()}: {image.name}", Fault.NO_LABEL))
                continue
            parts.append((number, image.offset_data, image.size))
            labels.append(label)
            names.append(image.name)
    if not parts:
        raise DataError(f"{paths[0]} and {len(paths) - 1} more tar shards have no image with a label (.jpg with .cls)")
    alike = most_alike(labels)
    for part, name, same in zip(parts, names, alike, strict=True):
        if not same:
            rejected.append(BadSample(f"{paths[part[0]].absolute()}: {name}", Fault.NO_LABEL))
    kept = [part for part, same in zip(parts, alike, strict=True) if same]
    plain = plain_of([label for label, same in zip(labels, alike, strict=True) if same], f"tar shard {paths[0]}")
    table = RecordTable.of_parts(Path(), [str(path.absolute()) for path in paths], kept)
    return Records(table, np.zeros(len(kept), np.int32), tuple(rejected)), plain


def _samples(path: Path) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """Yield each key of a tar shard with its members, by ending in lower case."""
    key = ""
    members: dict[str, tarfile.TarInfo] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                if f"{folder}/{stem}" != key:
                    if members:
                        yield key, members
                    key, members = f"{folder}/{stem}", {}
                members[ending.lower()] = member
    except FileNotFoundError:
        raise DataError(f"tar shard {path} does not exist") from None
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"tar shard {path} is not a whole tar file: {error}") from None
    if members:
        yield key, members


def _label(path: Path, members: dict[str, tarfile.TarInfo]) -> int | bool | str | None:
    """Return the label in the .cls or .json member; None if neither has one, or if they disagree.

    A .cls file has a whole number or a name, a .json file also any other label that `labels.plain_label` takes.
    """
    found: set[int | bool | str] = set()
    for ending in ("cls", "json"):
        member = members.get(ending)
        if member is None:
            continue
        if member.size > _LABEL_LIMIT:
            return None
        with open(path, "rb") as file:
            file.seek(member.offset_data)
            content = file.read(member.size)
        try:
            if ending == "cls":
                label = _number_or_name(content.decode("utf-8-sig"))
            else:
                described = json.loads(content)
                label = plain_label(described["label"] if "label" in described else described["cls"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        if not isinstance(label, str) and label < 0:
            return None
        found.add(label)
    return found.pop() if len(found) == 1 else None


def _number_or_name(text: str) -> int | bool | str:
    try:
        return int(text)
    except ValueError:
        return plain_label(text.strip())

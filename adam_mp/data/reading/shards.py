"""Tar shards, as WebDataset writes them: tar files with an image `key.jpg` and its label `key.cls` or `key.json`.

Labels are whole numbers from 0, or the names of classes. (A *shard* without "tar" is a piece of the weights: see
`memory.layout`.)
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from adam_mp.data.reading.account import Account, copies, some, why_nothing
from adam_mp.data.reading.belongings import is_held_out
from adam_mp.data.reading.faults import BadSample, Fault
from adam_mp.data.reading.image_kinds import is_dropping
from adam_mp.data.reading.labels import Spelled, find_classes, most_alike, names_among, plain_of
from adam_mp.data.reading.name_patterns import shards_apart
from adam_mp.data.reading.part_names import TEST, TRAIN, VALIDATION, part_of, part_within
from adam_mp.data.reading.records import Records, RecordTable
from adam_mp.data.reading.shard_samples import ShardAccount, read_samples
from adam_mp.errors import DataError, several

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
_FEW_IMAGES = 20  # of so few, each may have a class of its own


@dataclasses.dataclass(frozen=True)
class ShardSet:
    """What tar shards have: the records of each part, the names of the classes (none for numbers), the account.

    `notices` are lines for the user.
    """

    parts: Mapping[str, Records]
    classes: Sequence[str]
    account: Account
    notices: Sequence[str] = ()


def is_shard_name(source: str) -> bool:
    """Tell whether `source` names tar shards: `name.tar`, or `name-{0000..0146}.tar`."""
    return source.lower().endswith(".tar")


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
    """Return part -> tar shards of a folder, or of its part folders.

    A word of the name says the part (see `part_names`). If no name has such a word, all are "train". Raises DataError
    for a name that says two parts, or none where others do.
    """
    parts: dict[str, list[Path]] = {}
    nameless: list[Path] = []
    for shard in _tars(folder):
        part, several = part_within(shard.name)
        if several:
            raise DataError(f"tar shard {shard} names two parts; name it by one of train, val and test")
        if part is None:
            nameless.append(shard)
        else:
            parts.setdefault(part, []).append(shard)
    if nameless and parts:
        raise DataError(
            f"the names of the tar shards {some((path.name for path in nameless), 3)} in {folder} say no part, but "
            f"that of {next(iter(parts.values()))[0].name} does; name them by one of train, val and test, or move "
            "them away"
        )
    if nameless:
        parts[TRAIN] = nameless
    for inside in sorted(path for path in folder.iterdir() if path.is_dir() and not is_dropping(path.name)):
        if (part := part_of(inside.name)) is not None and (shards := _tars(inside)):
            if part in parts:
                raise DataError(f"{parts[part][0]} and {shards[0]} are of one part; move all of it into one folder")
            parts[part] = shards
    return parts


def packed_shards(folder: Path) -> list[str]:
    """Return the names of compressed tar files in a folder."""
    return sorted(path.name for path in folder.iterdir() if path.name.lower().endswith(PACKED))


def read_shard_set(shards: Mapping[str, Sequence[Path]], parts_named: bool, only_test: bool = False) -> ShardSet:
    """Return the samples of all tar shards, in the order given.

    With `only_test`, the test part is read alone, as "train". Raises DataError if a tar shard is missing or damaged, or
    if no image to train on has a label.
    """
    notes: list[str] = []
    if only_test:
        if TEST not in shards and parts_named:
            raise DataError(f"there are no test shards to evaluate on, only shards to {' and '.join(shards)}")
        to_train = [] if parts_named else [path for path in shards[TRAIN] if part_within(path.name)[0] == TRAIN]
        if to_train:
            names = some((path.name for path in to_train), 3)
            notes.append(f"the tar shards {names} are named as those to train on, and tested: there are no others")
        shards = {TRAIN: shards[TEST] if parts_named else shards[TRAIN]}
    elif TRAIN not in shards:
        names = some(path.name for paths in shards.values() for path in paths)
        raise DataError(f"there are no training images: the tar shards are {names}; expected one named train-...")
    found = {part: _read_part(shards[part]) for part in (TRAIN, VALIDATION, TEST) if part in shards}
    for part, each in list(found.items()):
        if not each.labels:
            if part == TRAIN:
                raise DataError(each.why_empty())
            use = "nothing is tested" if part == TEST else "it is not validated on"
            notes.append(f"{each.why_empty()}; so {use}")
            del found[part]
    for part, each in found.items():
        _check_folders(each, part if parts_named else None)
        notes += each.notes()
    plain = {part: each.plain_labels() for part, each in found.items()}
    try:
        classes = find_classes(plain[TRAIN], f"tar shard {found[TRAIN].paths[0]}", to_train=not only_test)
    except DataError as error:
        if not found[TRAIN].rejected:
            raise
        raise DataError(f"{error}; {why_nothing(found[TRAIN].rejected)}") from None
    if classes.text and not only_test and classes.count * 2 > len(plain[TRAIN]) >= _FEW_IMAGES:
        raise DataError(
            f"{found[TRAIN].paths[0]}: {len(plain[TRAIN]):,} images have {classes.count:,} different labels, "
            f"such as {some(map(repr, classes.names), 3)}; expected the name or number of a class in .cls"
        )
    records = {
        part: each.records(classes.number(plain[part], f"tar shard {each.paths[0]}")) for part, each in found.items()
    }
    places = {part: some((path.name for path in each.paths), 3) for part, each in found.items()}
    account = Account("tar shards", places, parts_named, tuple(notes))
    return ShardSet(records, classes.names, account, classes.notices)


def _check_folders(read: _PartRead, named: str | None) -> None:
    """Raise DataError if folders in tar shards say that their images are of several parts, or not of the `named` one.

    Tar shards are read whole, whatever their folders are called.
    """
    said: dict[str, str] = {} if named is None else {named: ""}
    for folder in sorted(read.account.folders):
        for name in folder.split("/"):
            part = part_of(name) or ("held out" if is_held_out(name) else None)
            if part is not None:
                said.setdefault(part, name)
    if len(said) > 1:
        names = some(f"{name}/" for name in said.values() if name)
        raise DataError(
            f"the tar shard {read.paths[0]} has images in the folders {names}, which are of several parts, or of "
            "another than it is; give each part tar shards of its own, named train-..., val-... and test-..."
        )


@dataclasses.dataclass(frozen=True)
class _PartRead:
    paths: Sequence[Path]
    spots: list[tuple[int, int, int]]
    labels: list[int | bool | str]
    rejected: list[BadSample]
    account: ShardAccount

    def plain_labels(self) -> np.ndarray:
        """Return the labels as `labels` has them; samples whose label is of another kind than most are left out."""
        self.labels[:] = names_among(self.labels)
        alike = most_alike(self.labels)
        for (file, offset, _), label, same in zip(self.spots, self.labels, alike, strict=True):
            if not same:
                where = f"{self.paths[file].absolute()}, byte {offset}"
                said = f"its label is {label!r}, of another kind than those of most others"
                self.rejected.append(BadSample(where, Fault.NO_LABEL, said))
        self.spots[:] = [spot for spot, same in zip(self.spots, alike, strict=True) if same]
        self.labels[:] = [label for label, same in zip(self.labels, alike, strict=True) if same]
        return plain_of(self.labels, f"tar shard {self.paths[0]}")

    def notes(self) -> list[str]:
        """Return lines about what is odd in these tar shards; called before `plain_labels`."""
        lines = []
        if self.account.again:
            lines.append(
                f"{self.account.again:,} images and labels in {some(self.paths, 1)} have the name of an earlier one: "
                "all are used, though unpacking would keep the last alone"
            )
        kinds: dict[int, set[type]] = {}
        for (file, _, _), label in zip(self.spots, self.labels, strict=True):
            kinds.setdefault(file, set()).add(int if isinstance(label, Spelled) else type(label))
        numbers = next((file for file, found in kinds.items() if found == {int}), None)
        names = next((file for file, found in kinds.items() if found == {str}), None)
        if numbers is not None and names is not None:
            lines.append(
                f"the labels in {self.paths[numbers]} are numbers, and those in {self.paths[names]} names: numbers are "
                "taken as names of further classes"
            )
        stems = [path.stem for path in self.paths]
        if not part_within(stems[0])[0] and (line := shards_apart(stems)) is not None:
            lines.append(line)
        if self.account.parts_said:
            said = "; ".join(f"{key}: {some(map(repr, values))}" for key, values in self.account.parts_said.items())
            lines.append(
                f"each .json in {some(self.paths, 1)} says a part ({said}), which is not used; give each part tar "
                "shards of its own, named train-..., val-... and test-..."
            )
        return lines + [f"the tar shard {copy}.tar may be a copy of {base}.tar" for copy, base in copies(stems)]

    def records(self, numbers: np.ndarray) -> Records:
        """Return the records with these class numbers, int32 [n]."""
        places = [path.absolute() for path in self.paths]
        root = Path(os.path.commonpath([path.parent for path in places]))
        names = [path.relative_to(root).as_posix() for path in places]
        return Records(RecordTable.of_parts(root, names, self.spots), numbers, tuple(self.rejected))

    def why_empty(self) -> str:
        """Say why there is no sample, by what the shards have."""
        account = self.account
        more = f" and {len(self.paths) - 1} more tar shards have" if len(self.paths) > 1 else " has"
        others = ", ".join(f"{count:,} {ending}" for ending, count in account.others.most_common(5))
        said = f"{self.paths[0]}{more} no image with a label: "
        said += f"{several(account.images, 'image')}, {several(account.labels, 'label')}"
        said += f" (.cls or .json), other members: {others or 'none'}"
        folders = sorted(folder for folder in account.folders if folder)
        if account.images and not account.labels and len(folders) > 1:
            return (
                f"{said}. Its images lie in the folders {some(folders, 5)}: if these are classes, unpack the tar file"
            )
        if account.images and not account.labels:
            return f"{said}. Expected a .cls or .json with the class of each image"
        return f"{said}. {why_nothing(self.rejected)}" if self.rejected else said


def _read_part(paths: Sequence[Path]) -> _PartRead:
    part = _PartRead(paths, [], [], [], ShardAccount())
    for number, path in enumerate(paths):
        for image, label, _ in read_samples(path, part.account, part.rejected):
            part.spots.append((number, image.offset, image.size))
            part.labels.append(label)
    return part


def _tars(folder: Path) -> list[Path]:
    named = (path for path in folder.iterdir() if is_shard_name(path.name) and not is_dropping(path.name))
    return sorted(path for path in named if path.is_file())

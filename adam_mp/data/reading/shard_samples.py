"""The samples of one tar shard: which image has which label, and which members belong to no sample.

Members of one key are one sample. The key of an image is its name up to the last dot, `shot.0001` of `shot.0001.jpg`;
if no label has that key, it is the name up to the first dot, as WebDataset has it. The members of a sample need not
follow each other.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, BinaryIO

from adam_mp.data.reading.belongings import may_belong
from adam_mp.data.reading.faults import BadSample, Fault
from adam_mp.data.reading.image_kinds import has_image_ending, is_dropping
from adam_mp.data.reading.labels import Spelled, class_name, plain_label
from adam_mp.errors import DataError

_LABEL_LIMIT = 1 << 20  # bytes of a label file
_LONGEST_NAME = 200  # characters of a class's name
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_NUMBER = re.compile("[+-]?[0-9]{1,40}([.]0+)?")  # 2.0: so pandas writes whole numbers of a column that has gaps
LABELS = ("cls", "json")
_FEW_VALUES = 4
_PART_FIELDS = frozenset((
    "split", "subset", "set", "partition", "phase", "usage", "fold", "is_test", "is_train", "is_training", "is_val",
    "is_validation", "test", "train",
))  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Member:
    """One file in a tar: its whole name, and where its bytes are."""

    name: str
    offset: int
    size: int

    @property
    def folder(self) -> str:
        """The folder that the name has, an empty text if it has none."""
        return self.name.rpartition("/")[0]


@dataclasses.dataclass
class ShardSample:
    """One sample as it is found: its images, of which one is used, and its labels by ending."""

    images: list[Member] = dataclasses.field(default_factory=list)
    labels: dict[str, Member] = dataclasses.field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether it has an image and a label."""
        return bool(self.images and self.labels)


@dataclasses.dataclass
class ShardAccount:
    """What all shards of a part have: members of each kind, other endings with counts, folders with images.

    `again` counts images and labels that have the name of an earlier member of their tar file. `parts_said` has, of the
    fields of .json that may say a part, those with several values, and the first few of these.
    """

    images: int = 0
    labels: int = 0
    others: Counter[str] = dataclasses.field(default_factory=Counter)
    folders: set[str] = dataclasses.field(default_factory=set)
    again: int = 0
    fields: dict[str, list[Any]] = dataclasses.field(default_factory=dict)

    @property
    def parts_said(self) -> dict[str, list[Any]]:
        """The fields of .json that may say a part, and have several values."""
        return {name: values for name, values in self.fields.items() if len(values) > 1}

    def note_fields(self, described: object) -> None:
        """Note what a .json says under names that may be of a part, a few values of each."""
        if isinstance(described, dict):
            for name in described.keys() & _PART_FIELDS:
                values, value = self.fields.setdefault(name, []), described[name]
                if isinstance(value, str | int) and value not in values and len(values) < _FEW_VALUES:
                    values.append(value)


def read_samples(
    path: Path, account: ShardAccount, rejected: list[BadSample]
) -> Iterator[tuple[Member, int | bool | str, str]]:
    """Yield (image, label, name of the label's member) for each sample of a tar shard, in the order of the images.

    A label is a whole number, a boolean, or a text. `account` counts the members; those that make no sample go to
    `rejected`. Raises DataError if the file is missing, packed or damaged.
    """
    where = path.absolute()
    samples = _group(path, account, rejected)
    with open(path, "rb") as file:
        for sample in samples:
            if not sample.images:
                said = "a label without an image of its key"
                rejected += [
                    BadSample(f"{where}: {each.name}", Fault.NOT_AN_IMAGE, said) for each in sample.labels.values()
                ]
                continue
            image, said = _chosen(sample.images)
            rejected += [
                BadSample(f"{where}: {each.name}", Fault.DUPLICATE, said) for each in sample.images if each is not image
            ]
            label, why = _label(file, sample.labels, account)
            if label is None:
                rejected.append(BadSample(f"{where}: {image.name}", Fault.NO_LABEL, why))
                continue
            yield image, label, next(iter(sample.labels.values())).name


def _group(path: Path, account: ShardAccount, rejected: list[BadSample]) -> list[ShardSample]:
    """Return the samples of a tar shard; those without an image, or without a label, too."""
    where = path.absolute()
    samples: dict[int, ShardSample] = {}
    newest: dict[str, ShardSample] = {}  # by key
    others: list[tuple[str, Member]] = []
    before = ""
    names: set[str] = set()
    for member in _members(path, rejected):
        folder, _, name = member.name.rpartition("/")
        if is_dropping(name):
            continue
        stem, _, ending = name.rpartition(".")
        ending, key, is_image = ending.lower(), f"{folder}/{stem}", has_image_ending(name)
        if not is_image and ending not in LABELS:
            account.others[f".{ending}" if stem else "no ending"] += 1
            others.append((f"{folder}/{name.partition('.')[0]}", member))
            continue
        account.again += member.name in names
        names.add(member.name)
        sample = newest.get(key)
        # A whole sample is followed by another of its key, unless this member stands right behind it.
        if sample is None or (sample.whole and before != key and (is_image or ending in sample.labels)):
            sample = newest[key] = ShardSample()
            samples[id(sample)] = sample
        before = key
        if is_image:
            account.images += 1
            account.folders.add(folder)
            sample.images.append(member)
        elif ending in sample.labels:
            said = f"a further .{ending} of one sample"
            rejected.append(BadSample(f"{where}: {member.name}", Fault.DUPLICATE, said))
        else:
            account.labels += 1
            sample.labels[ending] = member
    joined = _join_first_dots(list(samples.values()), newest)
    keys = {_first_dot(member.name) for sample in joined for member in (*sample.images, *sample.labels.values())}
    rejected += [
        BadSample(f"{where}: {member.name}", Fault.NOT_AN_IMAGE, "a member that belongs to no image")
        for key, member in others
        if key not in keys
    ]
    return joined


def _join_first_dots(samples: list[ShardSample], by_key: dict[str, ShardSample]) -> list[ShardSample]:
    """Give images whose own key has no label to the sample whose key is their name up to the first dot."""
    gone: set[int] = set()
    for sample in samples:
        if sample.labels or not sample.images:
            continue
        other = by_key.get(_first_dot(sample.images[0].name))
        if other is not None and other is not sample and other.labels:
            other.images += sample.images
            gone.add(id(sample))
    return [sample for sample in samples if id(sample) not in gone]


def _chosen(images: Sequence[Member]) -> tuple[Member, str]:
    """Return the image of a sample that is used, which is no mask if another is none, and what to say of the others."""
    pieces = zip(*(each.name.split(".") for each in images), strict=False)
    alike = sum(len(same[0]) + 1 for same in takewhile(lambda each: len({*each}) == 1, pieces)) - 1
    image = min(images, key=lambda each: may_belong(each.name[alike:]))
    return image, f"a further image of one sample, of which {image.name[alike:]} is used"


def _first_dot(name: str) -> str:
    folder, _, file = name.rpartition("/")
    return f"{folder}/{file.partition('.')[0]}"


def _members(path: Path, rejected: list[BadSample]) -> Iterator[Member]:
    try:
        with open(path, "rb") as file:
            begin = file.read(6)
        for magic, kind in _PACKED.items():
            if begin.startswith(magic):
                raise DataError(f"tar shard {path} is compressed ({kind}); unpack it to a plain .tar")
        with tarfile.open(path, "r:") as archive:
            whole: dict[str, Member] = {}
            for member in archive:
                found = Member(member.name, member.offset_data, member.size)
                if member.islnk() and (same := whole.get(member.linkname)) is not None:  # tar stores such files once
                    yield dataclasses.replace(same, name=member.name)
                elif member.islnk() or member.issym():
                    said = "a link in a tar file; pack the files that links lead to: tar --dereference"
                    rejected.append(BadSample(f"{path.absolute()}: {member.name}", Fault.LINK, said))
                elif member.issparse():
                    said = "a file with holes, which is packed in pieces; pack it again without tar --sparse"
                    rejected.append(BadSample(f"{path.absolute()}: {member.name}", Fault.UNREADABLE, said))
                elif member.isfile():
                    whole[member.name] = found
                    yield found
            _check_end(path, archive)
    except FileNotFoundError:
        raise DataError(f"tar shard {path} does not exist") from None
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"tar shard {path} is not a whole tar file: {error}") from None
    except OSError as error:
        raise DataError(f"tar shard {path} cannot be read: {error.strerror or error}") from None


def _check_end(path: Path, archive: tarfile.TarFile) -> None:
    """Raise DataError if a tar file goes on where its members end, or ends without the mark that says so."""
    with open(path, "rb") as file:
        file.seek(archive.offset)
        mark = file.read(tarfile.BLOCKSIZE)
        rest = mark
        while rest and not rest.strip(b"\0"):
            rest = file.read(1 << 20)
    if len(mark) < tarfile.BLOCKSIZE:
        raise DataError(f"tar shard {path} is not a whole tar file: it has no mark of its end, so it may be cut short")
    if rest:
        raise DataError(
            f"tar shard {path} is not one whole tar file: behind its members, at byte {archive.offset:,}, it goes "
            "on; if tar files were joined, give them one by one; else it is damaged"
        )


def _label(
    file: BinaryIO, members: dict[str, Member], account: ShardAccount
) -> tuple[int | bool | str | None, str]:  # fmt: skip
    """Return the label that the .cls or .json member has; None and the reason if there is none, or if they disagree."""
    found: list[int | bool | str] = []
    endings: list[str] = []
    for ending, member in members.items():
        if member.size > _LABEL_LIMIT:
            return None, f"its .{ending} has more than {_LABEL_LIMIT >> 20} MB"
        file.seek(member.offset)
        content = file.read(member.size)
        described = _read_json(content) if ending == "json" else None
        account.note_fields(described)
        label = _number_or_text(content) if ending == "cls" else _described(described)
        if label is None and ending == "json" and "cls" in members and _tells_no_label(described):
            continue
        if label is None:
            where = "under label or cls (or two numbers)" if ending == "json" else "in it"
            return None, f"its .{ending} has no whole number from 0 and no name {where}"
        found.append(label)
        endings.append(ending)
    if not found:
        return None, "no .cls or .json member has its key"
    if len({isinstance(label, str) for label in found}) > 1:  # a name and its number may stand together: .cls counts
        return next(label for label, ending in zip(found, endings, strict=True) if ending == "cls"), ""
    if any(label != found[0] for label in found):
        return None, f".cls and .json disagree about its label: {found[0]!r} and {found[1]!r}"
    return found[0], ""


def _read_json(content: bytes) -> object:
    """Return what a .json holds; None if it is none."""
    try:
        return json.loads(content)  # type: ignore[no-any-return]
    except (ValueError, RecursionError):
        return None


def _tells_no_label(described: object) -> bool:
    """Tell whether a .json has no label, but other things about its image."""
    return isinstance(described, dict) and described.get("label") is None and described.get("cls") is None


def _described(described: Any) -> int | bool | str | None:
    try:
        label = plain_label(described["label"] if "label" in described else described["cls"])
        other = described.get("cls")
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if isinstance(label, str):
        return _number_or_text(label.encode("utf-8", "surrogatepass"))  # a part of a letter is no text
    if type(label) is type(other) is int and label != other:  # a name and its number may stand together
        return None
    return label if label >= 0 else None


def _number_or_text(content: bytes) -> int | str | None:
    try:
        text = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return None
    if _NUMBER.fullmatch(text):
        return Spelled.of(text) if text[0] != "-" else None
    return class_name(text) if text and text.isprintable() and len(text) <= _LONGEST_NAME else None

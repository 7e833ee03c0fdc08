"""Data sets: the samples to train, validate and test on, and how the training samples are split and ordered."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from adam_mp.compute.scale import BYTES, ValueScale, other_scale, perhaps_other_scale
from adam_mp.data.reading.account import Account, some
from adam_mp.data.reading.faults import BadSample, Fault, SampleError
from adam_mp.data.reading.fingerprint import Fingerprint, fingerprint
from adam_mp.data.reading.items import Items
from adam_mp.data.reading.labels import class_name
from adam_mp.data.reading.options import LoadOptions
from adam_mp.data.reading.records import WHOLE_FILE, Records
from adam_mp.data.reading.samples import Samples
from adam_mp.errors import DataError, SettingsError, several
from adam_mp.machine import as_text

_DARK = 100  # bytes to train on that are all up to this may be no bytes of pictures, but masks or less than 8 bits
_FEW = 1000  # images of a part whose scale is compared with that of the training images

Part = Samples | Records | Items


@dataclasses.dataclass(frozen=True)
class DataSet:
    """Samples to train on and, perhaps, to validate and test on; all parts are of one kind.

    `image_shape` is the (height, width, channels) of pictures. `classes` is the number of classes: one more than the
    highest training label, and at least the number of `class_names`, which has a name for each class or is empty.
    `account` says what the loader saw, `options` how images are read, with what was measured on them. `notices` are
    lines for the user. `columns` are the names of features, if they came as a data frame.
    """

    name: str
    train: Part
    validation: Part | None
    test: Part | None
    image_shape: tuple[int, int, int]
    classes: int
    class_names: tuple[str, ...] = ()
    account: Account = Account()
    options: LoadOptions = LoadOptions()
    notices: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    @property
    def parts(self) -> list[Part]:
        """The parts that the data set has, in the order in which their samples are numbered."""
        return [part for part in (self.train, self.validation, self.test) if part is not None]

    @property
    def count(self) -> int:
        """How many samples all parts have."""
        return sum(len(part) for part in self.parts)

    def numbers(self, part: Part | None) -> np.ndarray:
        """Return the sample numbers of one of the parts, int64; none for None."""
        if part is None:
            return np.zeros(0, np.int64)
        first = 0
        for other in self.parts:
            if other is part:
                break
            first += len(other)
        return np.arange(first, first + len(part))

    def place(self, number: int) -> str:
        """Say where the sample of this number is: its file, or which item or image of which part it is."""
        names = {id(self.train): "training", id(self.validation): "validation", id(self.test): "test"}
        for part in self.parts:
            if number < len(part):
                if isinstance(part, Records):
                    return part.table.place(number)
                if isinstance(part, Items):
                    return f"item {part.numbers[number]} of the {names[id(part)]} data"
                return f"image {number} of the {names[id(part)]} data"
            number -= len(part)
        raise IndexError(number)

    def bad_sample(self, number: int, fault: Fault, figures: bool = True) -> BadSample:
        """Return a sample that could not be used; with `figures`, how large it was if it was too large.

        Its file is read again for that.
        """
        detail = ""
        if figures and fault in (Fault.TOO_LARGE, Fault.TOO_MANY_BYTES):
            detail = self._excess(number, fault)
        return BadSample(self.place(number), fault, detail)

    def worst_of(self, numbers: np.ndarray, faults: np.ndarray) -> str:
        """Return the most frequent of the `faults` [n] of samples in words, with one of the samples as the example."""
        kinds, counts = np.unique(faults, return_counts=True)
        worst = Fault(int(kinds[counts.argmax()]))
        bad = self.bad_sample(int(numbers[int((faults == worst).argmax())]), worst)
        return f"{counts.max():,} of {len(faults):,}: {bad.reason} ({bad.path})"

    def _excess(self, number: int, fault: Fault) -> str:
        from adam_mp.data.reading.decoding import image_size  # brings the image libraries

        for part in self.parts:
            if number < len(part):
                if not isinstance(part, Records):
                    return ""
                try:
                    image_size(part.table.read(number, self.options.byte_limit), self.options)
                except SampleError as error:
                    return str(error) if error.fault is fault else ""
                return ""
            number -= len(part)
        raise IndexError(number)

    @property
    def labels(self) -> np.ndarray:
        """The labels of all parts, int32 [count]."""
        return np.concatenate([part.labels for part in self.parts])

    @property
    def rejected(self) -> list[BadSample]:
        """Files and items that reading the data set found and left out."""
        return [bad for part in self.parts if isinstance(part, (Records, Items)) for bad in part.rejected]

    @cached_property
    def untrained(self) -> list[int]:
        """The classes that have no image to train on."""
        return np.flatnonzero(np.bincount(self.train.labels, minlength=self.classes) == 0).tolist()

    @property
    def stored_type(self) -> str:
        """The dtype of stored values."""
        return str(self.train.images.dtype) if isinstance(self.train, Samples) else "uint8"

    @property
    def draws(self) -> bool:
        """Whether items of the data set's object are other ones each time, because it draws at random."""
        return any(isinstance(part, Items) and part.look.draws for part in self.parts)

    @cached_property
    def values(self) -> ValueScale:
        """The scale of the training images' values; images in files and items are bytes."""
        return ValueScale.of(self.train.images) if isinstance(self.train, Samples) else BYTES

    @cached_property
    def digest(self) -> int:
        """A short fingerprint of the training samples, by which replicas and remote data servers recognize the data.

        Of samples in files it has names and labels, wherever the files lie; contents are not read.
        """
        if isinstance(self.train, Records):
            return zlib.crc32(self.train.labels.data, self.train.table.digest)
        return self.train.digest

    @property
    def digest_before(self) -> int:
        """The digest by which earlier versions knew the data: for tar shards it has the paths of the files."""
        if isinstance(self.train, Records) and len(self.train) and self.train.table.length[0] != WHOLE_FILE:
            return zlib.crc32(self.train.labels.data, self.train.table.digest_with_paths)
        return self.digest

    @cached_property
    def fingerprints(self) -> Mapping[str, Fingerprint]:
        """Part ("train", "validation", "test") -> its fingerprint, by which a run knows its data again; reads files."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: fingerprint(part) for name, part in parts.items() if part is not None}


def make_dataset(
    name: str, train: Part, validation: Part | None, test: Part | None,
    image_shape: tuple[int, int, int] | None = None, class_names: Sequence[str] = (), account: Account | None = None,
    least: int = 2, options: LoadOptions | None = None, notices: Sequence[str] = (),
) -> DataSet:  # fmt: skip
    """Return the data set of these parts; raises DataError if their labels or shapes do not agree.

    `image_shape` is needed for records and items; arrays have their own. There must be `least` classes.
    """
    classes = max(int(train.labels.max()) + 1, len(class_names))
    if classes < least:
        raise DataError(
            f"training labels of {name} are all {classes - 1}; expected at least two classes, counted from 0"
        )
    for what, part in (("training", train), ("validation", validation), ("test", test)):
        if part is None:
            continue
        wrong = np.flatnonzero((part.labels < 0) | (part.labels >= classes))
        if wrong.size:
            label = part.labels[wrong[0]]
            raise DataError(
                f"{what} image {wrong[0]} of {name} has label {label}, outside the classes 0 to {classes - 1}"
            )
        if isinstance(train, Samples):
            assert isinstance(part, Samples), "all parts are of one kind"
            notices = (*notices, *_check_same_form(name, what, train.images, part.images))
        if part is not train:
            notices = (*notices, *_without_training(name, what, train.labels, part.labels, class_names))
    shape: Any = train.images.shape[1:] if isinstance(train, Samples) else image_shape
    return DataSet(
        name, train, validation, test, shape, classes, tuple(map(as_text, class_names)), account or Account(),
        options or LoadOptions(), tuple(notices),
    )  # fmt: skip


def _without_training(
    name: str, what: str, train: np.ndarray, labels: np.ndarray, names: Sequence[str]
) -> list[str]:  # fmt: skip
    """Return a line if labels of a part are of classes without an image to train on.

    Raises DataError if they are those of the training part, counted from one less.
    """
    trained, present = (np.flatnonzero(np.bincount(each)) for each in (train, labels))  # faster than sorting
    lacking = np.setdiff1d(present, trained)
    if not lacking.size:
        return []
    if trained[0] > 0 and not names and (present[0], present[-1]) == (trained[0] - 1, trained[-1] - 1):
        raise DataError(
            f"{what} labels of {name} go from {present[0]} to {present[-1]}, but those to train on from {trained[0]} "
            f"to {trained[-1]}; count both from 0: write labels - 1"
        )
    count = int(np.isin(labels, lacking).sum())
    listed = some(names[label] if names else label for label in lacking.tolist())
    return [f"{several(count, f'{what} image')} of {name} are of classes without an image to train on: {listed}"]


def match_classes(dataset: DataSet, names: Sequence[str], classes: int) -> DataSet:
    """Return a data set of one part with its classes numbered as those of a model, which are found by their names.

    `names` and `classes` are the model's names, perhaps none, and its number of classes. A class without a name goes by
    its number; if the other side's names are no numbers, classes are matched by their order, and a note of the account
    says so. Raises DataError, with both lists, if the data have a class that the model lacks.
    """
    assert dataset.parts == [dataset.train], "only one part is matched"
    own, known = _known_by(dataset.class_names, dataset.classes), _known_by(names, classes)
    part = dataset.train
    counts = np.bincount(part.labels, minlength=len(own))
    present = [name for name, count in zip(own, counts, strict=True) if count]
    numbers = all(name.isdecimal() for name in (*dataset.class_names, *names))
    notes: tuple[str, ...] = ()
    if numbers or known.keys() >= set(present) or (dataset.class_names and names):
        index = known
    elif len(own) > len(known) or (dataset.class_names and len(own) != len(known)):
        raise DataError(
            f"{dataset.name} has {dataset.classes} classes ({_shown(dataset.class_names)}), but the model has "
            f"{classes} classes ({_shown(names)})"
        )
    else:
        index = dict(zip(own, known.values(), strict=False))
        notes = (
            f"classes are matched by their order, since one side has no names: the data have {_shown(own)}, the model "
            f"{_shown(names)}",
        )
    unknown = [name for name in present if name not in index]
    if unknown:
        raise DataError(
            f"{dataset.name} has the class {some(map(repr, unknown))}, which the model does not know; the data have "
            f"{_shown(own)}, the model {_shown(known)}"
        )
    table = np.array([index.get(name, 0) for name in own], np.int32)
    matched = dataclasses.replace(part, labels=table[part.labels])
    return dataclasses.replace(
        dataset, train=matched, classes=classes, class_names=tuple(names), account=dataset.account.with_notes(notes)
    )


def _known_by(names: Sequence[str], classes: int) -> dict[str, int]:
    """Return the class of each name, in order; a class without a name goes by its number.

    Names that are all numbers, such as 0, 1, 10, 2, go by these numbers.
    """
    if not names:
        return {str(number): number for number in range(classes)}
    found = {str(int(name)) if name.isdecimal() else class_name(name): number for number, name in enumerate(names)}
    if len(found) == len(names) and all(name.isdecimal() for name in names):
        return found
    return {class_name(name): number for number, name in enumerate(names)}


def _shown(names: Iterable[str]) -> str:
    return some(names) or "without names"


def _check_same_form(name: str, what: str, train: np.ndarray, images: np.ndarray) -> list[str]:
    """Return a line if images may have another scale than those to train on; raises DataError if they have."""
    if images.shape[1:] != train.shape[1:] or images.dtype != train.dtype:
        raise DataError(
            f"{what} images of {name} are {images.dtype} {images.shape[1:]}, "
            f"training images {train.dtype} {train.shape[1:]}; expected the same"
        )
    if what == "training":
        return []
    trained, some_of = ValueScale.of(train), images[:_FEW]
    whole = train.dtype == np.uint8 and trained.high > _DARK and some_of.max(initial=0) > 1  # bytes of any brightness
    if not whole and (why := other_scale(some_of, trained)):
        raise DataError(f"{what} images of {name}: {why}")
    doubt = perhaps_other_scale(some_of, trained) if train.shape[1:3] != (1, 1) else None
    return [f"{what} images of {name}: {doubt}"] if doubt else []


def split(count: int, validation: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the (training, validation) indices, int64 and sorted, of `count` samples, whatever their classes.

    `validation` is the share of validation samples, which are drawn from the seed alone. Runs that begin now divide
    with `split_by_class`; a run that began with this division goes on with it. Raises SettingsError if either part
    would be empty.
    """
    held_out = _check_share(count, validation)
    order = _drawn(count, seed)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def _check_share(count: int, validation: float) -> int:
    held_out = round(count * validation)
    if validation > 0 and held_out == 0:
        raise SettingsError(
            f"--validation is {validation:g}, which is less than one of {several(count, 'image')}; give more, or 0"
        )
    if held_out >= count:
        raise SettingsError(
            f"--validation is {validation:g}, which leaves none of {several(count, 'image')} to train on"
        )
    return held_out


def _drawn(count: int, seed: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64([seed, 0x5917])).permutation(count)


def split_by_class(labels: np.ndarray, validation: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the (training, validation) indices, int64 and sorted, of samples with these labels.

    Of each class its share is held out, drawn from the seed, and rounded so that the shares of all classes add up to
    the share of all samples; but each class keeps a sample to train on. Raises SettingsError if either part would be
    empty.
    """
    count = len(labels)
    held_out, order = _check_share(count, validation), _drawn(count, seed)
    _, of_class, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    wanted = sizes * validation
    quota = np.minimum(np.floor(wanted), sizes - 1).astype(np.int64)
    # Rounding down leaves some images to give out. The class that lost most by it gets one first; classes that lost the
    # same get theirs in the order in which they were drawn.
    drawn_first = np.unique(of_class[order], return_index=True)[1]
    by_loss = np.lexsort((drawn_first, quota - wanted))
    while (left := held_out - int(quota.sum())) > 0:
        open_classes = by_loss[quota[by_loss] < sizes[by_loss] - 1]
        if not open_classes.size:
            break  # each class has just one sample left to train on
        quota[open_classes[:left]] += 1
    in_order = of_class[order]
    by_class = np.argsort(in_order, kind="stable")
    place = np.empty(count, np.int64)  # of each sample, in drawn order, among those of its class
    place[by_class] = np.arange(count) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    out = place < quota[in_order]
    if validation > 0 and not out.any():
        raise SettingsError(f"--validation is {validation:g}, but each class has only one image; give 0")
    return np.sort(order[~out]), np.sort(order[out])


def epoch_order(indices: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Return `indices` in the order in which `epoch` trains them, drawn from (seed, epoch) alone."""
    generator = np.random.Generator(np.random.PCG64([seed, 0x0EDE, epoch]))
    return generator.permutation(indices)

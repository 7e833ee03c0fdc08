"""The form of pictures: size, colours and depth, as the first images of each class have them."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np

from adam_mp.data.reading.account import Account, some
from adam_mp.data.reading.dataset import DataSet, make_dataset
from adam_mp.data.reading.decoding import image_size
from adam_mp.data.reading.depths import Depths
from adam_mp.data.reading.faults import SampleError, summary_of
from adam_mp.data.reading.options import LoadOptions
from adam_mp.data.reading.part_names import TEST, TRAIN, VALIDATION
from adam_mp.data.reading.records import Records
from adam_mp.errors import DataError, SettingsError, shown

LOOKED_AT = 64  # images whose headers decide the size and colours of all pictures
_MORE_FILES = 192  # and at most so many more, to have one of each class
_MORE_DEEP = 500  # images that are decoded to see their largest value, if the first have grey values of 16 bits
_USUAL_SIDE = 224
_LARGEST_SIDE = 4096  # pixels
_HALF = 0.5  # share of an image; photographs keep more than that


def with_form(
    name: str, parts: Mapping[str, Records], classes: Sequence[str], options: LoadOptions, account: Account,
    notices: Sequence[str] = (),
) -> DataSet:  # fmt: skip
    """Return the data set of these parts; the first images decide the size, colours and depth of pictures."""
    train = parts[TRAIN]
    sizes, faults, failed, depths = [], [], [], Depths()
    spread = np.arange(0, len(train), max(1, len(train) // LOOKED_AT))
    looked = sorted(looked_at(train.labels, spread, _MORE_FILES).tolist())
    for sample in looked:
        try:
            content = train.table.read(sample, options.byte_limit)
            sizes.append(image_size(content, options))
        except SampleError as error:  # the sample is bad: it is reported when it is to be trained
            faults.append((train.table.place(sample), error))
            failed.append(sample)
        else:
            depths.look(content, options)
    if not sizes:
        raise DataError(f"none of the first images of {name} can be read; {summary_of(faults)}")
    shape = picture_shape(sizes, options)
    notices = (*notices, *told_of_ends(sizes, shape, options))
    validation, test = (parts[part] if part in parts and len(parts[part]) else None for part in (VALIDATION, TEST))
    for part, what in ((validation, "to validate on"), (test, "to test on")):
        if part is not None:
            notices = (*notices, *depths.add_part(_depths_of(part, options), what))
    if depths.measures(options):
        more = np.unique(np.linspace(0, len(train) - 1, _MORE_DEEP).astype(np.int64))
        depths.look_at_more([sample for sample in more.tolist() if sample not in looked], train.table, options)
    clipped = not depths.deep if options.white is None else options.clipped  # a white that nobody chose hides nothing
    options = dataclasses.replace(options, white=depths.white(options), clipped=clipped)
    notices = (*notices, *depths.notices(options))
    notices = (*notices, *_unreadable(train.labels, looked, failed, faults, classes))
    return make_dataset(name, train, validation, test, shape, classes, account, least_images(options), options, notices)


def _depths_of(part: Records, options: LoadOptions) -> Depths:
    """Return the depth of some images of a part that is not trained on; bad ones are reported when they are used."""
    depths = Depths()
    for sample in range(0, len(part), max(1, len(part) // LOOKED_AT)):
        with contextlib.suppress(SampleError):
            depths.look(part.table.read(sample, options.byte_limit), options)
    return depths


def least_images(options: LoadOptions) -> int:
    """Return how many classes there must be: one may be all that is tested."""
    return 1 if options.only_test else 2


def looked_at(labels: np.ndarray, some: np.ndarray, more: int) -> np.ndarray:
    """Return the samples that are looked at before a run: `some`, and one of each class.

    At most `more` are added for classes that have none among the others: so a small class can tell that images are
    larger, in colour or deep.
    """
    first: np.ndarray = np.full(int(labels.max(initial=0)) + 1, -1, np.int64)
    first[labels[::-1]] = np.arange(len(labels) - 1, -1, -1)
    first[labels[some]] = -1
    return np.concatenate([some, first[first >= 0][:more]])


def _unreadable(
    labels: np.ndarray, looked: Sequence[int], failed: Sequence[int], faults: Sequence[tuple[str, SampleError]],
    classes: Sequence[str],
) -> list[str]:  # fmt: skip
    """Return a line if of some class several images were looked at, and none of them can be read."""
    seen, bad = np.bincount(labels[np.array(looked)]), np.bincount(labels[np.array(failed, np.int64)])
    lost = np.flatnonzero((bad > 1) & (bad == seen[: len(bad)])).tolist()
    if not lost:
        return []
    names = some(classes[label] if classes else label for label in lost)
    of_them = [fault for sample, fault in zip(failed, faults, strict=True) if labels[sample] in lost]
    return [f"no image looked at first of the class {names} can be read: {summary_of(of_them)}"]


def picture_shape(sizes: Sequence[tuple[int, int, int]], options: LoadOptions) -> tuple[int, int, int]:
    """Return height, width and channels of pictures: as `options` asks, or as all images are, or 224x224."""
    channels = options.channels or max(size[2] for size in sizes)
    if options.image_size is not None:
        return (*parse_image_size(options.image_size), channels)
    same = {size[:2] for size in sizes}
    if len(same) == 1 and max(sizes[0][:2]) <= _USUAL_SIDE:
        return (*sizes[0][:2], channels)
    return _USUAL_SIDE, _USUAL_SIDE, channels


def told_of_ends(sizes: Sequence[tuple[int, int, int]], shape: tuple[int, int, int], options: LoadOptions) -> list[str]:
    """Return a line if most images are so much wider, or higher, than `shape` that half of them is cut off.

    It says with which --image-size they would be whole. That of a model that is tested cannot be chosen any more.
    """
    height, width, _ = shape
    kept = [min(high * width, wide * height) / max(high * width, wide * height) for high, wide, _ in sizes]
    middle = sorted(range(len(sizes)), key=kept.__getitem__)[len(sizes) // 2]
    if kept[middle] > _HALF or options.only_test:
        return []
    high, wide, _ = sizes[middle]
    scale = min(high / height, wide / width)
    larger = min(1.0, min(height, width) / min(high, wide), _LARGEST_SIDE / max(high, wide))
    return [
        f"of most images only the middle is used, such as {round(scale * height)}x{round(scale * width)} of "
        f"{high}x{wide} pixels; to use all, give an --image-size of their shape, such as "
        f"{max(1, round(larger * high))}x{max(1, round(larger * wide))}"
    ]


def parse_image_size(text: str) -> tuple[int, int]:
    """Return the (height, width) that "224" or "192x256" stands for; raises SettingsError for other texts."""
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", str(text).strip())
    if match is None or not all(1 <= int(side) <= _LARGEST_SIDE for side in match.groups() if side is not None):
        raise SettingsError(
            f"--image-size is {shown(text)}; expected pixels such as 224, or HEIGHTxWIDTH such as 192x256"
        )
    return int(match[1]), int(match[2] or match[1])

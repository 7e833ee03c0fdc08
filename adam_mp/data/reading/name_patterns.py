"""Patterns of file names, by which images that come in pairs, and parts, are found whatever words the names have.

A name's pattern is the name without its ending and its numbers, and its key is these numbers: `a/0001_sat.png` has the
pattern `a/#_sat` and the key 0001. Two patterns of a class are a pair if most names of one have the key of one of the
other: `0001_sat.png` and `0001_mask.png`, but also `x_000019_leftImg8bit.png` and `x_000019_gtFine_labelIds.png`, of
which the 8 is in every name and so belongs to the pattern.
"""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Set

from adam_mp.data.reading.account import some
from adam_mp.data.reading.meant_classes import HELD_OUT
from adam_mp.data.reading.part_names import part_of_word, pieces_of

_NUMBERS = re.compile("[0-9]+")
_FEWEST = 3  # names of a pattern, and pairs, that are no chance
_SHARE = 0.8  # of the names of a pattern, or of the images of a class, that are in pairs
_LOOK = 200  # names from the first, and of all: where these have one pattern, so have the others
_PADDED = 3  # digits of numbers that are written with zeros before them
_SHOWN = frozenset((  # words beside which an image may be called what it is
    "image", "img", "rgb", "photo", "picture", "pic", "orig", "original", "raw", "color", "colour", "frame",
))  # fmt: skip
_MOST_PATTERNS = 40  # of a class, the most frequent ones: those with few names do not matter
_FEW_PATTERNS = 4  # of tar shards; where there are more, the names say something else
_RARE = 0.02  # share of the images that names of a part have at least
_PARTED = 0.9  # share of the images whose names say a part, from which it is meant
_SAYS_PART = re.compile("train|val|test", re.IGNORECASE)
# Words of what was drawn or computed from an image. Beside an image of the same number it is no image of the class.
_ANSWERS = frozenset((
    "mask", "masks", "msk", "seg", "segs", "segm", "segmentation", "segmentations", "gt", "groundtruth", "truth",
    "trimap", "annotation", "annotations", "label", "labels", "lbl", "contour", "contours", "heatmap", "overlay",
    "pred", "preds", "prediction", "predicted", "semantic", "panoptic", "instance", "bbox", "superpixel", "saliency",
    "gradcam",
))  # fmt: skip


def drawn_images(images: Collection[str]) -> set[str]:
    """Return the images of a class that are drawn or computed from others, such as masks, by the names of both.

    `images` are paths in the data folder.
    """
    found: set[str] = set()
    for one, other in _paired(images):
        for (drawn, names), (shown, others) in ((one, other), (other, one)):
            if _is_drawn(drawn, shown, names.keys(), others.keys()):
                found.update(names[key] for key in names.keys() & others.keys())
    return found


def paired_images(images: Collection[str]) -> tuple[str, str] | None:
    """Return two images of a class with one key, if most of its images are in pairs; else None."""
    for (_, names), (_, others) in _paired(images):
        keys = sorted(names.keys() & others.keys())
        if 2 * len(keys) >= _SHARE * len(images):
            return names[keys[0]], others[keys[0]]
    return None


def parted_images(images: Collection[str]) -> tuple[str, str] | None:
    """Return two images whose names say different parts, such as Training_1 and PublicTest_1, if names of all do."""
    if not _SAYS_PART.search("\n".join(images)):
        return None
    said: Counter[str] = Counter()
    example: dict[str, str] = {}
    for image in images:
        stem = os.path.splitext(os.path.basename(image))[0]
        parts = {part for piece in pieces_of(stem) if (part := part_of_word(piece)) is not None}
        if len(parts) == 1:
            part = parts.pop()
            said[part] += 1
            example.setdefault(part, image)
    often = [part for part, count in said.most_common() if count >= max(_FEWEST, _RARE * len(images))]
    if len(often) < 2 or said.total() < _PARTED * len(images):
        return None
    return example[often[0]], example[often[1]]


def shards_apart(stems: Collection[str]) -> str | None:
    """Return a line about tar shards, by their names without .tar, some of which may not be meant to be trained on.

    Some have a word such as holdout or test, which others lack, or there are two to four patterns of names.
    """
    held_out = [stem for stem in stems if _says_held_out(stem)]
    if held_out and len(held_out) < len(stems):
        named = some((f"{stem}.tar" for stem in held_out), 3)
        return f"the tar shards {named} may not be meant to be trained on; if so, move them away"
    first: dict[str, str] = {}
    for stem in stems:
        first.setdefault(_NUMBERS.sub("#", stem), stem)
    if 2 <= len(first) <= _FEW_PATTERNS < len(stems):
        named = some((f"{stem}.tar" for stem in first.values()), _FEW_PATTERNS)
        return (
            f"tar shards of different names, such as {named}, are all trained on; if some are not to be, move them away"
        )
    return None


def _says_held_out(stem: str) -> bool:
    return any(piece in HELD_OUT or piece == "tst" or part_of_word(piece) is not None for piece in pieces_of(stem))


def _is_drawn(pattern: str, shown: str, keys: Set[_Key], others: Set[_Key]) -> bool:
    """Tell whether names of a pattern are drawn or computed from those of the pattern `shown`.

    It has a word for that, which the other lacks. Numbers alone prove little: any two series begin with 1. So either
    the other has no word of its own (`US_#` and `US_#_mask`) and the series is the same, or has numbers of one length
    (`0001`), or both series are the same and have numbers of one length (`#_sat` and `#_mask`).
    """
    words, rest = {*pieces_of(os.path.basename(pattern))}, {*pieces_of(os.path.basename(shown))}
    own = rest - words
    if not (words - rest) & _ANSWERS or own & _ANSWERS:
        return False
    same = len(keys & others) >= _SHARE * max(len(keys), len(others))
    padded = len({tuple(map(len, key)) for key in keys | others}) == 1 and min(map(len, max(keys))) >= _PADDED
    return same and padded if own - _SHOWN else same or padded


_Key = tuple[str, ...]
_Named = tuple[str, Mapping[_Key, str]]  # a pattern, and its names by key


def _paired(images: Collection[str]) -> Iterable[tuple[_Named, _Named]]:
    """Yield the pairs of patterns of a class's images; the first of a pair has at least as many names."""
    listed = list(images)
    drawn = random.Random(0).choices(listed, k=_LOOK) if listed else []
    if len({_NUMBERS.sub("#", name) for name in (*listed[:_LOOK], *drawn)}) <= 1:  # as of most, which may be large
        return
    largest = sorted(_patterns(images).items(), key=lambda each: -len(each[1]))[:_MOST_PATTERNS]
    for place, (pattern, names) in enumerate(largest):
        for other, others in largest[place + 1 :]:
            if os.path.dirname(pattern) != os.path.dirname(other):
                continue
            if len(names.keys() & others.keys()) >= max(_FEWEST, _SHARE * len(others)):
                yield (pattern, names), (other, others)


def _patterns(images: Collection[str]) -> dict[str, dict[tuple[str, ...], str]]:
    """Return pattern -> key -> image; keys are without the numbers that all names of a pattern have."""
    found: dict[str, list[tuple[tuple[str, ...], str]]] = {}
    for image in images:
        folder, name = os.path.split(os.path.splitext(image)[0])
        pattern = f"{folder}/{_NUMBERS.sub('#', name)}"
        found.setdefault(pattern, []).append((tuple(_NUMBERS.findall(name)), image))
    named = {}
    for pattern, some_names in found.items():
        if len(some_names) < _FEWEST:
            continue
        varies = [len(set(column)) > 1 for column in zip(*(key for key, _ in some_names), strict=True)]
        named[pattern] = {
            tuple(number for number, different in zip(key, varies, strict=True) if different): image
            for key, image in some_names
        }
    return named

"""Part names: which folder, tar shard or array is for training, which for validation, which for testing.

A name says its part by one word: train, training, val, valid, validation, test or testing, in any case, alone or with
set, data, images and the like (`Training_set`, `testset`, `val-images`). A name that contains such a word beside
others (`seg_train`, `test1`), or that is almost one (`trian`), names no part; `part_meant` finds what was meant by it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

TRAIN, VALIDATION, TEST = "train", "validation", "test"
WANTED = {TRAIN: "train", VALIDATION: "val", TEST: "test"}  # the spelling that messages ask for
_WORDS = {
    "train": TRAIN, "training": TRAIN, "val": VALIDATION, "valid": VALIDATION, "validation": VALIDATION, "test": TEST,
    "testing": TEST,
}  # fmt: skip
_ADDED = ("dataset", "data", "set", "images", "image", "imgs", "img", "split", "part", "folder", "files")
_PIECE = re.compile(r"[a-z]+|[0-9]+")
_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_ALIKE = 0.75  # of difflib, from 0 to 1


def pieces_of(name: str) -> list[str]:
    """Return the words and numbers of a name in lower case: `xTrain_01` is x, train, 01."""
    return _PIECE.findall(_CAPITAL.sub("_", name).lower())


def part_of_word(word: str) -> str | None:
    """Return the part that one word in lower case names, `trainset` too; None if it names none."""
    if word in _WORDS:
        return _WORDS[word]
    for added in _ADDED:
        if word.endswith(added) and word.removesuffix(added) in _WORDS:
            return _WORDS[word.removesuffix(added)]
    return None


def part_of(name: str) -> str | None:
    """Return "train", "validation" or "test" for a folder's name, None for a name that is no part's."""
    pieces = pieces_of(name)
    parts = [part_of_word(piece) for piece in pieces]
    named = [part for part in parts if part is not None]
    others = [piece for piece, part in zip(pieces, parts, strict=True) if part is None]
    return named[0] if len(named) == 1 and all(other in _ADDED for other in others) else None


def part_meant(name: str) -> str | None:
    """Return the part that a folder's name probably means although `part_of` does not take it, else None.

    It has a part's word beside others, as `seg_train` has, or one of its words is spelled almost so.
    """
    pieces = [piece for piece in pieces_of(name) if piece not in _ADDED]
    named = {part for piece in pieces if (part := part_of_word(piece)) is not None}
    if len(named) == 1:
        return named.pop()
    if named or len(pieces) != 1 or len(pieces[0]) < 3:
        return None
    close = difflib.get_close_matches(pieces[0], _WORDS, n=1, cutoff=_ALIKE)
    return _WORDS[close[0]] if close else None


def part_with_number(name: str) -> str | None:
    """Return the part that a folder's name says with a number or a single letter behind it: `train2017`, `testA`."""
    first, *rest = pieces_of(name) or [""]
    return part_of_word(first) if rest and all(each.isdecimal() or len(each) == 1 for each in rest) else None


def part_within(name: str) -> tuple[str | None, bool]:
    """Return the part that any word of a file's name says, and whether several words say different parts.

    This is for tar shards: `imagenet-train-0000.tar` and `trainset_01.tar` are for training.
    """
    named = list(dict.fromkeys(part for piece in pieces_of(name) if (part := part_of_word(piece)) is not None))
    return (named[0] if len(named) == 1 else None), len(named) > 1


def spelling(parts: Sequence[str]) -> str:
    """Return how folders of these parts are to be named: `train/ and test/`."""
    return " and ".join(f"{WANTED[part]}/" for part in parts)

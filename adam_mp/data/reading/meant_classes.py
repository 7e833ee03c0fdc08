"""What cannot be meant as classes: parts and pieces of a data set, one folder too deep beside others, images and masks.

Such folders would train to a perfect accuracy that means nothing, so they are refused, with what to do.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from adam_mp.data.reading.account import some
from adam_mp.data.reading.class_folders import ClassFound, PartFound
from adam_mp.data.reading.part_names import (
    TRAIN,
    WANTED,
    part_of,
    part_of_word,
    part_with_number,
    pieces_of,
    spelling,
)
from adam_mp.errors import DataError

_MOST = 0.8  # share of all images from which one folder of folders is taken for the data folder itself
HELD_ALIKE = 0.5  # share of all inner names that each folder has on average, from which they are not kinds of one class
_SURELY = frozenset((
    "image", "images", "img", "imgs", "jpegimages", "jpg", "jpgs", "jpeg", "jpegs", "png", "pngs", "bmp", "webp",
))  # beside answers, whatever else there is  # fmt: skip
IMAGES = _SURELY | frozenset(("pictures", "photos", "frames", "rgb", "input", "inputs"))
_PIECES = frozenset((word,) for word in (
    "fold", "batch", "part", "split", "subset", "chunk", "shard", "images", "image", "img", "imgs", "folder", "dir",
    "data", "volume", "vol",
))  # fmt: skip
_NUMBERED_PIECES = frozenset(("fold", "batch", "part", "split", "subset", "chunk", "shard", "vol", "volume"))
_CHANGED = frozenset((
    "aug", "augmented", "augmentation", "augmentations", "resized", "cropped", "grayscale", "greyscale",
    "flipped", "rotated", "mirrored", "preprocessed", "crop", "crops", "bbox",
))  # fmt: skip
_UNCHANGED = frozenset(("original", "originals", "orig"))  # beside changed copies
_OF_CLASSES = frozenset(("class", "category", "grade", "level", "type", "stage"))  # before the number of a class
ANSWERS = frozenset((
    "mask", "masks", "label", "labels", "annotation", "annotations", "segmentation", "segmentations", "gt",
    "groundtruth", "seg", "segs", "segm", "segmim", "target", "targets", "trimap", "trimaps", "annot", "manual",
    "output", "outputs", "anndir", "annsdir",
))  # fmt: skip
_FILLERS = frozenset((
    "dir", "dirs", "folder", "folders", "file", "files", "set", "data", "png", "jpg", "jpeg", "bmp", "webp",
))  # beside the word that says what a folder has  # fmt: skip
KINDS = IMAGES | ANSWERS | frozenset((
    "depth", "ir", "infrared", "nir", "thermal", "original", "originals", "orig", "augmented", "aug", "augmentation",
    "raw", "processed", "preprocessed", "cropped", "crop", "crops", "resized", "gray", "grey", "grayscale", "greyscale",
    "color", "colour", "segmented", "edges", "flow", "thumbs", "thumbnails", "hires", "lowres", "hr", "lr", "noisy",
    "clean",
))  # fmt: skip
HELD_OUT = frozenset((
    "dev", "devel", "development", "eval", "evaluation", "holdout", "heldout", "query", "gallery", "probe", "unlabeled",
    "unlabelled", "te", "exam", "prueba", "pruebas", "teste", "validacion", "validación", "prüfung",
    "testdaten", "testmenge", "validierung", "validierungsdaten", "verifica",
    "测试", "测试集", "验证", "验证集", "テスト", "評価", "検証", "테스트", "검증", "тест", "валидация",
))  # fmt: skip
_MAGNIFIED = re.compile(r"x[0-9]+|[0-9]+x[0-9]*")  # such as 40x, or a size
_TIME = re.compile(r"(19|20)[0-9]{2}([-_.]?[0-9]{2}){0,2}")  # a year, month or day
# One of these, or the number of a folder over which images are spread.
NO_CLASS = re.compile(rf"[0-9a-f]+|{_TIME.pattern}", re.IGNORECASE)


def check_meant(part: PartFound) -> None:
    """Raise DataError if the class folders of a part cannot be meant as classes."""
    check_no_parts(part)
    inside = {name: folders_inside(name, each) for name, each in part.classes.items()}
    _check_roles(part)
    _check_belonging(part)
    _check_holds_classes(part, inside)
    _check_one_too_deep(part, inside)
    _check_held_alike(part, inside)
    _check_pieces(part)
    if len(spread := spread_classes(part.classes)) > 1:
        raise DataError(
            f"the folders {' and '.join(some(each, 3) for each in spread[:2])} of {part.folder} seem to be of one "
            "class each: put the images of each class into one folder; if they are classes, rename them"
        )


def folders_inside(name: str, found: ClassFound) -> dict[str, int]:
    """Return the folders with images that a class folder has, each with the number of its images."""
    if found.direct == len(found.images):
        return {}
    counts: dict[str, int] = {}
    for image in found.images:
        _, inner, *below = image.split("/", 2)
        if below:
            counts[inner] = counts.get(inner, 0) + 1
    return counts


def check_no_parts(part: PartFound) -> None:
    """Raise DataError if class folders hold part folders, such as `cat/train/` and `cat/test/`."""
    inside = {name: folders_inside(name, each) for name, each in part.classes.items()}
    held = {name: parts for name, inner in inside.items() if (parts := [each for each in inner if part_of(each)])}
    holders = {name: parts for name, parts in held.items() if any(part_of(each) != TRAIN for each in parts)}
    if not holders:
        return
    name, parts = next(iter(holders.items()))
    spelled = some(f"{name}/{each}/" for each in parts)
    deeper = any(image.count("/") > 2 for image in part.classes[name].images)  # parts/part/class/image
    todo = f"move the images to {parts[0]}/{name}/"
    if deeper:
        todo = f"give {part.folder / name}" if len(holders) == 1 else f"give one of them, such as {part.folder / name}"
        if len({frozenset(map(part_of, each)) for each in held.values()}) > 1:  # pieces of one data set, no folds
            spelled = some(f"{holder}/{each}/" for holder, each_of in held.items() for each in each_of)
            todo = "they may be pieces of one data set: put the images of each part and class into one folder"
    raise DataError(f"the folders of {part.folder} are no classes: they hold parts ({spelled}); {todo}")


def check_inner(part: PartFound, inner: Mapping[str, ClassFound]) -> None:
    """Raise DataError if folders that all class folders of a part hold cannot be the classes in place of these."""
    roles = ["".join(pieces_of(name)) for name in inner]
    words = {tuple(piece for piece in pieces_of(name) if not piece.isdecimal()) for name in inner}
    kinds = all(role in KINDS or _MAGNIFIED.fullmatch(role) for role in roles) or all(
        _TIME.fullmatch(name) for name in inner
    )
    kinds = kinds or _are_images_and_answers({name: _role(name) for name in inner})
    if kinds or (words <= _PIECES and all(any(map(str.isdecimal, pieces_of(name))) for name in inner)):
        raise DataError(
            f"the folders {some(f'{name}/' for name in inner)} in {some(f'{name}/' for name in part.classes)} of "
            f"{part.folder} are no classes, but kinds or pieces of the same images; if the outer folders are the "
            "classes, move their images out of the inner ones"
        )
    if held_out := [name for name in part.classes if {"".join(pieces_of(name)), name.casefold()} & HELD_OUT]:
        raise DataError(
            f"the folders {some(f'{name}/' for name in part.classes)} of {part.folder} hold the same classes, and "
            f"{held_out[0]}/ seems to be held out: call the folders train/, val/ and test/, or move it away; if it "
            "is a class, rename it"
        )


def check_below(part: PartFound, classes: Mapping[str, ClassFound]) -> None:
    """Raise DataError if all `classes` hold the same folders two levels below the part: these may be the classes."""
    below = [{name.split("/")[2] for name in each.images if name.count("/") > 2} for each in classes.values()]
    names = below[0]
    kinds = all("".join(pieces_of(name)) in KINDS or NO_CLASS.fullmatch(name) for name in names)
    if len(classes) < 2 or len(names) < 2 or kinds or any(each != names for each in below):
        return
    raise DataError(
        f"the classes of {part.folder} are not clear: the folders {some(f'{name}/' for name in classes)} all hold the "
        f"folders {some(f'{name}/' for name in sorted(names))}; if these are the classes, move their images up to "
        f"{part.folder}/NAME; if not, move the images out of them"
    )


def check_no_part_inside(part: PartFound, elsewhere: Collection[str]) -> None:
    """Raise DataError if a part's class folders have the name of another part, such as `train/val/`.

    A class `train` may be meant, as long as it does not hold the classes; so may one of any name that is also
    among `elsewhere`, the classes of other parts.
    """
    for name, each in part.classes.items():
        inner = set(folders_inside(name, each)) & set(part.classes)
        if (meant := part_of(name)) is not None and (inner or (meant != TRAIN and name not in elsewhere)):
            raise DataError(
                f"{part.folder / name} has the name of a part, and lies in another; move it to "
                f"{part.folder.parent / name}; if it is a class, rename it"
            )


def spread_classes(names: Collection[str]) -> list[list[str]]:
    """Return groups of folders that by their names are of one class: `cat` and `cat_aug`, `cat_part1`, `cat_part2`."""
    groups: dict[tuple[str, ...], dict[str, bool]] = {}
    for name in filter(str.isascii, names):
        pieces = pieces_of(name)
        spread = [_is_of_a_piece(pieces, place) for place in range(len(pieces))]
        kept = [each for each, is_spread in zip(pieces, spread, strict=True) if not is_spread]
        base = tuple(each for each in kept if each not in _UNCHANGED)
        if base:
            groups.setdefault(base, {})[name] = any(spread)
    return [sorted(group) for group in groups.values() if len(group) > 1 and any(group.values())]


def _is_of_a_piece(pieces: Sequence[str], place: int) -> bool:
    """Tell whether a piece of a name says which part, or which changed copy, of a class a folder has."""
    piece, before, behind = pieces[place], pieces[:place][-1:], pieces[place + 1 : place + 2]
    if piece.isdecimal():
        return bool(before) and before[0] in _NUMBERED_PIECES
    return piece in _CHANGED or (piece in _NUMBERED_PIECES and bool(behind) and behind[0].isdecimal())


def _check_roles(part: PartFound) -> None:
    """Raise DataError if the folders are images and what belongs to them, or kinds of the same images."""
    roles = {name: _role(name) for name in part.classes}
    images = _images_among(roles)
    kinds = len(roles) > 1 and all(role in KINDS for role in roles.values())
    if kinds or _are_images_and_answers(roles):
        what = "images and what belongs to them"
        if not _answers_among(roles):
            what = "kinds of the same images; if they are classes, rename them"
        todo = "adam_mp trains classes: put the images of each class into a folder of its name"
        if part.inner_classes() is not None:
            todo = f"give one of them, such as {part.folder / next(iter(images), next(iter(roles)))}"
        raise DataError(
            f"the folders {some(f'{name}/' for name in roles)} of {part.folder} are no classes, but {what}; {todo}"
        )


def _are_images_and_answers(roles: Mapping[str, str]) -> bool:
    """Tell whether folders are images and what belongs to them, such as `images/` and `lung masks/`, by their names."""
    answers, images = _answers_among(roles), _images_among(roles)
    surely = any(roles[name] in ANSWERS for name in answers) and any(roles[name] in _SURELY for name in images)
    return surely or (bool(answers and images) and len({*answers, *images}) == len(roles))


def _answers_among(roles: Mapping[str, str]) -> list[str]:
    return [name for name in roles if not ANSWERS.isdisjoint(pieces_of(name)) or "".join(pieces_of(name)) in ANSWERS]


def _images_among(roles: Mapping[str, str]) -> list[str]:
    return [name for name, role in roles.items() if role.rstrip("0123456789") in IMAGES]


def _role(name: str) -> str:
    pieces = pieces_of(name)
    return "".join(piece for piece in pieces if piece not in _FILLERS) or "".join(pieces)


def _check_belonging(part: PartFound) -> None:
    """Raise DataError if a folder has the name of another and a word such as masks: `cat/` and `cat_masks/`.

    Beside one with a word such as images, numbers count no more: `Task1-2_Input/` and `Task1_GroundTruth/`.
    """
    split = {tuple(pieces_of(name)): name for name in part.classes}
    with_images = {
        _without(pieces, IMAGES, True): name for pieces, name in split.items() if not IMAGES.isdisjoint(pieces)
    }
    for pieces, name in split.items():
        rest, bare = _without(pieces, ANSWERS), _without(pieces, ANSWERS | IMAGES, True)
        if not rest or rest == pieces:
            continue
        base = split.get(rest) or (with_images.get(bare) if bare else None)
        if base is not None:
            raise DataError(
                f"{part.folder / name} seems to hold what belongs to the images of {base}/, and is no class; move it "
                f"out of {part.folder}; if it is a class, rename it"
            )


def _without(pieces: tuple[str, ...], words: Collection[str], numbers: bool = False) -> tuple[str, ...]:
    """Return the pieces of a name that are none of these words, `ground` and `truth` together taken for one of them.

    With `numbers`, the pieces that are numbers are left out too.
    """
    joined = " ".join(pieces).replace("ground truth", "groundtruth").split()
    return tuple(piece for piece in joined if piece not in words and not (numbers and piece.isdecimal()))


def _check_holds_classes(part: PartFound, inside: Mapping[str, Mapping[str, int]]) -> None:
    """Raise DataError if a class folder holds folders with the names of class folders beside it: `red/`, `all/red/`."""
    for name, inner in inside.items():
        again = [each for each in inner if each in part.classes and each != name]
        if len(again) > 1:
            raise DataError(
                f"{part.folder / name} holds folders with the names of classes beside it ({some(sorted(again))}), so "
                f"it is no class; move it out of {part.folder}"
            )


def _check_one_too_deep(part: PartFound, inside: Mapping[str, Mapping[str, int]]) -> None:
    """Raise DataError if one class folder has nothing but folders, and nearly all images."""
    deep = [name for name, each in part.classes.items() if not each.direct]
    total = sum(len(each.images) for each in part.classes.values())
    if len(deep) != 1 or len(part.classes) < 2 or len(inside[deep[0]]) < 2:
        return
    name, count = deep[0], len(part.classes[deep[0]].images)
    if count >= _MOST * total:
        raise DataError(
            f"{count:,} of {total:,} images of {part.folder} lie deeper, in {part.folder / name}, which has the "
            f"folders {some(inside[name])}; if these are the classes, give {part.folder / name}; if {name} is one "
            "class, move its images out of them"
        )


def _check_held_alike(part: PartFound, inside: Mapping[str, Mapping[str, int]]) -> None:
    """Raise DataError if all folders hold folders of partly the same names: either may be the classes.

    If all folders hold folders of the same names, these are the classes (`PartFound.inner_classes`).
    """
    if len(part.classes) < 2 or any(each.direct for each in part.classes.values()):
        return
    held = {name: {each for each in inner if each.lower() not in IMAGES} for name, inner in inside.items()}
    names = set().union(*held.values())
    share = sum(map(len, held.values())) / (len(held) * max(1, len(names)))
    apart = sum(map(len, held.values())) == len(names)
    if len(names) < 2 or apart or all(each == names for each in held.values()):
        return
    if share < HELD_ALIKE and not _each_in_one(list(held.values())):
        return
    raise unclear_classes(part, held)


def _each_in_one(held: Sequence[Collection[str]]) -> bool:
    """Tell whether each folder holds one folder, of few names that several hold: `p1/sick`, `p2/well`, `p3/sick`."""
    counts = Counter(name for each in held for name in each)
    words = not any("".join(pieces_of(name)) in KINDS or NO_CLASS.fullmatch(name) for name in counts)
    return words and min(counts.values()) > 1 and all(len(each) == 1 for each in held)


def _check_pieces(part: PartFound) -> None:
    """Raise DataError if the folders are parts with a number or a letter, `train2017`, or pieces of a set, `fold1`."""
    names = some(f"{name}/" for name in part.classes)
    numbered_parts = [part_with_number(name) for name in part.classes]
    parts = {*numbered_parts, *_parts_beside_the_same(part)} - {None}
    if len(parts) > 1 or (len(numbered_parts) > 1 and None not in numbered_parts):
        wanted = spelling([each for each in WANTED if each in parts])
        raise DataError(
            f"the folders {names} of {part.folder} look like parts, not classes; call them {wanted}, with a folder for "
            "each class in them; if they are classes, rename them"
        )
    split = [pieces_of(name) for name in part.classes]
    words = {tuple(piece for piece in pieces if not piece.isdecimal()) for pieces in split}
    numbered = all(any(piece.isdecimal() for piece in pieces) for pieces in split)
    pieces_alone = any((word,) in _PIECES for each in words for word in each)
    of_classes = any(word in _OF_CLASSES for each in words for word in each)
    if len(words) == 1 and numbered and pieces_alone and not of_classes and part.inner_classes() is None:
        raise DataError(
            f"the folders {names} of {part.folder} are no classes, but pieces of one data set; put the images of each "
            "class into a folder of its name; if they are classes, rename them"
        )


def _parts_beside_the_same(part: PartFound) -> set[str | None]:
    """Return the parts that names say which are the same but for it: `box_train/`, `box_test/`; none if it is one."""
    found: dict[tuple[str, ...], set[str | None]] = {}
    split = [tuple(pieces_of(name)) for name in part.classes]
    for pieces in split:
        rest = tuple(piece for piece in pieces if part_of_word(piece) is None)
        if len(rest) == len(pieces) - 1:
            found.setdefault(rest, set()).update(part_of_word(piece) for piece in pieces)
    if len(beside := [rest for rest in found if rest in split]) > 1:  # `box/` and `box_val/`, `cup/` and `cup_val/`
        for rest in beside:
            found[rest].add(TRAIN)
    return next((parts - {None} for parts in found.values() if len(parts - {None}) > 1), set())


def unclear_classes(part: PartFound, held: Mapping[str, Collection[str]]) -> DataError:
    """Return the error for class folders, names in `held`, that hold folders of partly the same names."""
    first, second = list(held)[:2]
    return DataError(
        f"the classes of {part.folder} are not clear: its folders hold folders of partly the same names "
        f"({first}/ {some(sorted(held[first]), 3)}; {second}/ {some(sorted(held[second]), 3)}); if the inner ones are "
        f"the classes, move their images up to {part.folder}/NAME; if the outer ones, move images out of the inner"
    )

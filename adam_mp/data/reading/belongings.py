"""Files in class folders that belong to the images beside them, such as masks, and are no images of the class.

They would be trained as images of the class: half of them drawn by hand, and beside their own image in another part.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Collection

from adam_mp.data.reading.account import some
from adam_mp.data.reading.class_folders import ClassFound, PartFound
from adam_mp.data.reading.faults import BadSample, Fault
from adam_mp.data.reading.meant_classes import HELD_OUT
from adam_mp.data.reading.name_patterns import drawn_images, paired_images, parted_images
from adam_mp.data.reading.part_names import part_of, part_of_word, pieces_of

_WORD = (
    r"(?:(?:mask|depth)(?:crop)?|seg|segm|segmentation|gt|ground[-_ ]?truth|trimap|annotation|contour|label|lbl|"
    r"heatmap)s?"
)
_BEHIND = (  # words that stand behind the name of an image alone: before one they may be a name
    r"(?:(?:colou?r|watershed|instance|semantic|binary)[-_ ]?mask|superpixel|attribute_[a-z_]+|lesion|1stHO|2ndHO|"
    r"manual[0-9]*|(?:gtFine[-_])?(?:labelId|instanceId)|fg|msk|overlay|prediction|pred|annotated|bbox|boundary|"
    r"boundarie|edge|grad-?cam|saliency|segmented|segmap|keypoint|skeleton|matte|watershed)s?"
)
_NUMBERED = rf"{_WORD}(?:[-_. ]?[0-9]+)?"
_BELONGS = re.compile(rf"(?P<base>.+?)(?:[-_. ]+|(?<=[0-9])){_NUMBERED}", re.IGNORECASE)  # 1_mask_2
_BELONGS_BEFORE = re.compile(rf"{_WORD}[-_. ]+(?P<base>.+)", re.IGNORECASE)  # mask_1
_STANDS_BEHIND = re.compile(rf"(?P<base>.+?)[-_. ]+{_BEHIND}", re.IGNORECASE)  # 1_overlay
_MAY_BELONG = re.compile(
    rf"(?:^|[-_. /0-9])(?:{_NUMBERED}|{_BEHIND})(?:[-_. ]|$)", re.IGNORECASE | re.MULTILINE
)  # fmt: skip
_SHOWN = r"(?:image|img|rgb|crop|photo|picture|orig|original|color|colour|raw)"  # beside which 1_mask may be 1_image
_SHOWS = re.compile(rf"(?P<base>.+?)[-_. ]+{_SHOWN}|{_SHOWN}[-_. ]+(?P<behind>.+)", re.IGNORECASE)
_PAIRED = 0.5  # share of a class's images that have the name of another but for its ending, from which it is told
_REPEATED = 3  # images that have the names of others by no chance, if they are most
_TESTED = frozenset(("tests", "validate", "evaluate", "unseen"))
_OTHER_MEANING = frozenset(("train", "training", "valid"))  # of trains, athletes and tickets
_BESIDE_PARTS = frozenset((
    "my", "new", "pics", "pictures", "photos", "samples", "images", "image", "imgs", "img", "data", "set",
))  # fmt: skip
_UNSORTED = frozenset((
    "unlabeled", "unlabelled", "unlabeleddata", "unsorted", "unsup", "unsupervised", "unclassified", "unannotated",
    "nolabel", "notlabeled", "notlabelled", "tolabel", "untagged", "uncategorized", "uncategorised", "nan",
    "tosort", "todo", "tmp", "temp", "backup", "backups", "bak", "duplicates", "deleted", "removed", "discarded",
    "rejected", "excluded", "ignored", "ignore", "archive", "newfolder", "untitledfolder", "images", "all", "allimages",
    "pred", "preds", "predict", "topredict", "prediction", "predictions", "inference", "samples", "sampleimages",
    "examples", "demo",
    "venv", "env", "nodemodules", "pycache", "ipynbcheckpoints", "wandb", "mlruns", "lightninglogs", "checkpoints",
    "results", "output", "outputs", "plots", "figures", "logs", "screenshots", "assets", "docs", "heatmaps", "gradcam",
    "saliency", "overlays",
))  # fmt: skip
_IMAGES = frozenset(("images", "all", "allimages", "samples", "sampleimages", "examples"))  # of a class too
_PUT_ASIDE = frozenset((
    "bad", "wrong", "trash", "unused", "mislabeled", "mislabelled", "skip", "skipped", "todelete",
))  # fmt: skip


def without_belongings(part: PartFound) -> PartFound:
    """Return a part without images that are named as another image of their folder and a word: `1_mask.png`.

    They are among its rejected files. A class that is named by such a word (`mask`) keeps all of its images.
    """
    kept: dict[str, ClassFound] = {}
    rejected: list[BadSample] = []
    for name, found in part.classes.items():
        belongs = _belonging(found.images) if not may_belong(name) else set()
        direct = found.direct - sum(image.count("/") == 1 for image in belongs)
        kept[name] = ClassFound([image for image in found.images if image not in belongs], direct) if belongs else found
        rejected += [BadSample(str(part.folder / image), Fault.BELONGS) for image in sorted(belongs)]
    return dataclasses.replace(part, classes=kept, rejected=[*part.rejected, *rejected]) if rejected else part


def may_belong(name: str) -> bool:
    """Tell whether a name has a word by which files that belong to images are named, such as mask in 1.mask.png."""
    return _MAY_BELONG.search(name) is not None


def _belonging(images: Collection[str]) -> set[str]:
    """Return which images belong to another one of their folder, by their names."""
    drawn = drawn_images(images)
    if not _MAY_BELONG.search("\n".join(images)):
        return drawn
    bases = {name: base for name in images if (base := _base(name)) is not None}
    stems = {os.path.splitext(name)[0] for name in images}
    shown = {base for name in images if name not in bases and (base := _shown_base(name)) is not None}
    found = {name for name, base in bases.items() if base in stems or base in shown}
    return found | drawn | {name for name in images if _base_before(name) in stems}


def _base(name: str) -> str | None:
    """Return the name, without ending, of the image to which one may belong: a/1 for a/1_mask.png and a/mask_1.png."""
    folder, stem = os.path.split(os.path.splitext(name)[0])
    match = _BELONGS.fullmatch(stem) or _BELONGS_BEFORE.fullmatch(stem)
    return os.path.join(folder, match["base"]) if match is not None else None


def _base_before(name: str) -> str | None:
    """Return the name, without ending, of the image to which one belongs if there is such an image: 1 for 1_overlay."""
    folder, stem = os.path.split(os.path.splitext(name)[0])
    match = _STANDS_BEHIND.fullmatch(stem)
    return os.path.join(folder, match["base"]) if match is not None else None


def _shown_base(name: str) -> str | None:
    """Return the name of an image without a word that says that it is one: a/1 for a/1_rgb.png and a/img_1.png."""
    folder, stem = os.path.split(os.path.splitext(name)[0])
    match = _SHOWS.fullmatch(stem)
    return os.path.join(folder, match["base"] or match["behind"]) if match is not None else None


def told_of(part: PartFound) -> list[str]:
    """Return lines about classes whose images may be no images of the class, or not be meant to be trained on."""
    lines = []
    if paired := [name for name, found in part.classes.items() if _is_paired(found.images)]:
        lines.append(
            f"images of the class {some(paired)} have the same names but for their endings, such as 1.jpg and 1.png; "
            "if these are masks or copies, move them away"
        )
    for name, found in part.classes.items():
        if (pair := paired_images(found.images)) is not None and not _is_paired(found.images):
            lines.append(
                f"images of the class {name!r} come in pairs, such as {pair[0]} and {pair[1]}; if one of them is drawn "
                "or computed from the other, move it away"
            )
            break  # one class is enough to tell
    everything = [image for found in part.classes.values() for image in found.images]
    if (parted := parted_images(everything)) is not None:
        lines.append(
            f"names of images say different parts, such as {parted[0]} and {parted[1]}, and all are trained on; if "
            "some are to test on, move them into test/, in folders of their classes"
        )
    if unsorted := [name for name in part.classes if "".join(pieces_of(name)) in _UNSORTED or is_held_out(name)]:
        lines.append(
            f"the class {some(unsorted)} may hold images of no class; if so, move its folder out of {part.folder}"
        )
    return lines


def told_within(part: PartFound) -> list[str]:
    """Return lines about folders inside class folders whose images may be of another class, or of none.

    That is the name of another class (`cat/dog/`), or a word for what was put aside (`cat/deleted/`). Folders whose
    images have the names of those around them (`cat/thumbs/`) are told too: copies would be validated on.
    """
    of_others, aside, repeated = [], [], []
    classes = {name.casefold() for name in part.classes}
    for name, found in part.classes.items():
        again = _repeated_names(found.images)
        for folder in sorted({os.path.dirname(image) for image in found.images}):
            inside = folder.split("/")
            inside = inside[inside.index(name) + 1 :] if name in inside else []
            if any(each.casefold() in classes - {name.casefold()} for each in inside):
                of_others.append(f"{folder}/")
            elif any(_is_put_aside(each, found.direct > 0) for each in inside):
                aside.append(f"{folder}/")
            elif folder in again:
                repeated.append(f"{folder}/")
    lines = []
    if of_others:
        lines.append(
            f"images in {some(of_others, 3)} are taken for those of the outer folder, though the inner one has the "
            "name of another class; if they are of that class, move them there"
        )
    if aside:
        lines.append(
            f"images in {some(aside, 3)} are taken for those of the class; if they are not to be used, move them away"
        )
    if repeated:
        lines.append(
            f"images in {some(repeated, 3)} have the names of those in the folder around them; if they are copies of "
            "them, such as smaller ones, move them away"
        )
    return [f"{line} ({part.folder})" for line in lines]


def _repeated_names(images: Collection[str]) -> set[str]:
    """Return the folders whose images mostly have the names, but for the endings, of most in the folder around them."""
    held: dict[str, set[str]] = {}
    for image in images:
        folder, name = os.path.split(image)
        held.setdefault(folder, set()).add(os.path.splitext(name)[0])
    around = {folder: held.get(os.path.dirname(folder), set()) for folder in held}
    return {
        folder
        for folder, names in held.items()
        if len(names & around[folder]) >= max(_REPEATED, _PAIRED * len(names), _PAIRED * len(around[folder]))
    }


def _is_put_aside(name: str, beside_images: bool) -> bool:
    """Tell whether a folder in a class folder, perhaps beside images, says that its images are not to be used."""
    word = "".join(pieces_of(name))
    return word in _UNSORTED - _IMAGES or is_held_out(name) or (beside_images and word in _PUT_ASIDE)


def is_held_out(name: str) -> bool:
    """Tell whether a name says that its images are not to be trained on: `my_test`, `holdout`; `test_tube` does not."""
    said = [piece for piece in pieces_of(name) if not piece.isdecimal() and piece not in _BESIDE_PARTS]
    if part_of(name) is not None or not said:
        return name.casefold() in HELD_OUT
    tested = part_of_word(said[-1]) is not None and said[-1] not in _OTHER_MEANING
    return tested or {*said} <= HELD_OUT | _TESTED


def _is_paired(images: Collection[str]) -> bool:
    """Tell whether most images of a class have the name of another one but for its ending."""
    stems = Counter(os.path.splitext(name)[0] for name in images)
    pairs = sum(count for count in stems.values() if count > 1)
    return pairs > 2 and pairs >= _PAIRED * len(images)

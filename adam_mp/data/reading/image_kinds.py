"""Which files are images: by the ending of their names, or by their first bytes where the ending says nothing.

Also which names computers leave in folders unasked, `.DS_Store` and its like: these are passed over without a word.
"""

from __future__ import annotations

import os
from collections.abc import Collection

from adam_mp.data.reading.faults import REASONS, BadSample, Fault

ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".webp")
# Other kinds of images, which people have and adam_mp does not read.
_OTHER_IMAGES = (
    ".gif", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".svg", ".ico", ".psd", ".ppm", ".pgm", ".tga",
    ".dcm", ".dng", ".nef", ".cr2", ".arw", ".raw", ".exr", ".hdr",
)  # fmt: skip
# Files that are often beside images, perhaps one for each: they are not opened to see whether they are images.
_TEXTS = (
    ".txt",
    ".json",
    ".xml",
    ".csv",
    ".tsv",
    ".md",
    ".yaml",
    ".yml",
    ".html",
    ".npy",
    ".npz",
    ".mat",
    ".py",
    ".log",
)
MOST_IN_RUN = 100  # files and folders of a run; of a folder with more, not all names need to be looked at
_OF_A_RUN = {"run.json", "metrics.jsonl"}
_DROPPINGS = frozenset((
    "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information",
    "lost+found", "#recycle", "@recycle", "#snapshot", "recycler",
))  # fmt: skip
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


def is_dropping(name: str) -> bool:
    """Tell whether a file or folder is one that computers leave unasked, or is hidden: its name begins with a dot."""
    return name[:1] == "." or name.lower() in _DROPPINGS


def is_run_folder(names: Collection[str]) -> bool:
    """Tell whether a folder with these entries is that of a run: its curves.png is no image of the data."""
    return len(names) <= MOST_IN_RUN and set(names) >= _OF_A_RUN


def hidden_image(name: str) -> bool:
    """Tell whether a name that begins with a dot is an image's, and not a copy of a file's attributes (`._1.jpg`)."""
    return name[:1] == "." and name[:2] != "._" and has_image_ending(name)


def has_image_ending(name: str) -> bool:
    """Tell whether a name ends as those of images do that adam_mp reads."""
    return name.lower().endswith(ENDINGS)


def is_image_within(path: str) -> bool:
    """Tell whether a file whose ending is not an image's has an image's first bytes."""
    return os.path.isfile(path) and judge_other(path) is None


def judge_other(path: str) -> BadSample | None:
    """Return None if a file whose ending is not an image's has an image's first bytes, else why it is left out."""
    ending = os.path.splitext(path)[1].lower()
    if ending not in _TEXTS:
        try:
            with open(path, "rb", buffering=0) as file:
                begin = file.read(12)
        except OSError:
            return BadSample(path, Fault.UNREADABLE)
        if begin.startswith(_BEGINNINGS) or (begin[:4], begin[8:]) == (b"RIFF", b"WEBP"):
            return None
    if ending in _OTHER_IMAGES:
        return BadSample(path, Fault.NOT_AN_IMAGE, f"{ending} images are not read; convert them to JPEG or PNG")
    what = f"a {ending} file" if ending else "a file without an ending"
    return BadSample(path, Fault.NOT_AN_IMAGE, f"{what}, {REASONS[Fault.NOT_AN_IMAGE]}")

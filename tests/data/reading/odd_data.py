"""Data as people have them, drawn at random, each with the truth: which classes it has, with how many images each.

`tests/data/reading/test_odd_data.py` compares the truth with what is understood. `odd` says that the data may be
refused; what is not odd must be understood. `truth` is None where nothing can be meant, so that it must be refused.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import tarfile
import unicodedata
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tests.data.pictures_on_disk import encode, pixels

JPEG, PNG, GIF = (encode(pixels("red", 0, 9, 8), kind) for kind in ("JPEG", "PNG", "GIF"))
NAMES = (
    "cat",
    "dog",
    "10",
    "2",
    "caf\u00e9",
    "with space",
    "-dash",
    "{b}",
    'a"b',
    "line\nend",
    "n0144",
    "\u72ac",
    "test_tube",
)
PARTS = {
    "train": ("train", "Train", "TRAINING", "Training_set", "train-data", "trainset", "train_images"),
    "validation": ("val", "Valid", "VALIDATION", "val_set", "valid-images"),
    "test": ("test", "Test", "TESTING", "Test_set", "testdata"),
}
ALMOST = {
    "train": ("seg_train", "Trian", "train1"),
    "validation": ("Valid1", "my_val", "vald"),
    "test": ("test2", "seg_test"),
}
ENDINGS = ((".jpg", JPEG), (".JPG", JPEG), (".jpeg", PNG), (".png", JPEG), (".jfif", JPEG), (".tif", JPEG), ("", PNG))
PASSED_OVER = ("._1.jpg", ".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX/cat/._1.jpg", ".ipynb_checkpoints/1.jpg")
LEFT_OUT = (("a.gif", GIF), ("a.txt", b"a text"), ("a.mp4", b"\0" * 40), (".hidden.jpg", JPEG))


@dataclasses.dataclass
class Drawn:
    """Data to train on, and the truth: part -> class -> images, for parts and classes that have any."""

    source: Any
    truth: dict[str, dict[str, int]] | None
    odd: bool = False
    said: str = ""
    left_out: int = 0


def one_name(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def draw_folder(random: Random, root: Path) -> Drawn:
    """Class folders, perhaps below part folders, with all that is found in and beside them."""
    names = random.sample(NAMES, random.randint(2, 4))
    parts = ["train"] + [part for part in ("validation", "test") if random.random() < 0.5]
    truth: dict[str, dict[str, int]] = {}
    plain = random.random() < 0.4
    drawn = Drawn(root, truth)
    top = root / "pets" if (deep := random.random() < 0.15) else root
    drawn.odd |= deep
    inner = random.choice(("", "", "", "images", "a/b"))
    for part in parts[:1] if plain else parts:
        almost = random.random() < 0.1
        drawn.odd |= almost
        folder = top if plain else top / random.choice(ALMOST[part] if almost else PARTS[part])
        if part != "train" and random.random() < 0.15:  # images without classes
            write(folder / "1.jpg", JPEG)
            continue
        held = names if part == "train" else random.sample(names, random.randint(1, len(names)))
        drawn.odd |= len(held) == 1
        truth[part] = dict.fromkeys(map(one_name, held), 0)
        for name in held:
            spelled = unicodedata.normalize(random.choice(("NFC", "NFD")), name)
            for number in range(random.randint(1, 4)):
                ending, content = random.choice(ENDINGS)
                write(folder / spelled / inner / f"{number}{ending}", content)
                truth[part][one_name(name)] += 1
            if random.random() < 0.2:
                other, content = random.choice(LEFT_OUT)
                write(folder / spelled / other, content)
                drawn.left_out += 1
        _add_oddities(random, drawn, folder, part, plain)
    for dropping in PASSED_OVER:
        if random.random() < 0.2:
            write(top / dropping, b"x")
    if not plain and random.random() < 0.2:
        write(top / "extra" / "1.jpg", JPEG)
    return drawn


def _add_oddities(random: Random, drawn: Drawn, folder: Path, part: str, plain: bool) -> None:
    kind = random.choice(("none",) * 6 + ("link", "folder link", "empty", "part inside", "fold", "pipe", "shard"))
    inside = next(each for each in sorted(folder.iterdir()) if each.is_dir())
    if kind == "link":
        store = folder.parents[3] / "store"
        write(store / "1.jpg", JPEG)
        (inside / "linked.jpg").symlink_to(store / "1.jpg")
        drawn.left_out += 1
    elif kind == "folder link":
        (folder / "zz").symlink_to(inside)
        drawn.odd = True
    elif kind == "empty":
        write(folder / "zz notes" / "a.txt", b"hello")
        drawn.left_out += 2
    elif kind == "part inside":
        write(inside / "test" / "1.jpg", JPEG)
        drawn.truth = None
    elif kind == "fold" and part == "train":
        for number, each in enumerate(sorted(path for path in folder.iterdir() if path.is_dir())):
            for inner in ("zz1", "zz2")[: 1 + (number > 0)]:
                write(each / inner / "z.jpg", JPEG)
            for path in [path for path in each.iterdir() if path.is_file()]:
                path.unlink()
        drawn.truth = None
    elif kind == "pipe":
        os.mkfifo(inside / "pipe.jpg")
        drawn.left_out += 1
    elif kind == "shard" and plain:
        with tarfile.open(folder / "all.tar", "w") as archive:
            archive.add(inside, "x")
        drawn.odd = True


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def draw_labels(random: Random, root: Path) -> Drawn:
    """Labels of every form, of arrays, in files and in items."""
    count, classes = random.randint(20, 60), random.randint(2, 5)
    y = np.r_[np.arange(classes), np.array([random.randrange(classes) for _ in range(count - classes)])]
    form = random.choice(sorted(FORMS))
    labels, names, odd = FORMS[form](random, y)
    truth = None if names is None else {"train": dict(Counter(str(names[number]) for number in y))}
    images = np.zeros((count, 6, 5), np.uint8)
    carrier = random.choice(("arrays", "npz", "npy", "items", "lists"))
    source: Any = (images, labels)
    if carrier == "lists" and np.ndim(labels) and not isinstance(labels, np.ma.MaskedArray):
        source = (list(images), list(labels))
    elif carrier == "items" and np.shape(labels) == (count,) and not isinstance(labels, np.ma.MaskedArray):
        source = [(image, label) for image, label in zip(images, labels, strict=True)]  # a list, which is no zip
        odd = truth is None  # single items that are wrong are left out
        if form in ("mixed", "missing", "nan", "none", "fraction", "infinite", "negative"):
            truth = {}
    elif carrier in ("npz", "npy") and not isinstance(labels, np.ma.MaskedArray):
        odd |= np.asarray(labels).dtype == object
        if carrier == "npz":
            source = root / "data.npz"
            np.savez(source, **{random.choice(("x", "X_train", "images")): images, "labels": labels, "y": labels})
            odd = True  # several names for one, some of which do not belong together
        else:
            source = root
            np.save(root / random.choice(("x_train.npy", "trainImages.npy")), images)
            np.save(root / random.choice(("y_train.npy", "labels_train.npy")), labels)
    return Drawn(source, truth, odd, form)


def _numbers(kind: Any) -> Any:
    return lambda random, y: (y.astype(kind), range(9), False)


def _shaped(shape: Any) -> Any:
    return lambda random, y: (shape(y), range(9), False)


def _refused(make: Any) -> Any:
    return lambda random, y: (make(y), None, True)


def _text(kind: Any) -> Any:
    def make(random: Random, y: np.ndarray) -> Any:
        names = random.sample(("cat", "Dog", "e l", "f\u00e9", "7", "g,h", "z\u0308"), 5)
        return kind(np.array(names)[y]), [one_name(name) for name in names], False

    return make


def _spoiled(y: np.ndarray, value: Any, kind: Any) -> np.ndarray:
    labels = y.astype(kind)
    labels[len(y) // 2] = value
    return labels


# form -> random, class numbers -> (labels, name of each class number or None if they must be refused, may be refused)
FORMS: dict[str, Any] = {
    **{kind: _numbers(kind) for kind in ("i1", "u1", "i2", ">i2", "u4", "i8", ">u8", "f2", "f4", "f8", "g")},
    "column": _shaped(lambda y: y[:, None]),
    "row": _shaped(lambda y: y[None, :]),
    "list": _shaped(lambda y: y.tolist()),
    "objects": _shaped(lambda y: y.astype(object)),
    "float objects": _shaped(lambda y: y.astype(float).astype(object)),
    "strided": _shaped(lambda y: np.repeat(y, 2)[::2]),
    "booleans": lambda random, y: (y > 0, ("False", "True", "True", "True", "True"), False),
    "bool column": lambda random, y: ((y > 0)[:, None], ("False", "True", "True", "True", "True"), False),
    "text": _text(np.array),
    "text objects": _text(lambda names: names.astype(object)),
    "text list": _text(lambda names: names.tolist()),
    "text column": _text(lambda names: names[:, None]),
    "apple text": _text(lambda names: np.array([unicodedata.normalize("NFD", name) for name in names.tolist()])),
    "bytes": _text(lambda names: np.char.encode(names, "utf-8")),
    "gaps": lambda random, y: (10 * (y + 1), [10 * (number + 1) for number in range(9)], False),
    "from one": lambda random, y: (y + 1, range(1, 9), False),
    "ids": _refused(lambda y: y + 5_000_000),
    "wide": _refused(lambda y: y + 2**32),
    "unsigned": _refused(lambda y: y.astype(np.uint64) + np.uint64(2**63)),
    "large floats": _refused(lambda y: (y + 1) * 1e10),
    "negative": _refused(lambda y: y - 1),
    "one": _refused(lambda y: np.full(len(y), 3)),
    "one-hot": _refused(lambda y: np.eye(y.max() + 1)[y]),
    "one-hot bool": _refused(lambda y: np.eye(y.max() + 1, dtype=bool)[y]),
    "one-hot across": _refused(lambda y: np.eye(y.max() + 1)[y].T),
    "one-hot deep": _refused(lambda y: np.eye(y.max() + 1)[y][:, None]),
    "probabilities": _refused(lambda y: np.full((len(y), 4), 0.25)),
    "nan": _refused(lambda y: _spoiled(y, np.nan, float)),
    "infinite": _refused(lambda y: _spoiled(y, np.inf, float)),
    "fraction": _refused(lambda y: _spoiled(y, 0.5, float)),
    "none": _refused(lambda y: _spoiled(y, None, object)),
    "mixed": _refused(lambda y: _spoiled(y, "cat", object)),
    "missing": _refused(lambda y: _spoiled(np.array(["cat", "dog", "a", "b", "c"])[y], "", "U4")),
    "masked": _refused(lambda y: np.ma.masked_array(y, np.arange(len(y)) == 3)),
    "dates": _refused(lambda y: y.astype("M8[D]")),
    "spans": _refused(lambda y: y.astype("m8[D]")),
    "complex": _refused(lambda y: y.astype(complex)),
    "short": _refused(lambda y: y[:-1]),
    "measured": _refused(lambda y: np.linspace(0, 1, len(y))),
    "single": _refused(lambda y: 3),
}


def draw_shards(random: Random, root: Path) -> Drawn:
    """Tar shards: keys, labels, orders and links of every form."""
    parts: dict[str, dict[str, int]] = {}
    drawn = Drawn(root, parts, said="shards")
    names = random.choice((("0", "1", "2"), ("blue", "red", "7"), ("A", "f\u00e9", "z z")))
    ending = random.choice(("cls", "json", "cls", "CLS"))
    key = random.choice(("{:04}", "a/b/{:04}", "./{:04}", "shot.{:04}", "v1.{:04}.x", "{:04}.input", "gr\u00fcn {:04}"))
    for part in ["train"] + [part for part in ("validation", "test") if random.random() < 0.4]:
        word = random.choice(("train", "Train-0", "imagenet-train", "trainset")) if part == "train" else part
        members: list[tuple[str, bytes | str]] = []
        truth: Counter[str] = Counter()
        for number in range(random.randint(8, 14)):
            label = names[number % len(names)] if number < len(names) else random.choice(names)
            stem = key.format(number)
            label_stem = stem.removesuffix(".input")
            described = json.dumps({"label": int(label) if label.isdecimal() else label})
            content = described.encode() if ending == "json" else f"{label}{random.choice(('', chr(10)))}".encode()
            image: bytes | str = JPEG
            if random.random() < 0.1:  # a link to the first image
                image = next((name for name, data in members if isinstance(data, bytes) and data is JPEG), JPEG)
            pair = [(f"{stem}.{random.choice(('jpg', 'PNG', 'jpeg'))}", image), (f"{label_stem}.{ending}", content)]
            what = random.choice(("both",) * 12 + ("no label", "no image", "other", "dropping"))
            if what == "no label":
                pair, drawn.left_out = pair[:1], drawn.left_out + 1
            elif what == "no image":
                pair, drawn.left_out = pair[1:], drawn.left_out + 1
            else:
                truth[label] += 1
            if what == "other":
                pair.append((f"{label_stem}.txt", b"words"))
            elif what == "dropping":
                pair.append((f"._{number}.jpg", b"x"))
            members += pair
        order = random.choice(("pairs", "apart", "backwards"))
        if order == "apart":
            members.sort(key=lambda member: member[0].lower().endswith(("cls", "json")))
        elif order == "backwards" and not any(isinstance(content, str) for _, content in members):
            members.reverse()
        inside = random.random() < 0.3
        pack(root / part / f"{part}-0.tar" if inside else root / f"{word}.tar", members)
        parts[part] = dict(truth)
    held = parts["train"].keys()
    drawn.odd = len(held) < 3 or "7" in names or any(set(each) - set(held) for each in parts.values())
    damage = random.choice(("none",) * 8 + ("cut", "joined", "beside"))
    shard = next(root.rglob("*.tar"))
    if damage == "cut":
        shard.write_bytes(shard.read_bytes().rstrip(b"\0")[:-700])
        drawn.truth = None
    elif damage == "joined":
        shard.write_bytes(2 * shard.read_bytes())
        drawn.truth = None
    elif damage == "beside":
        write(root / "cat" / "1.jpg", JPEG)
        write(root / "dog" / "1.jpg", JPEG)
        drawn.truth = None
    return drawn


def pack(path: Path, members: list[tuple[str, bytes | str]]) -> None:
    """Write a tar file; a member whose content is a text is a hard link to the member of that name."""
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.LNKTYPE, content
                archive.addfile(entry)
            else:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))

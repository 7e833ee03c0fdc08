"""The lines of `predict`: one an image, sorted, whatever the names of files and classes are."""

from __future__ import annotations

import dataclasses
import json
import os

import pytest

from adam_mp.cli.main import main
from adam_mp.compute.model import load, write_model
from adam_mp.process.output import one_line
from tests.conftest import make_images
from tests.data.pictures_on_disk import encode

NAMES = [
    b"plain.png", b"two\nlines.png", b"a\ttab.png", b"carriage\rreturn.png", b"'quotes'\".png", b"back\\slash.png",
    b"colon: 99%.png", b"esc\x1b[2J.png", b"bytes\xff\xfe.png", b"-dash.png", b" blank .png",
    "č日本.png".encode(), "line\u2028separator\x85.png".encode(),
]  # fmt: skip


@pytest.fixture
def named(trained, tmp_path):
    """A model whose classes have odd names, and a folder of images with odd names."""
    model = load(trained.run_dir)
    names = ("cat\ndog", "\x1b[31mred", '"日本"')
    write_model(tmp_path / "model.safetensors", dataclasses.replace(model, class_names=names))
    folder = tmp_path / "images"
    folder.mkdir()
    for name in NAMES:
        (folder / os.fsdecode(name)).write_bytes(encode(make_images(1, 1)[0][0], "PNG"))
    return tmp_path / "model.safetensors", folder, names


def test_odd_names_break_neither_lines_nor_json(capsys, named):
    model, folder, classes = named
    files = sorted(f"{folder}/{os.fsdecode(name)}" for name in NAMES)
    assert main(["predict", str(model), str(folder), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["image"] for row in rows] == files
    assert all(os.path.exists(row["image"]) for row in rows)
    assert {found["name"] for row in rows for found in row["top"]} == set(classes)
    assert main(["predict", str(model), str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(".png: ")[0] + ".png" for line in lines] == [one_line(file) for file in files]
    assert all("\x1b" not in line and line.isprintable() and "cat\\ndog" in line for line in lines)


def test_a_file_with_an_odd_name_that_cannot_be_read_is_one_line(capsys, named):
    model, folder, _ = named
    for path in folder.iterdir():
        path.unlink()
    (folder / "no\nimage.png").write_bytes(b"x")
    assert main(["predict", str(model), str(folder)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "no\\nimage.png" in captured.err


def test_folders_that_cannot_be_read_do_not_keep_others_from_it(capsys, named, tmp_path, monkeypatch):
    model, folder, _ = named
    (tmp_path / "empty").mkdir()
    (folder / "closed").mkdir()
    listed = os.scandir

    def scandir(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert main(["predict", str(model), str(tmp_path / "empty"), str(folder), "--json"]) == 2
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert [row["error"].partition(" ")[2] for row in rows if "error" in row] == [
        "is a folder without files; give image files, or a folder that has some",
        "cannot be listed: Permission denied",
    ]
    assert sum("top" in row for row in rows) == len(NAMES)

"""Imports point one way: a package imports from itself and from those before it in the list, without circles."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import adam_mp

ROOT = Path(adam_mp.__file__).parent
ORDER = [
    "errors", "machine", "process", "kernels", "network", "memory", "transport", "compute", "data", "params",
    "training", "report", "interop", "api", "cli",
]  # fmt: skip
ROOMS = [  # of some layers; what lies beside them in their layer may import from all of them
    "data.reading", "data", "data.serving", "params.run", "params.server", "params.replica", "training.settings",
    "training.folder", "training.data", "training.plan", "training.worker", "training.crew", "training.replica",
    "training.epoch", "training",
]  # fmt: skip

MIRRORED = ("kernels", "memory", "training.worker")  # each module has a test file of its name there, or stands below
TESTED_BY = {  # modules that are seen at work in others alone -> the tests of those
    "kernels.edge": "kernels/test_product.py",
    "kernels.sampling": "kernels/test_warp.py",
    "kernels.tile": "kernels/test_product.py",
    "kernels.vector": "kernels/test_widths.py",
    "training.worker.step": "training/worker/test_worker.py",
}


def imports(path):
    """The modules of adam_mp that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("adam_mp"):
            yield node.module
            for alias in node.names:
                if (ROOT / Path(*node.module.split(".")[1:]) / f"{alias.name}.py").exists():
                    yield f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("adam_mp"))


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] not in ("__init__", "__main__"):
            yield ".".join(("adam_mp", *(part for part in parts if part != "__init__"))), path


def test_imports_point_one_way():
    wrong = []
    for name, path in modules():
        layer = ORDER.index(name.split(".")[1])
        for imported in imports(path):
            parts = imported.split(".")
            if len(parts) > 1 and ORDER.index(parts[1]) > layer:
                wrong.append(f"{name} imports {imported}")
    assert not wrong


def room(name):
    """The place in ROOMS of a module of adam_mp, None for one of a layer without rooms."""
    inside, _, _ = name.removeprefix("adam_mp.").rpartition(".")
    return ROOMS.index(inside) if inside in ROOMS else None


def test_rooms_import_from_those_before_them():
    wrong = []
    files = dict(modules())
    for name, path in files.items():
        if path.name == "__init__.py" or room(name) is None:
            continue
        for imported in imports(path):
            if imported in files and files[imported].name != "__init__.py" and (room(imported) or 0) > room(name):
                wrong.append(f"{name} imports {imported}")
    assert not wrong


def test_every_folder_of_a_layer_with_rooms_is_one():
    layers = {entry.split(".")[0] for entry in ROOMS}
    folders = {".".join(path.relative_to(ROOT).parts[:-1]) for layer in layers for path in (ROOT / layer).rglob("*.py")}
    assert folders - set(ROOMS) <= {"params"}  # in which itself nothing lies


def test_the_map_lists_the_layers_in_this_order():
    text = (ROOT.parent / "docs" / "architecture.md").read_text()
    listed = re.findall(r"^  ([a-z_]+)(?:/|\.py) ", text, re.MULTILINE)
    assert listed == [layer for layer in ORDER if layer != "interop"]  # which has a place, and nothing in it yet
    rooms = re.findall(r"^    ([a-z_]+)/ ", text, re.MULTILINE)
    assert rooms == [entry.rpartition(".")[2] for entry in ROOMS if "." in entry]


def architecture():
    return (ROOT.parent / "docs" / "architecture.md").read_text()


def test_the_map_names_every_module_where_it_is():
    tree, inside, named = architecture().split("## Layers")[1].split("```")[1], "", {}
    for line in tree.splitlines():
        layer, inner = re.match(r"  ([a-z_]+)(?:/|\.py) ", line), re.match(r"    ([a-z_]+)/ ", line)
        if layer:
            top = inside = layer[1]
        elif inner:
            inside = f"{top}.{inner[1]}"
        named.setdefault(inside, set()).update(re.findall(r"\w+", line))
    missing = []
    for name, path in modules():
        inside, _, own = name.removeprefix("adam_mp.").rpartition(".")
        if path.name != "__init__.py" and own not in named.get(inside or own, ()):
            missing.append(name)
    assert not missing


def test_the_map_names_only_what_exists():
    quoted = re.findall(r"`([^`\n]+)`", architecture())
    files = {each for each in quoted if re.fullmatch(r"[\w/]+\.py|[a-z_]+(/[a-z_]+)*/", each)}
    places = (ROOT, ROOT / "training" / "epoch", ROOT.parent)
    wrong = [each for each in files if not any((place / each).exists() for place in places) and each != "interop/"]
    sources = [path.read_text() for _, path in modules()]
    for each in quoted:
        if named := re.fullmatch(r"([A-Z]\w+)\.(\w+)", each):
            owners = [text for text in sources if f"class {named[1]}" in text]
            if not any(re.search(rf"\b{named[2]}(\(|: |,| =)", text) for text in owners):
                wrong.append(each)
    assert len(files) > 50
    assert not wrong


def test_no_module_imports_itself_by_a_detour():
    graph = {name: {i for i in imports(path) if i != name} for name, path in modules()}
    packages = {name for name in graph if (ROOT / Path(*name.split(".")[1:]) / "__init__.py").exists()}
    done, path = set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path, name])
        if name in done or name not in graph:
            return
        path.append(name)
        for imported in graph[name] - (packages if name in packages else set()):
            visit(imported)
        path.pop()
        done.add(name)

    for name in graph:
        visit(name)


def test_every_module_says_what_it_is_for():
    for name, path in modules():
        assert ast.get_docstring(ast.parse(path.read_text())), name


def test_the_docstrings_of_trainings_rooms_name_their_modules():
    missing = []
    for init in (ROOT / "training").rglob("__init__.py"):
        text = ast.get_docstring(ast.parse(init.read_text())) or ""
        names = {path.stem for path in init.parent.glob("*.py")} - {"__init__"}
        missing += [f"{init.parent.name}/{name}" for name in names if not re.search(rf"\b{name}\b", text)]
    assert not missing


def test_the_tests_mirror_the_rooms():
    tests, missing = Path(__file__).parent, []
    for name, path in modules():
        inside, _, own = name.removeprefix("adam_mp.").rpartition(".")
        if inside in MIRRORED and path.name != "__init__.py":
            expected = TESTED_BY.get(f"{inside}.{own}", "/".join((*inside.split("."), f"test_{own}.py")))
            if not (tests / expected).exists():
                missing.append(f"{name} has no {expected}")
    assert not missing
    assert all((ROOT / Path(*name.split("."))).with_suffix(".py").exists() for name in TESTED_BY)

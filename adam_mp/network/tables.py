"""Layers as tables, for TOML and JSON: `{"type": "conv", "channels": 20, "size": 5}`.

Any table may have `name` and `inputs`, as a `Node` has. The branches of a layer are lists of tables in its own table.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from adam_mp.errors import NetworkError, shown
from adam_mp.network.expansion import DEEPEST
from adam_mp.network.joins import Branching, Join, Node, Part
from adam_mp.network.layer import Layer, unknown_setting
from adam_mp.network.layers import KINDS
from adam_mp.proposals import LAYERS, nearest


def layer_from_dict(table: Any, position: int | str, depth: int = 0) -> Part:
    """Make the layer that a table describes; `position` is its number or place, for messages.

    Raises NetworkError.
    """
    where = f"layer {position}"
    if not isinstance(table, dict) or "type" not in table:
        raise NetworkError(f"{where} has no type; expected one of {', '.join(sorted(KINDS))}")
    kind = KINDS.get(str(table["type"]))
    if kind is None:
        raise NetworkError(
            f"{where}: unknown type {shown(table['type'])}; {nearest(str(table['type']), KINDS, of_others=LAYERS)}"
        )
    if depth > DEEPEST:
        raise NetworkError(f"{where}: layers in layers are more than {DEEPEST} deep; expected a simpler network")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    values = {key: value for key, value in table.items() if key not in ("type", "name", "inputs")}
    for key in values:
        if key not in fields:
            raise NetworkError(f"{where}: {unknown_setting(kind, key)}")
    missing = [name for name, field in fields.items() if field.default is dataclasses.MISSING and name not in values]
    if missing:
        raise NetworkError(f"{where} ({kind.kind}) lacks {' and '.join(missing)}")
    try:
        if issubclass(kind, Branching) and kind.writes_rows:
            layer = _branching(kind, values, position, depth)
        else:
            layer = kind(**values)
        if "name" not in table and "inputs" not in table:
            return layer
        return Node(layer, _text(table.get("name")), table.get("inputs"))
    except NetworkError as error:
        raise (error if str(error).startswith("layer ") else NetworkError(f"{where}: {error}")) from None


def table_of(part: Part) -> dict[str, Any]:
    """Return the table from which `layer_from_dict` makes the same part."""
    if isinstance(part, Node):
        names = {} if part.name is None else {"name": part.name}
        return {**table_of(part.layer), **names, **({} if part.inputs is None else {"inputs": list(part.inputs)})}
    if isinstance(part, Join):
        branches = [[table_of(each) for each in branch] for branch in part.branches]
        return {"type": part.kind, **({"branches": branches} if branches else {})}
    if isinstance(part, Branching) and part.writes_rows:
        rows = {name: [table_of(each) for each in row] for name, row in part.settings().items()}
        return {"type": part.kind, **{name: row for name, row in rows.items() if row}}
    return {"type": part.kind, **part.settings()}


def _branching(kind: type[Branching], values: dict[str, Any], position: int | str, depth: int) -> Layer:
    """Make a layer with branches; its tables have them as lists of tables."""

    def row(name: str, what: str, tables: Any) -> list[Part]:
        if not isinstance(tables, list):
            raise NetworkError(f"{kind.kind}: {name} is {shown(tables)}; expected a list of layers")
        return [layer_from_dict(each, f"{position}, {what} layer {n}", depth + 1) for n, each in enumerate(tables, 1)]

    if issubclass(kind, Join):
        branches = values.get("branches", [])
        if not isinstance(branches, list):
            raise NetworkError(f"{kind.kind}: branches is {shown(branches)}; expected a list of lists of layers")
        return kind(*[row(f"branch {n}", f"branch {n}", tables) for n, tables in enumerate(branches, 1)])
    called = {"layers": "inner"}
    return kind(**{name: row(name, called.get(name, name), tables) for name, tables in values.items()})


def _text(name: Any) -> str | None:
    if name is None or isinstance(name, str):
        return name
    raise NetworkError(f"name is {shown(name)}; expected text")

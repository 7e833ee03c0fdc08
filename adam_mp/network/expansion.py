"""From the layers as they are written to the graph: a row of nodes, each with its name and the names of its inputs.

The order of the nodes is that in which they are written; a node reads only the images and nodes before it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from adam_mp.errors import NetworkError, shown
from adam_mp.network.graph import INPUT, readers
from adam_mp.network.joins import Branching, Join, NamedNode, Node, Part, Row
from adam_mp.network.layer import Layer
from adam_mp.network.layers import KINDS
from adam_mp.proposals import nearest

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
DEEPEST = 32  # layers with branches inside each other
_PLAIN = (int, float, bool, str, type(None))


@dataclasses.dataclass
class _Draft:
    """A node before all names are known. An input is a name that the user gave, or the draft that computes it."""

    layer: Layer
    where: str
    name: str | None
    inputs: list[str | _Draft]

    @property
    def called(self) -> str:
        return self.name or self.layer.kind


def expand(layers: Sequence[Part]) -> tuple[NamedNode, ...]:
    """Return the nodes of layers as they are written, all with names and inputs; raises NetworkError."""
    drafts: list[_Draft] = []
    _expand_row(tuple(layers), INPUT, "", drafts, 0)
    _name(drafts)
    places = {draft.name: number for number, draft in enumerate(drafts)}
    for draft in drafts:
        for read in draft.inputs:
            if isinstance(read, str) and read != INPUT and read not in places:
                raise NetworkError(
                    f"{draft.where} ({draft.called}) reads {shown(read)}, but no layer has this name; "
                    f"{nearest(read, [INPUT, *(str(name) for name in places)])}"
                )
    nodes = tuple(
        NamedNode(
            draft.layer,
            str(draft.name),
            tuple(each if isinstance(each, str) else str(each.name) for each in draft.inputs),
        )
        for draft in drafts
    )
    _check_order(nodes)
    _check_used(nodes)
    return nodes


def map_layers(row: Sequence[Part], change: Callable[[Layer], Layer]) -> Row:
    """Return a row of parts with each layer that holds no branches replaced by what `change` returns for it."""

    def mapped(part: Any) -> Any:
        if isinstance(part, Node):
            return dataclasses.replace(part, layer=mapped(part.layer))
        if isinstance(part, Branching) and part.writes_rows and any(inside for _, inside in part.rows()):
            return part.with_rows(tuple(map(mapped, inside)) for _, inside in part.rows())
        return change(part)

    return tuple(map(mapped, row))


def check_parts(row: Sequence[Any], where: str = "", depth: int = 0) -> None:
    """Raise NetworkError unless all parts are layers of kinds that every process knows, with plain numbers."""
    if depth > DEEPEST:
        raise NetworkError(f"{where} holds layers in layers more than {DEEPEST} deep; expected a simpler network")
    for number, part in enumerate(row, 1):
        place = f"{where}{number}" if where else f"layer {number}"
        layer = part.layer if isinstance(part, Node) else part
        if isinstance(part, Node):
            _check_names(part, place)
        _check_known(layer, place)
        if isinstance(layer, Branching):
            for what, inside in layer.rows():
                check_parts(inside, f"{place}, {what} ", depth + 1)


def _expand_row(row: Row, entry: str | _Draft, where: str, drafts: list[_Draft], depth: int) -> str | _Draft:
    """Append the drafts of a row that begins at the value `entry`; return the value at its end."""
    value = entry
    for number, part in enumerate(row, 1):
        place = f"{where}{number}" if where else f"layer {number}"
        node = part if isinstance(part, Node) else Node(part)
        value = _expand_node(node, value, place, drafts, depth)
    return value


def _expand_node(node: Node, before: str | _Draft, where: str, drafts: list[_Draft], depth: int) -> _Draft:
    layer, inputs = node.layer, list[Any](node.inputs if node.inputs is not None else [before])
    if isinstance(layer, Branching) and (rows := layer.rows()):
        _check_count(node, where, 1)
        inputs = [_expand_row(row, inputs[0], f"{where}, {what} ", drafts, depth + 1) for what, row in rows]
        layer = layer.join()
    elif isinstance(layer, Join):
        if node.inputs is None or len(node.inputs) < 2:
            raise NetworkError(
                f"{where} ({layer.kind}) has neither branches nor two inputs; write {type(layer).__name__}([...], "
                f"[...]), or give the names of its inputs: Node({type(layer).__name__}(), inputs=[...])"
            )
    else:
        _check_count(node, where, 1)
    draft = _Draft(layer, where, node.name, inputs)
    drafts.append(draft)
    return draft


def _check_count(node: Node, where: str, expected: int) -> None:
    if node.inputs is not None and len(node.inputs) != expected:
        raise NetworkError(f"{where} ({node.layer.kind}) has {len(node.inputs)} inputs; expected {expected}")


def _name(drafts: Sequence[_Draft]) -> None:
    """Give each draft without a name its kind and number within the kind; raise NetworkError for a doubled name."""
    seen: dict[str, int] = {}
    taken: dict[str, str] = {INPUT: "the images"}
    for draft in drafts:
        kind = draft.layer.kind
        seen[kind] = seen.get(kind, 0) + 1
        own = draft.name is None
        name = draft.name = f"{kind}{seen[kind]}" if draft.name is None else draft.name
        if name in taken:
            other = f"{draft.where} (by its number)" if own else draft.where
            raise NetworkError(f"{taken[name]} and {other} are both named {shown(name)}; give one of them another name")
        taken[name] = draft.where


def _check_order(nodes: Sequence[NamedNode]) -> None:
    """Raise NetworkError if a node reads itself or a later one, and say whether that makes a cycle."""
    places = {node.name: number for number, node in enumerate(nodes)}
    inputs = {node.name: node.inputs for node in nodes}
    for number, node in enumerate(nodes):
        for read in node.inputs:
            if read == INPUT or places[read] < number:
                continue
            if cycle := _path(inputs, read, node.name):
                chain = " reads ".join([node.name, *cycle])
                raise NetworkError(f"{chain}: a cycle; expected layers that read only what comes before them")
            raise NetworkError(f"{node.name} reads {read}, which stands behind it; put {read} before {node.name}")


def _path(inputs: Mapping[str, Sequence[str]], begin: str, end: str) -> list[str]:
    """Return the names from `begin` to `end`, each of which reads the next; none if there is no such way."""
    came: dict[str, str] = {begin: ""}
    waiting = [begin]
    while waiting:
        name = waiting.pop()
        if name == end:
            back = [name]
            while came[back[-1]]:
                back.append(came[back[-1]])
            return back[::-1]
        for read in inputs.get(name, ()):
            if read not in came:
                came[read] = name
                waiting.append(read)
    return []


def _check_used(nodes: Sequence[NamedNode]) -> None:
    found = readers(nodes)
    for node in nodes[:-1]:
        if not found[node.name]:
            raise NetworkError(
                f"no layer reads {node.name} ({node.layer.kind}); remove it, or name it as an input of another layer"
            )


def _check_names(node: Node, where: str) -> None:
    names: tuple[Any, ...] = (*(() if node.name is None else (node.name,)), *(node.inputs or ()))
    for name in names:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise NetworkError(
                f"{where} ({node.layer.kind}): {shown(name)} is no name; expected a letter, then letters, digits, "
                "_ and -, at most 64"
            )
    if node.name == INPUT:
        raise NetworkError(f"{where} ({node.layer.kind}) is named {INPUT!r}, as the images are; give it another name")


def _check_known(layer: Any, where: str) -> None:
    """Raise NetworkError unless `layer` is of a kind that every process knows, with plain numbers."""
    known = ", ".join(sorted(kind.__name__ for kind in KINDS.values()))
    if isinstance(layer, type) and issubclass(layer, Layer):
        raise NetworkError(f"{where} is the class {layer.__name__}; expected a layer: write {layer.__name__}(...)")
    if not isinstance(layer, Layer):
        raise NetworkError(f"{where} is {shown(layer)}; expected a layer such as adam_mp.Conv(20, 5)")
    if type(layer) not in KINDS.values():
        raise NetworkError(
            f"{where} is of the class {type(layer).__name__}, which is none of adam_mp's, and which the "
            f"processes of a run do not know; expected one of {known}"
        )
    for name, value in () if isinstance(layer, Branching) and layer.writes_rows else vars(layer).items():
        if type(value) not in _PLAIN:
            raise NetworkError(
                f"{where} ({layer.kind}): {name} is of type {type(value).__name__}; expected a plain number"
            )

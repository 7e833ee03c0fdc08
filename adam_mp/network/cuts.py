"""Which way each layer is cut: as the user says, and the others as it costs least (`traffic.seconds_of`)."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from adam_mp.errors import NetworkError, SettingsError, shown
from adam_mp.network.network import Network
from adam_mp.network.partition import CHANNELS, NONE, ROWS, UNITS, PartitionPlan, partition, ways_of
from adam_mp.network.traffic import BATCH, seconds_of
from adam_mp.proposals import nearest

AUTO = "auto"
_WAYS = (ROWS, CHANNELS, UNITS, NONE)
_ROUNDS = 3
MOST_PARTS = 64


def plan_partitions(network: Network, parts: int, text: str = AUTO, batch: int = BATCH) -> PartitionPlan:
    """Cut a network over `parts` partitions as `--cut TEXT` says, for batches of `batch` images.

    Raises SettingsError, or NetworkError for a layer that cannot be cut in the way that is given.
    """
    if not 2 <= parts <= MOST_PARTS:
        raise SettingsError(f"--partitions is {parts}; expected 2 to {MOST_PARTS}")
    forced = forced_ways(text, network, parts)
    possible = possible_ways(network, parts)
    first = {name: forced.get(name, ways[0]) for name, ways in possible.items()}
    partition(network, parts, first)  # only for its NetworkError, before ways are compared
    if all(way == NONE for way in first.values()):
        sizes = ", ".join(f"{name} {network.shape_of[name]}" for name in possible)
        raise NetworkError(
            f"no layer is cut over {parts} partitions, so each would compute everything; outputs: {sizes}; give fewer "
            "--partitions or another --cut"
        )
    return partition(network, parts, choose_ways(network, parts, forced, batch))


def forced_ways(text: str, network: Network, parts: int) -> dict[str, str]:
    """Return name of a layer -> the way that `--cut TEXT` gives it; layers that it leaves to this module are not in it.

    `text` is "auto", a way for all layers that can be cut so, or pairs such as `conv*=rows,dense1=units`, of which the
    last that fits a layer counts. Raises SettingsError.
    """
    possible = possible_ways(network, parts)
    if text == AUTO:
        return {}
    if "=" not in text:
        if text not in _WAYS:
            raise SettingsError(
                f"--cut is {shown(text)}, neither a way nor pairs such as conv*=rows,dense1=units; "
                f"{nearest(text, (AUTO, *_WAYS))}"
            )
        return {name: text for name, ways in possible.items() if text in ways}
    forced: dict[str, str] = {}
    for pair in text.split(","):
        pattern, _, way = (each.strip() for each in pair.partition("="))
        fitting = [name for name in possible if fnmatchcase(name, pattern)]
        if not fitting:
            raise SettingsError(
                f"--cut: {shown(pattern)} fits no layer that can be cut; {nearest(pattern, list(possible))}"
            )
        if way not in (AUTO, *_WAYS):
            raise SettingsError(f"--cut: {shown(pair)} names no way; {nearest(way, (AUTO, *_WAYS))}")
        forced.update(dict.fromkeys(fitting, way))
    return {name: way for name, way in forced.items() if way != AUTO}


def possible_ways(network: Network, parts: int) -> dict[str, tuple[str, ...]]:
    """Return name -> ways of each layer that can be cut, in the order of the layers."""
    found = {}
    for node, shape in zip(network.nodes, network.shapes[1:], strict=True):
        if possible := ways_of(node.layer, shape, parts):
            found[node.name] = possible
    return found


def choose_ways(network: Network, parts: int, forced: Mapping[str, str], batch: int = BATCH) -> dict[str, str]:
    """Return the cheapest way found for each layer that can be cut; `forced` has those that are given, by name.

    Layers of one kind and size of output are cut in one way, unless a way is given. Each such set begins with its first
    way. Then one set after the other is changed for the better, alone or with all that stand behind it, as neighbours
    often pay off only together.
    """
    sets: dict[object, dict[str, tuple[str, ...]]] = {}
    layers = {node.name: node.layer for node in network.nodes}
    for name, possible in possible_ways(network, parts).items():
        shape, size = network.shape_of[name], getattr(layers[name], "size", 0)
        key = name if len(shape) == 1 or name in forced else (shape[0], size, possible)
        sets.setdefault(key, {})[name] = (forced[name],) if name in forced else possible
    ways = {name: possible[0] for each in sets.values() for name, possible in each.items()}
    best = seconds_of(partition(network, parts, ways), batch)
    for _ in range(_ROUNDS):
        before = best
        for number, names in enumerate(list(sets.values())):
            behind = {name: possible for each in list(sets.values())[number:] for name, possible in each.items()}
            for way in dict.fromkeys(way for possible in names.values() for way in possible):
                for changed in (names, behind):
                    tried = {**ways, **{name: way for name, possible in changed.items() if way in possible}}
                    if tried != ways and (seconds := seconds_of(partition(network, parts, tried), batch)) < best:
                        ways, best = tried, seconds
        if best == before:
            break
    return {name: ways[name] for name in possible_ways(network, parts)}

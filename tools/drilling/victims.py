"""Which parts of a run are struck: some have a name, others are found at that moment by what they are then."""

from __future__ import annotations

import collections
from collections.abc import Callable

from tools.drilling.machines import DrillError
from tools.drilling.run import Run
from tools.drilling.shape import Shape


def find_victims(run: Run, victim: str) -> tuple[str, ...]:
    """Return the parts that `victim` names: a part, or what a part is, as in `KINDS`."""
    if victim in run.shape.parts:
        return (victim,)
    return KINDS[victim](run)


def check_victim(shape: Shape, victim: str) -> None:
    """Raise DrillError if a run of that shape has no such victim."""
    if victim in shape.parts or (victim in KINDS and (shape.of("etcd") or victim not in _OF_ETCD)):
        return
    known = [each for each in KINDS if shape.of("etcd") or each not in _OF_ETCD]
    raise DrillError(f"--victims names {victim}; expected some of {', '.join((*known, *shape.parts))}")


def _coordinator(run: Run) -> tuple[str, ...]:
    return (run.coordinator(),)


def _primary(run: Run) -> tuple[str, ...]:
    """Return the server, other than the coordinator, that is primary of most bucket groups."""
    coordinator, bucket_map = run.coordinator(), run.status()["map"]
    groups = collections.Counter(run.part_at(bucket_map["servers"][group[1]][1]) for group in bucket_map["groups"])
    del groups[coordinator]
    if not groups:
        raise DrillError(f"{coordinator}, the coordinator, is primary of all bucket groups")
    return (groups.most_common(1)[0][0],)


def _leader(run: Run) -> tuple[str, ...]:
    assert run.etcd is not None
    return (run.etcd.leader(),)


def _majority(run: Run) -> tuple[str, ...]:
    """Return the leader of etcd and as many more members that those that are left can decide nothing."""
    (leader,) = _leader(run)
    members = run.shape.of("etcd")
    others = [name for name in members if name != leader]
    return (leader, *others[: len(members) // 2])


KINDS: dict[str, Callable[[Run], tuple[str, ...]]] = {
    "server": _primary,
    "coordinator": _coordinator,
    "replica": lambda run: run.shape.of("replica")[-1:],
    "data": lambda run: run.shape.of("data")[:1],
    "etcd": _leader,
    "etcd majority": _majority,
}
_OF_ETCD = ("etcd", "etcd majority")

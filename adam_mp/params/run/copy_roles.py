"""What the controller does to a bucket map with copies: swap roles, take them from a server, make new copies.

Each function returns the map as it is then, under the next map epoch, which the changed groups get too. The other
groups keep theirs, so nobody has to learn anything about them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence

from adam_mp.params.run.bucket_map import BucketMap
from adam_mp.params.run.copy_groups import (
    CopyGroup,
    Swap,
    choose_copies,
    first_groups,
    grant,
    handed_over,
    promoted,
    renewed,
    with_joining,
)
from adam_mp.params.run.copy_groups import without as without_copy


def with_copies(bucket_map: BucketMap, copies: int) -> BucketMap:
    """Return a new run's map with so many copies of each bucket; with one, the map itself."""
    if copies == 1:
        return bucket_map
    groups = first_groups(_hosts(bucket_map), copies)
    return dataclasses.replace(
        bucket_map, copied=tuple(dataclasses.replace(group, epoch=bucket_map.epoch) for group in groups)
    )


def swapped(bucket_map: BucketMap, swap: Swap) -> BucketMap | None:
    """Return the map after a swap, None if the controller refuses it."""
    if not 0 <= swap.group < len(bucket_map.copied):
        return None
    if any(not 0 <= place < len(bucket_map.servers) for place in swap.wanted.holders):
        return None
    granted = grant(bucket_map.copied[swap.group], swap, bucket_map.epoch + 1)
    return None if granted is None else _with_group(bucket_map, swap.group, granted)


def newest(bucket_map: BucketMap, told: BucketMap | None) -> BucketMap:
    """Return the newer of two maps of the same run; the first if they are equally old."""
    return told if told is not None and told.epoch > bucket_map.epoch and told.copied else bucket_map


def without_memory(bucket_map: BucketMap, place: int, kept: Collection[int] = ()) -> BucketMap:
    """Return the map after the server at `place` was started again: of the groups that it had, it has `kept` alone.

    The first in-sync copy takes over each group of which the server was primary. If a group has no in-sync copy, the
    server stays its primary, under a new map epoch: then the group's weights are lost, and replicas offer theirs.
    """
    epoch = bucket_map.epoch + 1

    def bereft(number: int, group: CopyGroup) -> CopyGroup:
        if place not in group.holders or number in kept:
            return group
        if place != group.primary:
            return without_copy(group, place)
        if group.in_sync:
            return promoted(group, group.in_sync[0])
        return CopyGroup(epoch, place, (), group.joining, since=epoch)

    return _changed(bucket_map, bereft)


def without_joining(bucket_map: BucketMap, places: Collection[int]) -> BucketMap:
    """Return the map without the copies that are being made on some servers."""

    def without_these(_: int, group: CopyGroup) -> CopyGroup:
        return dataclasses.replace(group, joining=tuple(each for each in group.joining if each not in places))

    return _changed(bucket_map, without_these) if places else bucket_map


def with_new_copies(bucket_map: BucketMap, copies: int, living: Collection[int]) -> BucketMap:
    """Return the map with a new joining copy for each group that lacks one and for which a living server is free.

    Servers that hold few groups come first.
    """
    hosts = _hosts(bucket_map)
    load = [0] * len(hosts)
    for group in bucket_map.copied:
        for place in group.holders:
            load[place] += 1

    def completed(_: int, group: CopyGroup) -> CopyGroup:
        lacking = min(copies, len(hosts)) - len(group.holders)
        if lacking <= 0 or group.joining:  # one at a time: a copy that is being made takes bandwidth
            return group
        order = sorted(living, key=lambda place: (load[place], place))
        for place in choose_copies(hosts, group.holders, order, 1):
            load[place] += 1
            group = with_joining(group, place)
        return group

    return _changed(bucket_map, completed)


def with_balance(bucket_map: BucketMap, copies: int, living: Collection[int]) -> BucketMap:
    """Return the map one step nearer to equal work; the map itself if a copy is missing or made, or work is equal.

    A step drops a copy that is too many, hands a group over from the primary of most groups to one of its copies, or
    has a new copy made on the server that has fewest groups.
    """
    groups, wanted = bucket_map.copied, min(copies, len(bucket_map.servers))
    if any(group.joining or len(group.holders) < wanted for group in groups):
        return bucket_map
    held = [sum(place in group.holders for group in groups) for place in range(len(bucket_map.servers))]
    for number, group in enumerate(groups):
        if len(group.holders) > wanted:
            return _with_group(bucket_map, number, without_copy(group, _least_needed(bucket_map, group, held)))
    return _with_primary_moved(bucket_map, living) or _with_copy_moved(bucket_map, held, living) or bucket_map


def _least_needed(bucket_map: BucketMap, group: CopyGroup, held: Sequence[int]) -> int:
    """Return the in-sync copy to drop: one of several on a host if there are such, on the server with most groups."""
    hosts = _hosts(bucket_map)
    here = [hosts[place] for place in group.holders]
    return max(group.in_sync, key=lambda place: (here.count(hosts[place]), held[place]))


def _with_primary_moved(bucket_map: BucketMap, living: Collection[int]) -> BucketMap | None:
    """Hand over a group to a living copy that is primary of at least two groups less than its primary.

    The old primary is an in-sync copy then: it has all that is stable, and senders push the rest again.
    """
    groups = bucket_map.copied
    led = [sum(group.primary == place for group in groups) for place in range(len(bucket_map.servers))]
    moves = [
        (led[group.primary] - led[copy], number, copy)
        for number, group in enumerate(groups)
        for copy in group.in_sync
        if copy in living
    ]
    gain, number, copy = max(moves, default=(0, 0, 0))
    return _with_group(bucket_map, number, handed_over(groups[number], copy)) if gain >= 2 else None


def _with_copy_moved(bucket_map: BucketMap, held: Sequence[int], living: Collection[int]) -> BucketMap | None:
    """Have a copy made on a server that has at least two groups less than one of the group's copies, on a new host."""
    hosts = _hosts(bucket_map)
    moves = [
        (held[copy] - held[idle], number, idle)
        for number, group in enumerate(bucket_map.copied)
        for copy in group.in_sync
        for idle in living
        if idle not in group.holders
        and (hosts[idle] == hosts[copy] or hosts[idle] not in {hosts[each] for each in group.holders})
    ]
    gain, number, idle = max(moves, default=(0, 0, 0))
    return _with_group(bucket_map, number, with_joining(bucket_map.copied[number], idle)) if gain >= 2 else None


def _with_group(bucket_map: BucketMap, number: int, group: CopyGroup) -> BucketMap:
    return _changed(bucket_map, lambda each, before: group if each == number else before)


def _changed(bucket_map: BucketMap, change: Callable[[int, CopyGroup], CopyGroup]) -> BucketMap:
    """Return the map with each group as `change` makes it of its number and itself; the map itself if none changes."""
    epoch = bucket_map.epoch + 1
    groups = [change(number, group) for number, group in enumerate(bucket_map.copied)]
    if tuple(groups) == bucket_map.copied:
        return bucket_map
    copied = tuple(
        group if group == before or group.epoch == epoch else renewed(before, group, epoch)
        for group, before in zip(groups, bucket_map.copied, strict=True)
    )
    return dataclasses.replace(bucket_map, epoch=epoch, copied=copied)


def _hosts(bucket_map: BucketMap) -> Sequence[str]:
    """Return the host of each server, as its address names it; that of a socket file is this machine."""
    return [server.address.rpartition(":")[0] for server in bucket_map.servers]

"""Copies of buckets: which parameter server has each bucket as primary, which have copies (paper, section 3.3).

Buckets are copied in groups. A group has a *primary*, which takes updates; *in-sync* copies, which have every update
that is stable; and copies that are *joining*: they are being made and may not become primary yet. Every server is the
first primary of several groups, whose copies lie on different other servers. So if a server dies, its work spreads over
all others.

A server that wants other roles in a group asks the controller for a `Swap`. The controller grants it if the group's map
epoch is still the one that the asking server knew (compare-and-swap), and if it keeps two rules: only the primary or an
in-sync copy becomes primary, and only the primary says that a copy is in sync.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

_MOST_SPREAD = 4  # groups that a server is the first primary of, at most


@dataclasses.dataclass(frozen=True)
class CopyGroup:
    """Who has one group of buckets. Servers are named by their places in the bucket map; `epoch` is the map epoch.

    `since` is the map epoch since which the primary has been primary, with what it has in memory.
    """

    epoch: int
    primary: int
    in_sync: tuple[int, ...] = ()
    joining: tuple[int, ...] = ()
    since: int = 0

    @property
    def holders(self) -> tuple[int, ...]:
        """All servers that have the group, the primary first."""
        return (self.primary, *self.in_sync, *self.joining)


@dataclasses.dataclass(frozen=True)
class Swap:
    """A wish to change who has a group: server `by` wants `wanted`; `wanted.epoch` is the map epoch that it knows."""

    group: int
    by: int
    wanted: CopyGroup


def first_groups(hosts: Sequence[str], copies: int) -> tuple[CopyGroup, ...]:
    """Return the groups of a new run: `hosts` names the host of each server, `copies` counts the primary too.

    With fewer servers than `copies`, each group is on all of them. Copies of a group are on different hosts as far as
    there are enough.
    """
    servers = len(hosts)
    others = min(copies, servers) - 1
    groups = count_groups(servers, copies)
    if others == 0:
        return tuple(CopyGroup(1, primary) for primary in range(groups))
    return tuple(
        CopyGroup(1, group % servers, _first_copies(hosts, group % servers, group // servers, others))
        for group in range(groups)
    )


def count_groups(servers: int, copies: int) -> int:
    """Return how many groups of buckets a run has."""
    return servers if min(copies, servers) == 1 else servers * min(servers - 1, _MOST_SPREAD)


def _first_copies(hosts: Sequence[str], primary: int, turn: int, count: int) -> tuple[int, ...]:
    """Choose the servers of a group's copies: those after the primary, each group of a primary from another on."""
    servers = len(hosts)
    order = [(primary + 1 + (turn + step) % (servers - 1)) % servers for step in range(servers - 1)]
    return tuple(choose_copies(hosts, (primary,), order, count))


def choose_copies(hosts: Sequence[str], holders: Sequence[int], order: Sequence[int], count: int) -> list[int]:
    """Return up to `count` servers of `order` for new copies beside `holders`, on hosts without a copy if there are."""
    chosen: list[int] = []
    for new_host in (True, False):
        for server in order:
            taken = {hosts[each] for each in (*holders, *chosen)}
            free = server not in chosen and server not in holders
            if len(chosen) < count and free and (hosts[server] not in taken or not new_host):
                chosen.append(server)
    return chosen


def grant(now: CopyGroup, swap: Swap, epoch: int) -> CopyGroup | None:
    """Return the group `now` as it is after a swap, under the map epoch `epoch`; None if the controller refuses it."""
    wanted = swap.wanted
    if wanted.epoch != now.epoch or swap.by != wanted.primary:
        return None
    if len(set(wanted.holders)) != len(wanted.holders):
        return None
    deposes = wanted.primary != now.primary
    if deposes and wanted.primary not in now.in_sync:
        return None
    # A copy that takes over vouches for the copies that were in sync with the old primary, and for no others.
    vouched = {*now.in_sync, *(() if deposes else now.joining)}
    return renewed(now, wanted, epoch) if set(wanted.in_sync) <= vouched else None


def renewed(before: CopyGroup, group: CopyGroup, epoch: int) -> CopyGroup:
    """Return a changed group under a new map epoch; `before` is how it was."""
    since = epoch if group.primary != before.primary else before.since
    return dataclasses.replace(group, epoch=epoch, since=since)


def promoted(group: CopyGroup, server: int) -> CopyGroup:
    """Return the group with an in-sync copy as primary and without the old primary."""
    in_sync = tuple(each for each in group.in_sync if each != server)
    return CopyGroup(group.epoch, server, in_sync, group.joining)


def handed_over(group: CopyGroup, server: int) -> CopyGroup:
    """Return the group with an in-sync copy and its primary in each other's place."""
    in_sync = tuple(group.primary if each == server else each for each in group.in_sync)
    return CopyGroup(group.epoch, server, in_sync, group.joining)


def without(group: CopyGroup, server: int) -> CopyGroup:
    """Return the group without the copy on `server`."""
    in_sync, joining = (tuple(each for each in some if each != server) for some in (group.in_sync, group.joining))
    return CopyGroup(group.epoch, group.primary, in_sync, joining)


def with_joining(group: CopyGroup, server: int) -> CopyGroup:
    """Return the group with a new copy on `server`, which is not in sync yet."""
    return CopyGroup(group.epoch, group.primary, group.in_sync, (*group.joining, server))


def admitted(group: CopyGroup, server: int) -> CopyGroup:
    """Return the group with the joining copy on `server` in sync."""
    joining = tuple(each for each in group.joining if each != server)
    return CopyGroup(group.epoch, group.primary, (*group.in_sync, server), joining)

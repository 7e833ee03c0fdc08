"""What parameter servers with copies tell the coordinator: which change of roles they want, how far copies are behind.

A wish is in each REPORT until the map changes. So it needs no answer of its own: the answer to REPORT has the map.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from adam_mp.params.run.bucket_map import BucketMap
from adam_mp.params.run.copy_groups import CopyGroup, Swap
from adam_mp.params.run.copy_roles import swapped
from adam_mp.params.run.role_lines import name_groups
from adam_mp.params.run.run_facts import LARGEST_COUNT, LATEST_MAP
from adam_mp.transport.forms import Flag, Number, Whole, Wholes, entry

MOST_SERVERS = 1000
MOST_GROUPS = 4 * MOST_SERVERS
_PLACE = Whole(0, MOST_SERVERS)
_PLACES = Wholes("servers", 0, MOST_SERVERS)


@dataclasses.dataclass(frozen=True)
class RoleWish:
    """A server wants group `group`, whose map epoch it knows as `epoch`, to be as it says.

    The reason is the server at place `about`: `silent`, last heard `unheard` seconds ago; or a copy that has caught up.
    """

    group: int = entry(Whole(0, MOST_GROUPS))
    epoch: int = entry(Whole(0, LATEST_MAP))
    primary: int = entry(_PLACE)
    in_sync: Sequence[int] = entry(_PLACES, ())
    joining: Sequence[int] = entry(_PLACES, ())
    about: int = entry(_PLACE, 0)
    silent: bool = entry(Flag(), False)
    unheard: float = entry(Number(-1.0, 1e9), 0.0)

    @property
    def wanted(self) -> CopyGroup:
        """The group as the server wants it."""
        return CopyGroup(self.epoch, self.primary, tuple(self.in_sync), tuple(self.joining))


@dataclasses.dataclass(frozen=True)
class Lag:
    """The copy of `group` on the server at `place` lacks the newest state of `shards` shards."""

    group: int = entry(Whole(0, MOST_GROUPS))
    place: int = entry(_PLACE)
    shards: int = entry(Whole(0, LARGEST_COUNT))


def grant_wishes(
    bucket_map: BucketMap, by: int, wishes: Sequence[RoleWish]
) -> tuple[BucketMap, list[str], frozenset[int]]:
    """Return the map with all wishes of the server at place `by` that may be granted.

    Return also lines for the user, and the identities of the servers that are silent by these wishes. Wishes for the
    same reason make one line.
    """
    told: dict[tuple[str, int], list[RoleWish]] = {}
    for wish in wishes:
        granted = swapped(bucket_map, Swap(wish.group, by, wish.wanted))
        if granted is not None:
            before, bucket_map = bucket_map.copied[wish.group], granted
            told.setdefault((_change(before, wish.wanted), wish.about), []).append(wish)
    servers = bucket_map.servers
    lines = [
        _line(change, servers[by].address, servers[about].address, some)
        for (change, about), some in told.items()
        if about < len(servers)
    ]
    silent = frozenset(servers[about].identity for change, about in told if change != _ADMITS and about < len(servers))
    return bucket_map, lines, silent


_TAKES_OVER, _DROPS, _ADMITS = "takes over", "drops", "admits"


def _change(before: CopyGroup, wanted: CopyGroup) -> str:
    if before.primary != wanted.primary:
        return _TAKES_OVER
    return _DROPS if len(wanted.holders) < len(before.holders) else _ADMITS


def _line(change: str, name: str, about: str, wishes: Sequence[RoleWish]) -> str:
    """Say what changed, for whom and why; `wishes` are those that were granted."""
    groups = name_groups(sorted(wish.group for wish in wishes))
    heard = f"{max(wish.unheard for wish in wishes):.2f} s after {about} was last heard"
    if change == _TAKES_OVER:
        return f"{name} is primary of {groups} now, {heard}"
    if change == _DROPS:
        return f"{name} goes on without the copy of {groups} there, {heard}"
    return f"{about} has a copy of {groups} of {name} now, in sync"

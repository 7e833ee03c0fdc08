"""When a server asks the controller for another distribution of roles in a group: a decision alone, without a clock.

A primary asks to be rid of a copy that is silent, and to count a new copy that has everything. An in-sync copy asks to
become primary when the primary is silent: the first one at once, each later one a little later, so that seldom two ask.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from adam_mp.params.run.copy_groups import CopyGroup, admitted, promoted, without

_TURN = 0.1  # seconds between the wishes of two copies of the same silent primary


@dataclasses.dataclass(frozen=True)
class Wish:
    """What a server wants of a group, and the place of the server that it is about.

    That server is `silent`; or it is a copy that has caught up.
    """

    wanted: CopyGroup
    about: int
    silent: bool = True


def find_wish(
    group: CopyGroup, me: int, silence: Callable[[int], float], patience: float, ready: int | None
) -> Wish | None:  # fmt: skip
    """Return what the server at place `me` wants of a group, None if nothing.

    `silence` returns for how many seconds a server has been silent, `patience` is how many may be. `ready` is a joining
    copy that has everything (`Leader.ready`); None if there is none, or `me` is not primary.
    """
    if group.primary == me:
        for place in (*group.in_sync, *group.joining):
            if silence(place) > patience:
                return Wish(without(group, place), place)
        return Wish(admitted(group, ready), ready, silent=False) if ready is not None else None
    if me in group.in_sync and silence(group.primary) > patience + _TURN * group.in_sync.index(me):
        return Wish(promoted(group, me), group.primary)
    return None

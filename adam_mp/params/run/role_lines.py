"""What the user is told of changes of roles: one line for each server that has other roles now, and why."""

from __future__ import annotations

from collections.abc import Sequence

from adam_mp.errors import several
from adam_mp.params.run.bucket_map import BucketMap


def role_lines(before: BucketMap, after: BucketMap, why: str) -> list[str]:
    """Return a line for each change of a primary, and for each in-sync copy that is gone.

    `why` ends the line, such as "which was started again". What happens to groups of the same servers makes one line. A
    copy that is being made makes none; the line that calls it in sync comes later.
    """
    told: dict[tuple[str, int, int], list[int]] = {}
    for number, (old, new) in enumerate(zip(before.copied, after.copied, strict=True)):
        if new.primary != old.primary:
            told.setdefault(("primary", new.primary, old.primary), []).append(number)
            continue
        if new.since != old.since:
            told.setdefault(("anew", new.primary, new.primary), []).append(number)
        for place in set(old.in_sync) - set(new.holders):
            told.setdefault(("without", new.primary, place), []).append(number)
    names = [server.address for server in after.servers]
    return [_line(change, names[by], names[about], groups, why) for (change, by, about), groups in told.items()]


def name_groups(groups: Sequence[int]) -> str:
    """Return groups in words, such as "2 bucket groups (0, 3)"."""
    return several(len(groups), "bucket group") + " (" + ", ".join(map(str, groups)) + ")"


def _line(change: str, by: str, about: str, groups: Sequence[int], why: str) -> str:
    named = name_groups(groups)
    if change == "primary":
        return f"{by} is primary of {named} now, instead of {about}, {why}"
    if change == "anew":
        return f"{by}, {why}, begins {named} anew: no copy was in sync"
    return f"{by} goes on without the copy of {named} on {about}, {why}"

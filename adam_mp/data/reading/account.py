"""An account of what a loader saw: how it understood the data, what it left out and why, what it could not use.

Every loader fills one. It is shown before a run, and kept in run.json.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from adam_mp.data.reading.faults import REMEDIES, BadSample, Fault

FEW = 12  # names that a line has before it says how many more there are
_COPY = re.compile(
    r"(?:copy of )?(.+?)(?:[ _]*\(\d+\)|[ _]*\(copy\)|[ _]-?[ _]?copy|[._](?:bak|old|backup|orig)|~)*", re.I
)


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """Files or items that were left out for one reason: how many, one of them, and what to do."""

    reason: str
    count: int
    example: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.count:,} ({self.reason}" + (f"; {self.remedy})" if self.remedy else ")")


@dataclasses.dataclass(frozen=True)
class Account:
    """What a loader saw of a data set.

    `layout` says in a few words how the data were understood. `places` has the folder, files or arrays of each part
    ("train", "validation", "test"). `parts_named` tells whether names said which part is which. `notes` are lines that
    the user must see: folders that are not used, parts that cannot be used.
    """

    layout: str = ""
    places: Mapping[str, str] = dataclasses.field(default_factory=dict)
    parts_named: bool = False
    notes: tuple[str, ...] = ()

    def with_notes(self, notes: Iterable[str]) -> Account:
        """Return this account with further notes."""
        return dataclasses.replace(self, notes=(*self.notes, *notes))

    def as_dict(self) -> dict[str, Any]:
        """Return the account as plain values."""
        return {"layout": self.layout, "places": dict(self.places), "notes": list(self.notes)}


def left_out(rejected: Iterable[BadSample]) -> list[LeftOut]:
    """Return what was left out by reason, the most frequent reason first."""
    counts: Counter[tuple[str, Fault]] = Counter()
    examples: dict[tuple[str, Fault], str] = {}
    for bad in rejected:
        key = (bad.reason, bad.fault)
        counts[key] += 1
        examples.setdefault(key, bad.path)
    return [
        LeftOut(reason, count, examples[reason, fault], REMEDIES.get(fault, ""))
        for (reason, fault), count in counts.most_common()
    ]


def why_nothing(rejected: Sequence[BadSample], most: int = 3) -> str:
    """Return in words why nothing is left of what was found: the most frequent reasons with counts and remedies."""
    found = left_out(bad for bad in rejected if bad.fault != Fault.NO_IMAGE)
    words = "; ".join(
        f"{each.count:,} left out ({each.reason}), such as {each.example}" + (f"; {each.remedy}" if each.remedy else "")
        for each in found[:most]
    )
    return words + (f"; and {len(found) - most} more reasons" if len(found) > most else "")


def some(names: Iterable[Any], most: int = FEW) -> str:
    """Return names as a list in words, at most `most` of them and then how many more there are."""
    names = [str(name) for name in names]
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def copies(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return names that programs give to copies of others among `names`, such as `cat (copy)`, each with the other.

    Only the first is returned.
    """
    known = set(names)
    found = ((name, match[1]) for name in names if (match := _COPY.fullmatch(name)) and match[1] != name)
    return [(name, base) for name, base in found if base in known][:1]

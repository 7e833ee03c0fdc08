"""Consistency: how far the workers of a machine may be apart, as `--consistency` says."""

from __future__ import annotations

import dataclasses
import re

from adam_mp.errors import SettingsError, shown

_EXPECTED = "async, ssp:K (K updates, at least 1), sync or deterministic"


@dataclasses.dataclass(frozen=True)
class Consistency:
    """A consistency mode: `kind` is async, ssp, sync or deterministic; `bound` is the K of ssp, else None.

    async: no worker waits for another. ssp: no worker is more than K updates ahead of the slowest (stale synchronous
    parallel, Ho et al. 2013). sync: all workers make each update together, from a batch of each. deterministic: the
    same, and no decision depends on measured time, so that a run can be repeated bit for bit.
    """

    kind: str
    bound: int | None = None

    @property
    def in_steps(self) -> bool:
        """Whether all workers make each update together."""
        return self.kind in ("sync", "deterministic")

    @property
    def timeless(self) -> bool:
        """Whether no decision may be made by a measurement of time."""
        return self.kind == "deterministic"


def parse_consistency(text: object) -> Consistency:
    """Return the mode that a setting such as "ssp:4" names; raises SettingsError."""
    if text in ("async", "sync", "deterministic"):
        return Consistency(str(text))
    match = re.fullmatch(r"ssp:([1-9]\d{0,8})", text) if isinstance(text, str) else None
    if match is None:
        raise SettingsError(f"--consistency is {shown(text)}; expected {_EXPECTED}")
    return Consistency("ssp", int(match[1]))

"""Rates by group: what share of the learning rate the tensors take whose names fit a pattern, as `--rates` says."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from adam_mp.errors import SettingsError, shown

NONE = "none"  # all tensors take the whole rate
_MOST = 1000.0
_EXPECTED = "pairs of a pattern and a share of the learning rate, such as 'conv*=0.1,dense2=2', or none"

Pairs = tuple[tuple[str, float], ...]


def parse_rates(given: Any) -> Pairs:
    """Return the pairs (pattern, share) that a text `pattern=share,...` or a mapping pattern -> share has, in order.

    The text "none" has none. Raises SettingsError.
    """
    if isinstance(given, Mapping):
        return _checked(given.items())
    if not isinstance(given, str):
        raise SettingsError(f"--rates is {shown(given)}; expected {_EXPECTED}")
    if given.strip() == NONE:
        return ()
    return _checked((pattern, share) for pattern, _, share in (part.rpartition("=") for part in given.split(",")))


def rates_text(pairs: Pairs) -> str:
    """Return the text that `parse_rates` turns into these pairs."""
    return ",".join(f"{pattern}={share!r}" for pattern, share in pairs) or NONE


def _checked(pairs: Iterable[tuple[Any, Any]]) -> Pairs:
    found = []
    for given, share in pairs:
        pattern = str(given).strip()
        if not pattern or "," in pattern:
            raise SettingsError(f"--rates has the pattern {shown(pattern)}; expected {_EXPECTED}")
        try:
            number = math.nan if isinstance(share, bool) else float(share)
        except (TypeError, ValueError):
            number = math.nan
        if not 0 <= number <= _MOST:
            raise SettingsError(f"--rates: the share of {shown(pattern)} is {shown(share)}; expected 0 to {_MOST:g}")
        found.append((pattern, number))
    return tuple(found)

"""The setting `cache`: a size, or a share of the memory that is free."""

from __future__ import annotations

import re
from typing import Any

from adam_mp.errors import SettingsError, shown

_SIZE = re.compile(r"(\d+(?:\.\d+)?) *(%|[kKmMgGtT]?[bB]?)")
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_MOST_PERCENT = 95
_LARGEST = 2**63 - 1


def parse_cache(text: Any, free: int) -> int:
    """Return the bytes that "2GB", "500 MB", "60%" (of `free` bytes) or a plain number mean; raises SettingsError."""
    number = isinstance(text, (int, float)) and not isinstance(text, bool) and 0 <= text < _LARGEST
    match = _SIZE.fullmatch(str(text).strip()) if number or isinstance(text, str) else None
    if match is None:
        raise SettingsError(f"--cache is {shown(text)}; expected a size such as 2GB or 500MB, or a share such as 60%")
    amount, unit = float(match[1]), match[2].upper().removesuffix("B")
    if unit == "%":
        if amount > _MOST_PERCENT:
            raise SettingsError(f"--cache is {shown(text)}; expected at most {_MOST_PERCENT}% of what is free")
        return int(free * amount / 100)
    return int(amount * _UNITS[unit])

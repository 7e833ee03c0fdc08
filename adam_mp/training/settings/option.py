"""How a setting is declared: its default, its help, and what values it may have."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adam_mp.errors import SettingsError, flag_of, shown

_LARGEST = 2**63 - 1
_KINDS: dict[str, Any] = {"bool": bool, "int": int, "float": (int, float), "str": str, "Path": Path, "None": type(None)}
_KIND_NAMES = {"bool": "true or false", "int": "a whole number", "float": "a number", "str": "text", "Path": "a path"}


@dataclasses.dataclass(frozen=True)
class Whole:
    """A whole number from `least` up to `most`."""

    least: int
    most: int = _LARGEST

    def check(self, name: str, value: Any) -> None:
        """Raise SettingsError if `value` is another."""
        if isinstance(value, bool) or not isinstance(value, int) or value < self.least:
            raise SettingsError(f"{flag_of(name)} is {shown(value)}; expected a whole number of at least {self.least}")
        if value > self.most:
            raise SettingsError(f"{flag_of(name)} is {shown(value)}; expected at most {self.most}")


@dataclasses.dataclass(frozen=True)
class Number:
    """A number between two, themselves included unless said otherwise."""

    low: float
    high: float
    low_included: bool = True
    high_included: bool = True

    def check(self, name: str, value: Any) -> None:
        """Raise SettingsError if `value` is another, or no number."""
        fits = isinstance(value, (int, float)) and not isinstance(value, bool) and self.low <= value <= self.high
        if not fits or (value == self.low and not self.low_included) or (value == self.high and not self.high_included):
            start, end = "from" if self.low_included else "more than", "up to" if self.high_included else "less than"
            raise SettingsError(
                f"{flag_of(name)} is {shown(value)}; expected a number {start} {self.low:g} and {end} {self.high:g}"
            )


Values = Whole | Number


def option(default: Any, group: str, unit: str, text: str | Callable[[], str], values: Values | None = None) -> Any:
    """Declare a setting with its help: a text, or a function where the text names kernels, which take time to load.

    `values` are those that it may have beside None, if its type allows None.
    """
    return dataclasses.field(default=default, metadata={"group": group, "unit": unit, "help": text, "values": values})


def help_of(field: dataclasses.Field[Any]) -> str:
    """Return the help of a setting; loads kernels if the text names them."""
    text: str | Callable[[], str] = field.metadata["help"]
    return text if isinstance(text, str) else text()


def check_kind(field: dataclasses.Field[Any], value: Any) -> None:
    """Raise SettingsError if a value has another type than its setting."""
    kinds = str(field.type).split(" | ")
    if "Any" in kinds or any(isinstance(value, _KINDS[kind]) for kind in kinds):
        return
    expected = " or ".join(_KIND_NAMES[kind] for kind in kinds if kind in _KIND_NAMES)
    raise SettingsError(f"{flag_of(field.name)} is {shown(value)}; expected {expected}")


def check_value(field: dataclasses.Field[Any], value: Any) -> None:
    """Raise SettingsError if a setting may not have a value of its type."""
    values: Values | None = field.metadata["values"]
    if values is not None and value is not None:
        values.check(field.name, value)

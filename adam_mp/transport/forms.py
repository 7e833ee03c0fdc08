"""The fields of control messages: a message is a frozen dataclass, and each field's form says what it holds.

    @dataclasses.dataclass(frozen=True)
    class Asking:
        wanted: int = entry(Whole(0, 4096), 0)

    read(Asking, {"wanted": 7}, FrameError)     # Asking(wanted=7); FrameError, in one line, for what it may not hold
    write(Asking(7))                            # {"wanted": 7}

A peer may send anything, so `read` checks all fields before the caller uses any of them. A missing field gets its
default. Fields that the dataclass does not have are ignored, so that a newer version may send more.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol, TypeVar

from adam_mp.errors import AdamError
from adam_mp.transport.messages import shown

_LONGEST = 60  # characters of a peer's value in an error message
_LONGEST_ADDRESS = 4200  # characters; a path may have 4095 bytes
_FORM = "form"
_LARGEST_FLOAT32 = 3.4028234e38
_Message = TypeVar("_Message")
Seen = Mapping[str, Any]  # by name: the message's fields that were read before, and what `read` got as `seen`


class MalformedError(AdamError):
    """A value is not what its form expects; the text continues a line that begins with the name of the field."""


class Form(Protocol):
    """What a field holds, and how JSON represents it."""

    def read(self, value: Any, seen: Seen) -> Any:
        """Return the field for a JSON value; raises MalformedError, which says what came and what is expected."""

    def write(self, value: Any) -> Any:
        """Return the JSON value for a field."""


def entry(form: Form, default: Any = dataclasses.MISSING) -> Any:
    """Return a dataclass field with a form. A message must have the field if it has no default."""
    if isinstance(default, (list, dict, set)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata={_FORM: form})
    return dataclasses.field(default=default, metadata={_FORM: form})


def read(
    kind: type[_Message], content: Any, refusal: type[AdamError], only: Collection[str] | None = None,
    seen: Seen | None = None,
) -> _Message:  # fmt: skip
    """Return the message of type `kind` in the JSON object `content`; raises `refusal` if it holds none.

    `only` names the fields to read, by default all. `seen` has values, by name, on which the forms' limits depend in
    addition to the fields read before.
    """
    if not isinstance(content, Mapping):
        raise refusal(f"{kind.__name__} is {brief(content)}; expected a JSON object")
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if only is not None and field.name not in only:
            continue
        if field.name not in content and _has_default(field):
            made = field.default_factory
            values[field.name] = field.default if made is dataclasses.MISSING else made()
            continue
        try:
            values[field.name] = field.metadata[_FORM].read(content.get(field.name), {**(seen or {}), **values})
        except MalformedError as error:
            raise refusal(f"{field.name} {error}") from None
    try:
        return kind(**values)
    except MalformedError as error:  # from __post_init__: the fields contradict each other
        raise refusal(str(error)) from None


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def write(message: Any) -> dict[str, Any]:
    """Return a message as a JSON object; fields that are None are left out."""
    return {
        field.name: field.metadata[_FORM].write(value)
        for field in dataclasses.fields(message)
        if (value := getattr(message, field.name)) is not None
    }


def brief(value: Any) -> str:
    """Return a JSON value as an error message shows it: a plain value, cut to 60 characters, or else its type."""
    if isinstance(value, str | bool | int | float | None):
        return repr(value)[:_LONGEST]
    return type(value).__name__


def short(value: Any) -> str:
    """Return any value as an error message shows it, in at most 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def is_number(value: Any) -> bool:
    """Tell whether a JSON value is a finite number; Python reads true, 1e999 and NaN from JSON too."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _limit(limit: int | Callable[[Seen], int], seen: Seen) -> int:
    return limit(seen) if callable(limit) else limit


@dataclasses.dataclass(frozen=True)
class Whole:
    """A whole number from `least` to `most`; `most` may be a function of what was seen before."""

    least: int
    most: int | Callable[[Seen], int]

    def read(self, value: Any, seen: Seen) -> int:
        """See `Form.read`."""
        most = _limit(self.most, seen)
        if isinstance(value, bool) or not isinstance(value, int) or not self.least <= value <= most:
            raise MalformedError(f"is malformed: {brief(value)}; expected a whole number from {self.least} to {most}")
        return value

    def write(self, value: Any) -> int:
        """See `Form.write`."""
        return int(value)


@dataclasses.dataclass(frozen=True)
class Number:
    """A number above `above`, at most `most`."""

    above: float
    most: float

    def read(self, value: Any, seen: Seen) -> float:
        """See `Form.read`."""
        if not is_number(value) or not self.above < value <= self.most:
            raise MalformedError(f"is {brief(value)}; expected a number above {self.above:g}, at most {self.most:g}")
        return float(value)

    def write(self, value: Any) -> float:
        """See `Form.write`."""
        return float(value)


@dataclasses.dataclass(frozen=True)
class Numbers:
    """A list of `count` finite numbers within the range of float32, read as a tuple."""

    count: int | Callable[[Seen], int]

    def read(self, value: Any, seen: Seen) -> tuple[float, ...]:
        """See `Form.read`."""
        count = _limit(self.count, seen)
        fits = isinstance(value, (list, tuple)) and len(value) == count and all(map(is_number, value))
        if not fits or not all(abs(each) <= _LARGEST_FLOAT32 for each in value):
            raise MalformedError(f"is {short(value)}; expected {count} finite numbers")
        return tuple(float(each) for each in value)

    def write(self, value: Any) -> list[float]:
        """See `Form.write`."""
        return [float(each) for each in value]


@dataclasses.dataclass(frozen=True)
class Flag:
    """True or false; any value but true is read as false."""

    def read(self, value: Any, seen: Seen) -> bool:
        """See `Form.read`."""
        return value is True

    def write(self, value: Any) -> bool:
        """See `Form.write`."""
        return bool(value)


@dataclasses.dataclass(frozen=True)
class Text:
    """A text, read as at most `longest` printable ASCII characters (`messages.shown`)."""

    longest: int

    def read(self, value: Any, seen: Seen) -> str:
        """See `Form.read`."""
        if not isinstance(value, str):
            raise MalformedError(f"is {brief(value)}; expected a text")
        return shown(value, self.longest)

    def write(self, value: Any) -> str:
        """See `Form.write`."""
        return str(value)


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of some texts."""

    of: tuple[str, ...]

    def read(self, value: Any, seen: Seen) -> str:
        """See `Form.read`."""
        if value not in self.of:
            raise MalformedError(f"is {brief(value)}; expected one of {', '.join(self.of)}")
        return str(value)

    def write(self, value: Any) -> str:
        """See `Form.write`."""
        return str(value)


@dataclasses.dataclass(frozen=True)
class ListOf:
    """A list of values of one form, read as a tuple; `expected` names them in errors."""

    form: Form
    expected: str

    def read(self, value: Any, seen: Seen) -> tuple[Any, ...]:
        """See `Form.read`."""
        if not isinstance(value, (list, tuple)):
            raise MalformedError(f"is malformed: {brief(value)}; expected a list of {self.expected}")
        return tuple(self.form.read(each, seen) for each in value)

    def write(self, value: Any) -> list[Any]:
        """See `Form.write`."""
        return [self.form.write(each) for each in value]


@dataclasses.dataclass(frozen=True)
class Wholes:
    """A list of whole numbers from `least` to `most`, read as a tuple; faster than `ListOf` for thousands of them.

    `what` names them in errors. `most` may be a function of what was seen before.
    """

    what: str
    least: int
    most: int | Callable[[Seen], int]

    def read(self, value: Any, seen: Seen) -> tuple[int, ...]:
        """See `Form.read`."""
        least, most = self.least, _limit(self.most, seen)
        if not isinstance(value, list) or not all(type(each) is int and least <= each <= most for each in value):
            raise MalformedError(f"are no {self.what}; expected a list of whole numbers from {least} to {most}")
        return tuple(value)

    def write(self, value: Any) -> list[int]:
        """See `Form.write`."""
        return [int(each) for each in value]


@dataclasses.dataclass(frozen=True)
class Optional:
    """None, or a value of another form."""

    form: Form

    def read(self, value: Any, seen: Seen) -> Any:
        """See `Form.read`."""
        return None if value is None else self.form.read(value, seen)

    def write(self, value: Any) -> Any:
        """See `Form.write`."""
        return None if value is None else self.form.write(value)


@dataclasses.dataclass(frozen=True)
class Made:
    """A value that `make` makes of a JSON value (or raises MalformedError), and that `plain` turns into one."""

    make: Callable[[Any, Seen], Any]
    plain: Callable[[Any], Any]

    def read(self, value: Any, seen: Seen) -> Any:
        """See `Form.read`."""
        return self.make(value, seen)

    def write(self, value: Any) -> Any:
        """See `Form.write`."""
        return self.plain(value)


@dataclasses.dataclass(frozen=True)
class Inner:
    """A dataclass with forms of its own within a message; in JSON an object within the object."""

    kind: type[Any]

    def read(self, value: Any, seen: Seen) -> Any:
        """See `Form.read`."""
        if not isinstance(value, Mapping):
            raise MalformedError(f"is malformed: {brief(value)}; expected a JSON object")
        try:
            return read(self.kind, value, _InnerError, seen=seen)
        except _InnerError as error:
            raise MalformedError(f"is malformed: {error}") from None

    def write(self, value: Any) -> dict[str, Any]:
        """See `Form.write`."""
        return write(value)


class _InnerError(AdamError):
    """A message within a message is malformed."""


def _read_address(told: Any, _: Seen) -> str:
    """Return an address unchanged: other members dial it letter for letter."""
    if not isinstance(told, str) or not told.isprintable() or len(told) > _LONGEST_ADDRESS:
        raise MalformedError(f"is {brief(told)}; expected a printable text, {_LONGEST_ADDRESS} letters at most")
    return told


ADDRESS: Form = Made(_read_address, str)  # in a message

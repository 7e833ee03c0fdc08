"""Messages whose fields are declared once: what is written is read again, and what may not be is refused in a line."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.transport.forms import (
    Choice,
    Flag,
    Inner,
    ListOf,
    MalformedError,
    Number,
    Numbers,
    Optional,
    Text,
    Whole,
    Wholes,
    entry,
    read,
    write,
)
from adam_mp.transport.messages import FrameError


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a message; `most` is what the reader was given."""

    size: int = entry(Whole(1, lambda seen: seen["most"]))


@dataclasses.dataclass(frozen=True)
class Example:
    """A field of each form."""

    kind: str = entry(Choice(("a", "b")))
    count: int = entry(Whole(0, 10), 3)
    share: float = entry(Number(0, 1), 1.0)
    name: str = entry(Text(5), "x")
    exact: bool = entry(Flag(), False)
    batches: tuple[int, ...] = entry(Wholes("batches", 0, lambda seen: seen["count"]), ())
    point: tuple[float, ...] = entry(Numbers(2), (0.0, 0.0))
    part: Part | None = entry(Optional(Inner(Part)), None)
    parts: tuple[Part, ...] = entry(ListOf(Inner(Part), "parts"), ())

    def __post_init__(self):
        if self.exact and self.share < 1:
            raise MalformedError("an exact one has no share")


def take(facts):
    return read(Example, facts, FrameError, seen={"most": 4})


def test_what_is_written_is_read_again_through_json():
    example = Example("b", 7, 0.5, "name", False, (1, 7), (2.0, -1.5), Part(4), (Part(1), Part(2)))
    assert take(json.loads(json.dumps(write(example)))) == example


def test_what_is_missing_has_its_default_and_what_is_unknown_is_passed_over():
    assert take({"kind": "a", "of another version": [1]}) == Example("a")
    assert "part" not in write(Example("a"))  # None is not written
    assert take({"kind": "a", "part": None}).part is None


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        ({}, "kind is None; expected one of a, b"),
        ({"kind": "c"}, "kind is 'c'; expected one of a, b"),
        ({"count": 11}, "count is malformed: 11; expected a whole number from 0 to 10"),
        ({"count": True}, "count is malformed: True; expected a whole number from 0 to 10"),
        ({"count": 1.0}, "count is malformed: 1.0; expected a whole number from 0 to 10"),
        ({"count": 10**30}, "count is malformed: 1000000000000000000000000000000; expected"),
        ({"share": 0}, "share is 0; expected a number above 0, at most 1"),
        ({"share": float("nan")}, "share is nan; expected a number"),
        ({"share": "x"}, "share is 'x'; expected a number"),
        ({"name": ["x"]}, "name is list; expected a text"),
        ({"batches": [0, 4]}, "batches are no batches; expected a list of whole numbers from 0 to 3"),
        ({"batches": [True]}, "batches are no batches"),
        ({"batches": {"0": 1}}, "batches are no batches"),
        ({"point": [1, 1e39]}, "point is [1, 1e+39]; expected 2 finite numbers"),
        ({"point": [1, 10**400]}, "expected 2 finite numbers"),
        ({"point": [1]}, "point is [1]; expected 2 finite numbers"),
        ({"part": 5}, "part is malformed: 5; expected a JSON object"),
        ({"part": {"size": 5}}, "part is malformed: size is malformed: 5; expected a whole number from 1 to 4"),
        ({"parts": [{"size": 1}, {}]}, "parts is malformed: size is malformed: None; expected"),
        ({"parts": 1}, "parts is malformed: 1; expected a list of parts"),
        ({"exact": True, "share": 0.5}, "an exact one has no share"),
    ],
)
def test_what_may_not_be_is_refused_in_a_line(facts, line):
    with pytest.raises(FrameError) as refused:
        take({"kind": "a", **facts} if facts else {})
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


def test_limits_may_depend_on_fields_before():
    assert take({"kind": "a", "count": 9, "batches": [9]}).batches == (9,)
    with pytest.raises(FrameError):
        take({"kind": "a", "count": 8, "batches": [9]})


def test_texts_are_such_as_every_terminal_shows():
    assert take({"kind": "a", "name": "\x1b[2J" + "y" * 99}).name == "?[2Jy"


def test_some_fields_alone_may_be_looked_at():
    assert read(Example, {"kind": "b", "count": "x"}, FrameError, ("kind",)) == Example("b")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["size", "kind", "x"]), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from([field.name for field in dataclasses.fields(Example)]), JSON) | JSON)
def test_anything_is_read_or_refused(facts):
    try:
        told = take(facts)
    except FrameError:
        return
    assert take(json.loads(json.dumps(write(told)))) == told

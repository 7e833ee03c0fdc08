from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.errors import SettingsError
from adam_mp.training.settings.option import Number, Whole, check_kind, check_value, help_of, option


@dataclasses.dataclass
class Options:
    share: float = option(0.5, "a group", "FRACTION", "a share", values=Number(0, 1, high_included=False))
    size: int | str | None = option(None, "a group", "N", lambda: "the size", values=Whole(1, 8))
    place: str | Path = option("here", "a group", "DIR", "a place")


SHARE, SIZE, PLACE = dataclasses.fields(Options)


@given(st.floats(allow_nan=True), st.booleans(), st.booleans())
def test_a_number_is_between_its_bounds(value, low, high):
    bounds = Number(-1, 2, low, high)
    fits = (-1 < value < 2) or (low and value == -1) or (high and value == 2)
    if fits:
        bounds.check("share", value)
        return
    with pytest.raises(SettingsError, match="share is "):
        bounds.check("share", value)


@given(st.one_of(st.integers(), st.floats(), st.booleans(), st.text()))
def test_a_whole_number_is_one_within_its_bounds(value):
    fits = type(value) is int and 1 <= value <= 8
    if fits:
        Whole(1, 8).check("size", value)
        return
    with pytest.raises(SettingsError, match="size is "):
        Whole(1, 8).check("size", value)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [(SHARE, "half", "share is 'half'; expected a number"), (SIZE, 0.5, "size is 0.5; expected a whole number or text"),
     (PLACE, 3, "place is 3; expected text or a path")],
)  # fmt: skip
def test_a_value_of_another_type_is_said(field, value, words):
    with pytest.raises(SettingsError, match=words):
        check_kind(field, value)


def test_values_that_a_setting_may_have():
    for field, value in ((SHARE, 0.0), (SHARE, 0), (SIZE, None), (SIZE, 8), (PLACE, Path("there"))):
        check_kind(field, value)
        check_value(field, value)
    for field, value in ((SHARE, 1.0), (SIZE, 9), (SIZE, 0)):
        with pytest.raises(SettingsError):
            check_value(field, value)


def test_help_is_made_when_it_is_asked_for():
    assert [help_of(field) for field in (SHARE, SIZE)] == ["a share", "the size"]

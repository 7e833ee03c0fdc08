"""Which names say train, validation or test, and which only look so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.data.reading.part_names import part_meant, part_of, part_within

WORDS = {
    "train": ("train", "training"), "validation": ("val", "valid", "validation"), "test": ("test", "testing"),
}  # fmt: skip
SPELLED = [(part, word) for part, words in WORDS.items() for word in words]
CASES = (str.lower, str.upper, str.title)


@given(
    st.sampled_from(SPELLED), st.sampled_from(CASES), st.sampled_from(("", "_", "-", " ", ".")),
    st.sampled_from(("", "set", "data", "Set", "DATA", "dataset", "images")), st.booleans(),
)  # fmt: skip
def test_the_usual_spellings(spelled, case, between, added, first):
    part, word = spelled
    name = case(word) + (between + added if added else "")
    if first and between and added:
        name = added + between + case(word)
    assert part_of(name) == part


@pytest.mark.parametrize(
    "name",
    ["red", "trainer", "contest", "values", "test_tube", "train1", "seg_train", "train_test", "12", "", "_"],
)
def test_other_names_are_no_parts(name):
    assert part_of(name) is None


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("seg_train", "train"), ("test1", "test"), ("Trian", "train"), ("validaton", "validation"), ("tset", "test"),
        ("train_test", None), ("red", None), ("blue", None), ("cat", None), ("12", None),
    ],
)  # fmt: skip
def test_what_is_meant_by_a_name_that_is_none(name, part):
    assert part_meant(name) == part


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("train-0001.tar", ("train", False)), ("imagenet1k-validation-00.tar", ("validation", False)),
        ("trainset_3.tar", ("train", False)), ("values-0.tar", (None, False)), ("train-test.tar", (None, True)),
        ("TEST.tar", ("test", False)), ("val0.tar", ("validation", False)), ("photos-0.tar", (None, False)),
    ],
)  # fmt: skip
def test_words_within_names_of_shards(name, found):
    assert part_within(name) == found

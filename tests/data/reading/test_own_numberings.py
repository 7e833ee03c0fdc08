"""Objects that number their classes themselves, and keep the numbering in an attribute of any name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from adam_mp import load_data

NAMES = ["ant", "bee", "cat", "dog"]
SOME = ["bee", "dog"]  # of which an object to test on has images; it numbers them 0 and 1
EACH = 3  # items of each class


class Numbered:
    """Items of classes, numbered in the order of `names`, with what the object keeps of them."""

    def __init__(self, names: list[str], **kept: Any) -> None:
        self.numbers = [number for number in range(len(names)) for _ in range(EACH)]
        for name, value in kept.items():
            setattr(self, name, value)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return np.full((4, 4), index, np.uint8), self.numbers[index]


class Wrapped:
    """The items of another object."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> Any:
        return self.inner[index]


def numbers_of(names: list[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(names)}


def each(names: list[str]) -> list[str]:
    return [name for name in names for _ in range(EACH)]


KEPT: list[Any] = [
    lambda names: {"label2idx": numbers_of(names)},
    lambda names: {"id2label": {str(number): name for name, number in numbers_of(names).items()}},
    lambda names: {"found": names},
    lambda names: {"encoder": SimpleNamespace(classes_=np.array(names))},
    lambda names: {"features": {"image": 0, "label": SimpleNamespace(names=names)}},  # as Hugging Face's
    lambda names: {"paths": [Path(f"pets/{name}/{number}.png") for number, name in enumerate(each(names))]},
    lambda names: {"samples": [(f"pets/{name}/1.png", 0) for name in each(names)]},
    lambda names: {"table": {"label": np.array(each(names))}},
]


@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("wrapped", [False, True])
def test_classes_that_a_test_object_numbers_otherwise_are_matched_by_the_names_it_keeps(
    kept: Any, wrapped: bool
) -> None:  # fmt: skip
    objects = [Numbered(names, **kept(names)) for names in (NAMES, SOME)]
    data = load_data(tuple(map(Wrapped, objects)) if wrapped else tuple(objects))
    assert data.test is not None
    assert np.unique(data.test.labels).tolist() == [1, 3]
    (line,) = data.notices
    assert "bee is 0, dog is 1; there bee is 1, dog is 3" in line


@pytest.mark.parametrize(
    ("to_train", "to_test"),
    [
        ({"splits": ["a", "b", "c", "d"]}, {"splits": ["a", "b"]}),  # in the same order
        ({"patients": ["p1", "p2", "p3", "p4"]}, {"patients": ["p7", "p8"]}),  # other ones
        ({"coarse": ["p", "q"]}, {"coarse": ["q", "p"]}),  # fewer than classes to train on
        ({"fine": [*NAMES, "eel"]}, {"fine": ["dog", "bee"]}),  # more of them
        ({"others": NAMES[::-1], "label2idx": numbers_of(NAMES)}, {"others": NAMES, "label2idx": numbers_of(NAMES)}),
        ({"label2idx": numbers_of(NAMES)}, {"idx2label": {0: "bee", 1: "dog"}}),  # at another place
        ({"paths": [f"pets/{number}.png" for number in range(12)]}, {"paths": [f"pets/{n}.png" for n in range(6)]}),
    ],
)
def test_other_lists_and_mappings_change_no_label(to_train: dict[str, Any], to_test: dict[str, Any]) -> None:
    data = load_data((Numbered(NAMES, **to_train), Numbered(SOME, **to_test)))
    assert data.test is not None
    assert np.unique(data.test.labels).tolist() == [0, 1]
    assert not data.notices


def test_an_object_that_keeps_itself_and_values_that_cannot_be_read_is_searched_once() -> None:
    class Closed:
        def __len__(self) -> int:
            raise ValueError("closed")

    to_train, to_test = (
        Numbered(names, closed={"a": Closed()}, label2idx=numbers_of(names)) for names in (NAMES, SOME)
    )
    to_train.myself, to_test.myself = to_train, to_test  # type: ignore[attr-defined]
    data = load_data((to_train, to_test))
    assert data.test is not None
    assert np.unique(data.test.labels).tolist() == [1, 3]

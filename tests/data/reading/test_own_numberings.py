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
    lambda names: {"class_list": names},
    lambda names: {"encoder": SimpleNamespace(classes_=np.array(names))},
    lambda names: {"features": {"image": 0, "label": SimpleNamespace(names=names)}},  # as Hugging Face's
    lambda names: {"paths": [Path(f"pets/{name}/{number}.png") for number, name in enumerate(each(names))]},
    lambda names: {"samples": [(f"pets/{name}/1.png", 0) for name in each(names)]},
    lambda names: {"table": {"label": np.array(each(names))}},
    lambda names: {"records": [{"path": f"pets/{name}/1.png", "size": 3} for name in each(names)]},
    lambda names: {"records": [[3, f"pets/{name}/1.png"] for name in each(names)]},
    lambda names: {"by_class": {name: [1, 2, 3] for name in names}},
    lambda names: {"a": ["w", "x", "y", "z"], "class_list": names},  # a list of other things that are as many
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
        ({"label2idx": numbers_of(NAMES)}, {"label2idx": {"bee": 0, "dog": 1, "fox": 2}}),  # and one of no such class
        ({"a": NAMES, "b": NAMES[::-1]}, {"c": NAMES}),  # the same as one of several
        ({"paths": [f"pets/{number}.png" for number in range(12)]}, {"paths": [f"pets/{n}.png" for n in range(6)]}),
    ],
)
def test_other_lists_and_mappings_change_no_label(to_train: dict[str, Any], to_test: dict[str, Any]) -> None:
    data = load_data((Numbered(NAMES, **to_train), Numbered(SOME, **to_test)))
    assert data.test is not None
    assert np.unique(data.test.labels).tolist() == [0, 1]
    assert not data.notices


@pytest.mark.parametrize("kept", [lambda names: {"views": names}, lambda names: {"view2idx": numbers_of(names)}])
def test_what_may_be_no_classes_is_told_and_changes_no_label(kept: Any) -> None:
    data = load_data((Numbered(NAMES, **kept(NAMES)), Numbered(SOME, **kept(SOME))))
    assert data.test is not None
    assert np.unique(data.test.labels).tolist() == [0, 1]
    assert "if these are the classes, list their names in both as .classes" in data.notices[0]
    both = [Numbered(NAMES, label2idx=numbers_of(NAMES), **kept(names)) for names in (NAMES, NAMES[::-1])]
    data = load_data(tuple(both))  # what is of classes is alike
    assert data.test is not None
    assert not data.notices
    assert (data.test.labels == data.train.labels).all()


def test_an_object_of_one_class_is_matched_by_a_name_of_it_and_not_by_a_list() -> None:
    for kept, number in (
        (lambda names: {"label2idx": numbers_of(names)}, 3),
        (lambda names: {"paths": [f"pets/{name}/1.png" for name in each(names)]}, 3),
        (lambda names: {"class_list": names}, 0),
    ):
        data = load_data(tuple(Numbered(names, **kept(names)) for names in (NAMES, ["dog"])))
        assert data.test is not None
        assert np.unique(data.test.labels).tolist() == [number]


def test_names_of_the_items_that_are_numbered_alike_hold() -> None:
    def kept(names: list[str]) -> dict[str, Any]:
        return {
            "class_list": names,
            "paths": [f"pets/{NAMES[n]}/1.png" for n in range(len(names)) for _ in range(EACH)],
        }

    data = load_data(tuple(Numbered(names, **kept(names)) for names in (NAMES[::-1], SOME)))
    assert data.test is not None
    assert np.unique(data.test.labels).tolist() == [0, 1]


def test_one_object_may_be_wrapped_or_call_its_numbering_otherwise_or_have_slots() -> None:
    class WithSlots:
        __slots__ = ("class_list", "items")

        def __init__(self, names: list[str]) -> None:
            self.items, self.class_list = Numbered(names), names

        def __len__(self) -> int:
            return len(self.items)

        def __getitem__(self, index: int) -> Any:
            return self.items[index]

    plain = Numbered(NAMES, label2idx=numbers_of(NAMES))
    for other in (
        Wrapped(Numbered(SOME, label2idx=numbers_of(SOME))),
        Numbered(SOME, idx2label={0: "bee", 1: "dog"}),
        WithSlots(SOME),
    ):
        data = load_data((plain, other))
        assert data.test is not None
        assert np.unique(data.test.labels).tolist() == [1, 3]


def test_a_line_tells_joined_objects_that_number_classes_differently() -> None:
    class Joined:
        def __init__(self, *datasets: Numbered) -> None:
            self.datasets = list(datasets)

        def __len__(self) -> int:
            return sum(map(len, self.datasets))

        def __getitem__(self, index: int) -> Any:
            for each in self.datasets:
                if index < len(each):
                    return each[index]
                index -= len(each)
            raise IndexError(index)

    apart = load_data(Joined(*(Numbered(names, label2idx=numbers_of(names)) for names in (SOME, NAMES))))
    assert "join objects whose classes are numbered differently:" in apart.notices[0]
    alike = Joined(*(Numbered(NAMES, label2idx=numbers_of(NAMES)) for _ in range(2)))
    assert not load_data(alike).notices


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

from __future__ import annotations

import dataclasses

import pytest

from adam_mp.errors import ProcessError
from adam_mp.memory.arena import Arena
from adam_mp.memory.layout import Layout

LAYOUT = Layout.of({"a": (3, 5), "b": (7,)})


def test_spaces_and_counters_are_zeroed_apart_and_shared():
    arena = Arena.create("test", LAYOUT, 3)
    other = Arena.attach(arena.handle)
    arrays = [arena.counters, *arena.spaces]
    assert not any(array.any() for array in arrays)
    for number, array in enumerate(arrays):
        array[:] = number + 1
    for number, array in enumerate([other.counters, *other.spaces]):
        assert (array == number + 1).all()
    assert [space.size for space in other.spaces] == [LAYOUT.size] * 3
    assert all(array.ctypes.data % 64 == 0 for array in arrays)
    arena.close()


@pytest.mark.parametrize(
    ("field", "value"),
    [("magic", 0), ("version", 99), ("layout", 1), ("numbers", 3), ("spaces", 7)],
)
def test_another_arena_is_refused(field, value):
    arena = Arena.create("test", LAYOUT, 2)
    position = ("magic", "version", "layout", "owner", "numbers", "spaces").index(field)
    arena.header[position] = value
    with pytest.raises(ProcessError, match=f"arena has {field}"):
        Arena.attach(arena.handle)
    arena.close()


def test_another_layout_is_refused():
    arena = Arena.create("test", LAYOUT, 1)
    other = dataclasses.replace(arena.handle, layout=Layout.of({"a": (5, 3), "b": (7,)}))
    with pytest.raises(ProcessError, match="layout"):
        Arena.attach(other)
    arena.close()

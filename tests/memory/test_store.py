from __future__ import annotations

import time

import numpy as np

from adam_mp.memory.layout import Layout
from adam_mp.memory.store import ParameterStore
from adam_mp.process.child import start_child
from tests.memory import counting

LAYOUT = Layout.of({"a": (3, 5), "b": (7,)})


def test_weights_and_states_are_apart():
    store = ParameterStore.create(LAYOUT, ("m", "s"))
    store.load({"a": np.ones((3, 5)), "b": np.full(7, 2.0)})
    store.states["m"][:] = 5
    assert store.tensors["a"].sum() == 15
    assert store.tensors["b"].tolist() == [2.0] * 7
    assert not store.states["s"].any()
    assert all(array.ctypes.data % 64 == 0 for array in (store.weights, *store.states.values()))
    store.set_updates(41)
    assert store.count_update() == 41
    statistics = store.statistics()
    assert (statistics.updates, statistics.numbers, statistics.states) == (42, LAYOUT.size, 2)
    store.close()


def test_no_update_of_any_process_goes_uncounted():
    store = ParameterStore.create(LAYOUT, ())
    descriptor = store.handle.arena.segment.descriptor
    children = [start_child(f"counter {n}", counting.count, store.handle, [descriptor], None) for n in range(3)]
    for child in children:
        assert child.wait(time.monotonic() + 60)
        assert child.exit_code == 0, child.last_words()
        child.close()
    assert store.read_updates() == 3 * counting.UPDATES
    store.close()

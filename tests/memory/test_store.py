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
    assert [store.note_average(step) for step in (7, 9, 3)] == [0, 7, 9]
    assert (store.read_updates(), store.read_step()) == (42, 42)
    store.close()


def test_each_worker_has_a_velocity_of_its_own_and_all_together_keep_their_sum():
    store = ParameterStore.create(LAYOUT, ("v", "s", "u"), None, ("v", "u"), 3)
    assert store.statistics().states == 7
    other = ParameterStore.attach(store.handle)  # as a worker does
    for worker in range(3):
        states = store.states_of(worker)
        assert list(states) == ["v", "s", "u"]
        states["v"][:], states["u"][:] = 1 + worker, 10 * (1 + worker)
        assert other.states_of(worker)["v"].tolist() == states["v"].tolist()
        assert other.states_of(worker)["s"] is other.states["s"]
    assert store.states["v"] is store.states_of(0)["v"]
    total = store.states["v"].copy()
    store.add_own("v", total)
    store.add_own("s", total)  # all share it, so nothing is added
    assert (total == 6).all()
    store.states["s"][:] = 12
    store.states["v"][:] = total
    store.share_out()
    assert all((store.states_of(worker)["v"] == 2).all() for worker in range(3))
    assert all(np.ptp(store.states_of(worker)["u"]) == 0 for worker in range(3))
    assert (store.states["s"] == 12).all()
    store.close()


def test_one_worker_has_all_states():
    store = ParameterStore.create(LAYOUT, ("v",), None, ("v",), 1)
    values = np.linspace(-1, 1, LAYOUT.size, dtype=np.float32)
    store.states["v"][:] = values
    store.share_out()
    total = store.states["v"].copy()
    store.add_own("v", total)
    assert total.tobytes() == values.tobytes()
    assert store.statistics().states == 1
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

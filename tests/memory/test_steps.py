"""The memory of synchronous steps, without processes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.memory.steps import Contribution, StepMemory, StepShape, epoch_of, step_key, turn_of


@pytest.fixture
def steps():
    memory = StepMemory.create(StepShape(3, 1000, 2))
    yield memory
    memory.close()


@given(st.integers(1, 40), st.integers(1, 5000), st.data())
def test_slices_cover_the_space_once(workers, numbers, data):
    shape = StepShape(workers, numbers, 1)
    memory = StepMemory.create(shape)
    players = data.draw(st.integers(1, workers))
    covered = [place for worker in range(players) for place in range(numbers)[memory.slice_of(worker, players)]]
    memory.close()
    assert covered == list(range(numbers))


def test_a_step_is_complete_when_all_its_players_have_arrived_and_applied(steps):
    key = step_key(4, 7)
    for worker in (2, 0):
        steps.arrive(worker, key, Contribution(10 + worker, 16, 1.5))
    assert steps.pending(0) == key
    assert steps.pending(1) is None
    assert not steps.all_arrived(key, 3)
    steps.arrive(1, key, Contribution(11, 5, 2.5))
    assert steps.all_arrived(key, 3)
    assert steps.contribution(1) == Contribution(11, 5, 2.5)
    for worker in range(3):
        assert not steps.all_applied(key, 3)
        steps.applied(worker, key)
        assert steps.pending(worker) is None
    assert steps.all_applied(key, 3)
    steps.arrive(0, step_key(4, 8), Contribution(1, 1, 1.0))
    assert steps.all_applied(key, 3)
    assert not steps.all_arrived(key, 3)
    steps.reset()
    assert steps.pending(0) is None
    assert steps.last(0) == 0


def test_a_cut_update_is_begun_again_from_the_journal(steps):
    spaces = {"weights": np.arange(1000, dtype=np.float32), "v": np.ones(1000, np.float32)}
    before = {name: space.copy() for name, space in spaces.items()}
    steps.journal(1, step_key(0, 0), 3, spaces)
    part = steps.slice_of(1, 3)
    spaces["weights"][part.start : part.start + 5] = -1  # it died here
    spaces["v"][part] = 7
    steps.journal(1, step_key(0, 0), 3, spaces)
    for name, space in spaces.items():
        assert np.array_equal(space, before[name])
    spaces["weights"][part] = 3
    steps.applied(1, step_key(0, 0))
    steps.journal(1, step_key(0, 1), 3, spaces)  # the next step keeps what is there now
    spaces["weights"][part] = 9
    steps.journal(1, step_key(0, 1), 3, spaces)
    assert np.all(spaces["weights"][part] == 3)


def test_later_steps_have_larger_keys():
    places = [(epoch, turn) for epoch in range(3) for turn in (0, 1, 2, 10**6)]
    keys = [step_key(*place) for place in places]
    assert [(epoch_of(key), turn_of(key)) for key in keys] == places
    assert keys == sorted(set(keys))
    assert keys[0] > 0


def test_the_squares_of_a_step_are_there_when_all_its_players_have_told_theirs(steps):
    key = step_key(2, 3)
    for worker, square in ((2, 1e-30), (0, 1.0)):
        steps.tell_square(worker, key, square)
        assert steps.square(key, 3) is None
    steps.tell_square(1, key, -1.0)
    assert steps.square(key, 3) == (1.0 - 1.0) + 1e-30  # added in the order of the workers
    assert steps.square(key, 2) == 0
    assert steps.square(step_key(2, 4), 3) is None
    steps.reset()
    assert steps.square(key, 3) is None

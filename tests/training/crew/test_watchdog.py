"""What is no progress, and for how long."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from adam_mp.errors import StalledError
from adam_mp.training.crew.watchdog import Watchdog


def test_a_run_is_ended_for_the_stillness_it_was_looked_at_and_not_for_that_in_which_it_was_stopped(monkeypatch):
    clock, beats, told = [100.0], [0], []
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    monkeypatch.setattr("adam_mp.training.crew.watchdog.all_stacks", lambda *_: "stacks")
    crew = SimpleNamespace(totals=lambda: {"heartbeat": beats[0]}, children=dict, first_failure=None)
    dog = Watchdog(60.0, crew, dict, SimpleNamespace(asked=False), lambda *notice: told.append(notice))
    dog.step(False)
    dog.step(False)
    clock[0] += 300  # with all its processes
    dog.step(False)
    for moved in (False, True):
        beats[0] += not moved
        dog.step(moved)
        for _ in range(590):
            clock[0] += 0.1
            dog.step(False)
    assert not told
    for _ in range(9):
        clock[0] += 0.1
        dog.step(False)
    clock[0] += 0.4
    with pytest.raises(StalledError, match="nothing moved for 60 s"):
        dog.step(False)
    assert [text for text, _, _ in told] == ["nothing moves; what the processes are doing:"]

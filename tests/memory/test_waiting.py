from __future__ import annotations

from adam_mp.memory import waiting
from adam_mp.memory.waiting import Backoff, Pace


def sleeps(monkeypatch, steps):
    """The lengths of the sleeps that `steps` make."""
    seen = []
    monkeypatch.setattr(waiting.time, "sleep", seen.append)
    steps()
    return seen


def test_backoff_doubles_until_something_is_found(monkeypatch):
    pause = Backoff()
    seen = sleeps(monkeypatch, lambda: [pause.pause() for _ in range(10)])
    assert seen[1] == 2 * seen[0]
    assert seen[-1] == seen[-2] <= 2e-3
    pause.reset()
    assert sleeps(monkeypatch, pause.pause) == seen[:1]


def test_pace_follows_what_is_used_up(monkeypatch):
    pace = Pace()
    seen = sleeps(monkeypatch, lambda: [pace.pause(0.1) for _ in range(12)])
    assert seen == sorted(seen)
    assert seen[-1] == seen[-2] <= 25e-3
    steady = sleeps(monkeypatch, lambda: [pace.pause(0.4) for _ in range(3)])
    assert set(steady) == {seen[-1]}
    late = sleeps(monkeypatch, lambda: [pace.pause(0.9) for _ in range(20)])
    assert late == sorted(late, reverse=True)
    assert late[-1] == seen[0] / 2 or late[-1] <= 50e-6

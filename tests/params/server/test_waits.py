"""Answers that wait until updates are stable."""

from __future__ import annotations

from adam_mp.params.server.waits import Wait, Waits


def test_answers_go_once_when_their_updates_are_stable_and_some_are_forgotten():
    waits, said, stable = Waits(), [], set()
    for key, group in (("a", 1), ("b", 2), ("c", 1)):
        waits.put(key, Wait(frozenset({group}), 5, ((3, 4),), lambda key=key: said.append(key), asked=10.0))
    waits.put("b", Wait(frozenset({2}), 5, ((3, 4),), lambda: said.append("b again"), asked=14.0))
    waits.settle(lambda wait: wait.groups <= stable)
    assert (said, waits.count) == ([], 3)
    waits.tidy(11.0)
    waits.forget(frozenset({7}))
    assert waits.count == 3
    stable.add(2)
    for _ in range(2):
        waits.settle(lambda wait: wait.groups <= stable)
    assert said == ["b again"]
    waits.forget(frozenset({1}))
    assert waits.count == 0
    waits.put("d", Wait(frozenset({3}), 5, (), lambda: None, asked=10.0))
    waits.tidy(15.5)
    assert waits.count == 0, "nobody asks any more"

"""One line when somebody falls silent, one when it is back."""

from __future__ import annotations

from adam_mp.params.run.silences import SilenceNotices


def test_a_silence_and_its_end_are_told_once():
    told = []
    notices = SilenceNotices(60.0, told.append)
    for seconds in (0.0, 1.0, 3.9, 0.0, 2.0, 4.1, 5.0, 11.6, 0.0, 0.3, 0.0):
        notices.step({"the coordinator at a:1": seconds, "the parameter server at b:1": 0.1})
    assert told == [
        "the coordinator at a:1 has not answered for 4 s; the run waits for it, 60 s at most",
        "the coordinator at a:1 answers again, after 12 s",
    ]


def test_little_patience_is_told_before_it_is_over():
    told = []
    notices = SilenceNotices(2.0, told.append)
    notices.step({"x": 1.5})
    assert len(told) == 1


def test_who_has_moved_is_not_silent():
    told = []
    notices = SilenceNotices(60.0, told.append)
    for silences in ({"a": 5.0, "b": 0.0}, {"b": 0.0, "c": 0.0}, {"b": 0.0, "a": 0.0}, {"a": 5.0}):
        notices.step(silences)
    assert [line[0] for line in told] == ["a", "a"]
    assert not any("again" in line for line in told)

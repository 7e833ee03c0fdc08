from __future__ import annotations

import pytest

from tests.conftest import loaded_tool


@pytest.fixture(scope="module")
def tool():
    with loaded_tool("fuzz_frames") as module:
        yield module


def test_20000_mutated_frames_are_refused_and_messages_answered(tool):
    counts = tool.fuzz(20_000, seed=1, probe_every=500)
    assert counts.sent == 20_000
    assert counts.dropped == counts.sent - counts.valid > 15_000
    assert counts.refused > 0
    assert counts.answered > 0
    assert counts.answered_probes == counts.probes > 40


@pytest.mark.parametrize("name", ["dropped", "accepted", "answered_probes", "refused", "disagreements"])
def test_the_fuzzer_sees_that_something_does_not_add_up(tool, name):
    good = {"sent": 10, "valid": 1, "probes": 2, "accepted": 3, "dropped": 9, "answered_probes": 2, "unsaid": 4}
    good |= {"refused": 5, "answered": 1, "disagreements": 0}
    tool.Counts(**good).check()
    for wrong in (good[name] - 1, good[name] + 1):
        with pytest.raises(tool.FuzzError, match="is not"):
            tool.Counts(**good | {name: wrong}).check()


def test_the_mutations_are_the_same_for_a_seed(tool):
    assert list(tool.mutated(5, 200)) == list(tool.mutated(5, 200))
    assert list(tool.mutated(5, 200)) != list(tool.mutated(6, 200))

from __future__ import annotations

import pytest

from adam_mp import Dense, Flatten, Network, Softmax
from adam_mp.training.plan import fitting

NETWORK = Network.build([Flatten(), Dense(4096), Dense(4096), Dense(), Softmax()], (32, 32, 1), 10, "large")


@pytest.mark.parametrize(
    ("megabytes", "direct", "parts"),
    [(1000, False, 2), (320, False, 3), (300, False, 4), (270, False, 12), (320, True, 2), (270, True, 6)],
)
def test_it_names_the_fewest_machines_that_have_room(monkeypatch, megabytes, direct, parts):
    monkeypatch.setattr(fitting, "free_space", lambda _: megabytes << 20)
    said = fitting.fitting_advice(NETWORK, 0, direct)
    assert f"cut over {parts} machines like this one it fits: --partition 1/{parts}" in said


def test_it_says_nothing_where_nothing_fits(monkeypatch):
    monkeypatch.setattr(fitting, "free_space", lambda _: 1 << 20)
    assert fitting.fitting_advice(NETWORK, 0, True) == ""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adam_mp import Conv, Dense, Flatten, Network, ReLU, Softmax
from adam_mp.errors import SettingsError
from adam_mp.network.cuts import choose_ways, forced_ways, possible_ways
from adam_mp.network.partition import partition
from adam_mp.network.traffic import seconds_of
from adam_mp.network.zoo import ZOO
from tests.compute.graphs import networks


def small():
    layers = [Conv(8, 3, padding=1), ReLU(), Conv(8, 3, padding=1), ReLU(), Flatten(), Dense(64), Dense(), Softmax()]
    return Network.build(layers, (8, 8, 1), 2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auto", {}),
        ("rows", {"conv1": "rows", "conv2": "rows"}),
        ("none", {"conv1": "none", "conv2": "none", "dense1": "none", "dense2": "none"}),
        ("conv*=rows, conv2=channels,dense1=units", {"conv1": "rows", "conv2": "channels", "dense1": "units"}),
        ("conv*=rows,conv1=auto", {"conv2": "rows"}),
    ],
)
def test_a_cut_is_written_for_all_layers_or_for_some(text, expected):
    assert forced_ways(text, small(), 2) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("row", "cut is 'row', neither a way nor pairs .*did you mean 'rows'"),
        ("conv3=rows", "'conv3' fits no layer that can be cut; did you mean 'conv1' or 'conv2'"),
        ("conv1=columns", "'conv1=columns' names no way; "),
        ("relu1=rows", "'relu1' fits no layer that can be cut"),
    ],
)
def test_a_cut_that_cannot_be_understood_is_refused(text, says):
    with pytest.raises(SettingsError, match=says):
        forced_ways(text, small(), 2)


@given(networks(), st.integers(2, 4), st.data())
@settings(max_examples=25, deadline=None)
def test_the_choice_is_no_worse_than_the_first_ways_and_keeps_what_is_forced(network, parts, data):
    possible = possible_ways(network, parts)
    forced = {name: data.draw(st.sampled_from(ways)) for name, ways in possible.items() if data.draw(st.booleans())}
    chosen = choose_ways(network, parts, forced)
    assert list(chosen) == list(possible)
    assert forced.items() <= chosen.items()
    plain = {name: forced.get(name, ways[0]) for name, ways in possible.items()}
    assert seconds_of(partition(network, parts, chosen)) <= seconds_of(partition(network, parts, plain))


def test_large_matrices_are_divided_and_small_ones_are_not():
    network = Network.build(ZOO["alexnet"]((224, 224, 3), 10), (224, 224, 3), 10)
    chosen = choose_ways(network, 4, {})
    assert chosen["dense1"] == chosen["dense2"] == "units"
    assert chosen["dense3"] == "none"
    shares = [graph.parameter_count / network.parameter_count for graph in partition(network, 4, chosen).graphs]
    assert max(shares) < 0.3

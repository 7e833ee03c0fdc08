from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adam_mp import Conv, Dense, Flatten, MaxPool, Network, ReLU, Softmax
from adam_mp.errors import NetworkError
from adam_mp.network.cuts import possible_ways
from adam_mp.network.part_layers import Fetch, PartBatchNorm, SumOfParts
from adam_mp.network.partition import partition
from adam_mp.network.spread import Box, Interval, even
from adam_mp.network.zoo import ZOO
from tests.compute.graphs import networks


def zoo(name, shape=(64, 64, 3)):
    return Network.build(ZOO[name](shape, 10), shape, 10, name)


def first_ways(network, parts, number=0):
    return {name: ways[min(number, len(ways) - 1)] for name, ways in possible_ways(network, parts).items()}


@given(st.integers(1, 40), st.integers(1, 9))
def test_even_intervals_cover_all_and_differ_by_one(count, parts):
    found = even(count, parts)
    assert [number for each in found for number in range(*each)] == list(range(count))
    assert max(each.size for each in found) - min(each.size for each in found) <= 1


def test_boxes_meet_and_cover():
    box, other = Box(Interval(-2, 3), Interval(0, 4)), Box(Interval(1, 9), Interval(2, 3))
    assert box.meet(other) == Box(Interval(1, 3), Interval(2, 3))
    assert box.meet(Box(Interval(5, 6), Interval(0, 4))).numbers(7) == 0
    assert box.covers(Box(Interval(0, 3), Interval(1, 2)))
    assert not box.covers(other)


@given(networks(), st.integers(2, 4), st.data())
@settings(max_examples=100, deadline=None)
def test_both_sides_derive_the_same_messages(network, parts, data):
    ways = {name: data.draw(st.sampled_from(ways)) for name, ways in possible_ways(network, parts).items()}
    plan = partition(network, parts, ways)
    sent, received = set(), set()
    for part, graph in enumerate(plan.graphs):
        for node in graph.nodes:
            if isinstance(node.layer, (Fetch, SumOfParts, PartBatchNorm)):
                messages = node.layer.messages(node.name)
                assert len(messages) == len(set(messages))
                sent.update(each for each in messages if each.sender == part)
                received.update(each for each in messages if each.receiver == part)
    assert sent == received


@given(networks(), st.integers(2, 4), st.data())
@settings(max_examples=100, deadline=None)
def test_the_parts_of_each_parameter_make_the_whole(network, parts, data):
    ways = {name: data.draw(st.sampled_from(ways)) for name, ways in possible_ways(network, parts).items()}
    plan = partition(network, parts, ways)
    for name, shape in network.parameters.items():
        columns = plan.columns.get(name)
        if columns is None:
            assert all(graph.parameters[name] == shape for graph in plan.graphs)
        else:
            assert name not in plan.summed
            assert [number for each in columns for number in range(*each)] == list(range(shape[-1]))
            each = [graph.parameters[name] for graph in plan.graphs]
            assert each == [(*shape[:-1], interval.size) for interval in columns]


def test_a_pooling_behind_a_convolution_needs_no_exchange():
    network = zoo("alexnet", (224, 224, 3))
    plan = partition(network, 2, first_ways(network, 2))
    readers = {node.name.partition(">")[2] for node in plan.graphs[0].nodes if isinstance(node.layer, Fetch)}
    assert readers == {"conv1", "conv2", "conv3", "conv4", "conv5", "dense1", "dense2", "dense3", "softmax1"}
    assert sum(graph.parameter_count for graph in plan.graphs) < 1.05 * network.parameter_count


def test_a_convolution_of_one_pixel_exchanges_nothing_by_rows():
    layers = [Conv(4, 3, padding=1), ReLU(), Conv(8, 1), ReLU(), MaxPool(2), Flatten(), Dense(), Softmax()]
    network = Network.build(layers, (8, 8, 1), 2)
    plan = partition(network, 2, {"conv1": "rows", "conv2": "rows", "dense1": "none"})
    fetches = [node.name for node in plan.graphs[0].nodes if isinstance(node.layer, Fetch)]
    assert fetches == ["input>conv1", "flatten1>dense1"]


@pytest.mark.parametrize(
    ("ways", "parts", "says"),
    [
        ({"conv1": "rows"}, 5, r"conv1 cannot be cut by rows over 5 partitions: .* is \(4, 4, 3\); possible: 'none'"),
        ({"conv1": "channels"}, 4, r"conv1 cannot be cut by channels over 4 .* possible: 'rows', 'none'"),
        ({"dense1": "units"}, 3, r"dense1 cannot be cut by units over 3 partitions: .* is \(2,\); possible: 'none'"),
        ({"dense1": "rows"}, 2, r"dense1 cannot be cut by rows .* possible: 'units', 'none'"),
    ],
)  # fmt: skip
def test_a_layer_that_cannot_be_cut_so_is_named(ways, parts, says):
    network = Network.build([Conv(3, 3), Flatten(), Dense(), Softmax()], (6, 6, 1), 2)
    with pytest.raises(NetworkError, match=says):
        partition(network, parts, {"conv1": "none", "dense1": "none", **ways})


def test_first_rows_of_large_networks_are_cut_in_milliseconds():
    network = zoo("resnet50")
    plan = partition(network, 4, first_ways(network, 4))
    counts = np.array([graph.connections for graph in plan.graphs])
    assert counts.max() < 1.4 * counts.mean()

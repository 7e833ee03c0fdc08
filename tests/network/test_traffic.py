from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adam_mp import Conv, Dense, Flatten, Network, ReLU, Softmax
from adam_mp.network.cuts import possible_ways
from adam_mp.network.partition import partition
from adam_mp.network.traffic import input_bytes, input_rows, messages_of, part_costs, traffic_of
from tests.compute.graphs import networks


def test_traffic_counts_halos_gathered_values_and_gradients():
    layers = [
        Conv(4, 3, padding=1),
        ReLU(),
        Conv(6, 3, padding=1),
        ReLU(),
        Flatten(),
        Dense(10),
        ReLU(),
        Dense(2),
        Softmax(),
    ]
    network = Network.build(layers, (8, 5, 1), 2)
    plan = partition(network, 2, {"conv1": "rows", "conv2": "rows", "dense1": "units", "dense2": "none"})
    traffic = traffic_of(plan)
    weights = 4 * 9 + 4, 4 * 9 * 6 + 6  # of both convolutions, with biases
    assert traffic["conv1"].of_image == (0, 0), "images lie on every partition, and have no errors"
    assert traffic["conv1"].of_batch == (4 * weights[0],) * 2
    halo = 5 * 4  # a row of the value between the convolutions, there and its error back
    assert traffic["conv2"].of_image == (4 * 2 * halo,) * 2
    assert traffic["conv2"].of_batch == (4 * weights[1],) * 2
    half = 4 * 5 * 6  # of the flat value
    assert traffic["dense1"].of_image == (4 * 2 * half,) * 2
    assert traffic["dense2"].of_image == (4 * 5,) * 2, "each computes all errors itself"
    costs = part_costs(plan, batch=10)
    assert costs[0].sent == pytest.approx(4 * (2 * halo + 2 * half + 5 + sum(weights) / 10))
    assert costs[0].parameters == sum(weights) + 5 * (8 * 5 * 6 + 1) + 2 * 11


@given(networks(), st.integers(2, 4), st.data())
@settings(max_examples=60, deadline=None)
def test_traffic_is_what_all_messages_have(network, parts, data):
    ways = {name: data.draw(st.sampled_from(ways)) for name, ways in possible_ways(network, parts).items()}
    plan = partition(network, parts, ways)
    sums = [sum(each.of_image[part] for each in traffic_of(plan).values()) for part in range(parts)]
    sent = [0] * parts
    for _, message in messages_of(plan):
        sent[message.sender] += 0 if message.of_batch else 4 * message.numbers
    assert sums == sent


@pytest.mark.parametrize("parts", [2, 3])
def test_the_rows_of_images_that_partitions_read_are_their_own_and_a_border(parts):
    network = Network.build([Conv(4, 5, padding=2), Flatten(), Dense(), Softmax()], (12, 6, 3), 5, "rows")
    plan = partition(network, parts, {"conv1": "rows", "dense1": "units"})
    ends = [12 * part // parts for part in range(parts + 1)]
    for part in range(parts):
        rows = input_rows(plan, part)
        assert rows == (max(0, ends[part] - 2), min(12, ends[part + 1] + 2))
        assert input_bytes(plan, part) == 4 * rows.size * 6 * 3
    whole = partition(network, parts, {"conv1": "channels", "dense1": "none"})
    assert {input_rows(whole, part) for part in range(parts)} == {(0, 12)}

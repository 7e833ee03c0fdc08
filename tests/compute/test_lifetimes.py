from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp import Conv, Dense, Flatten, MaxPool, Network, ReLU, Residual, Softmax
from adam_mp.compute.choice import KernelChoices
from adam_mp.compute.context import TrainingContext
from adam_mp.compute.lifetimes import Buffer, Place, arrange
from adam_mp.network.cuts import possible_ways
from adam_mp.network.description import load_network
from adam_mp.network.initialization import initial_weights
from adam_mp.network.partition import partition
from tests.compute.graphs import networks, weights_for


class NoMail:
    """A mail by which nothing ever goes."""

    def __init__(self, batch):
        self.batch = batch

    def array(self, message):
        return np.zeros(message.shape(self.batch))


LIVES = st.builds(
    lambda number, side, whole, first, length: Buffer(
        Place("value", f"v{number}"), (side,), whole, first, first + length
    ),
    st.integers(0, 99), st.integers(1, 70), st.booleans(), st.integers(0, 12), st.integers(0, 5),
)  # fmt: skip


def overlaps(buffers, offsets, batch, block):
    """Pairs of buffers that live at the same time and share memory."""
    for (one, at), (other, place) in itertools.combinations(zip(buffers, offsets, strict=True), 2):
        together = one.first <= other.last and other.first <= one.last
        if together and at < place + other.numbers(batch, block) and place < at + one.numbers(batch, block):
            yield one, other


@given(st.lists(LIVES, max_size=12), st.integers(1, 9), st.sampled_from([4, 8]))
def test_no_two_live_buffers_overlap(buffers, batch, item):
    block = max(1, batch // 2)
    offsets, total = arrange(buffers, batch, block, item)
    assert not list(overlaps(buffers, offsets, batch, block))
    assert all(offset * item % 64 == 0 for offset in offsets)
    needed = [at + buffer.numbers(batch, block) for buffer, at in zip(buffers, offsets, strict=True)]
    assert max(needed, default=0) <= total


@given(networks(dropout=True), st.booleans())
def test_no_two_live_values_of_a_network_overlap(network, backward):
    context = TrainingContext(network, weights_for(network), 5, np.float64, KernelChoices(2), backward=backward)
    assert not list(overlaps(context.buffers, context.offsets, 5, 2))
    places = [buffer.place for buffer in context.buffers]
    assert len(set(places)) == len(places)


@given(networks(), st.integers(2, 4), st.data())
def test_no_two_live_values_of_a_partition_overlap_and_errors_of_pieces_have_room_for_a_block(network, parts, data):
    ways = {name: data.draw(st.sampled_from(ways), name) for name, ways in possible_ways(network, parts).items()}
    graph = partition(network, parts, ways).graphs[data.draw(st.integers(0, parts - 1))]
    context = TrainingContext(graph, weights_for(graph), 5, np.float64, KernelChoices(2), mail=NoMail(5))
    assert not list(overlaps(context.buffers, context.offsets, 5, 2))
    kept = {buffer.place.name: buffer for buffer in context.buffers if buffer.place.purpose == "kept"}
    for buffer in context.buffers:
        if buffer.place.purpose == "error" and buffer.place.name in kept:
            assert buffer.last < kept[buffer.place.name].last


def test_buffers_whose_lives_do_not_meet_share_memory():
    buffers = [Buffer(Place("value", str(n)), (16,), False, n, n + 1) for n in range(10)]
    assert arrange(buffers, 1, 1, 4)[1] == 2 * 16


@pytest.mark.parametrize(("model", "shape", "classes"), [("lenet", (28, 28, 1), 10), ("alexnet", (64, 64, 3), 10)])
def test_a_row_takes_no_more_than_a_buffer_for_each_value_and_error(model, shape, classes):
    network = load_network(model, shape, classes)
    context = TrainingContext(network, initial_weights(network, 1), 8)
    block = context.block
    apart = sum(buffer.numbers(8, block) for buffer in context.buffers)
    lines = 16 * len(context.buffers)
    assert 0 < max(context.offsets) < apart + lines


def test_a_deep_network_predicts_in_the_memory_of_a_few_layers():
    def memory(blocks):
        layers = [Conv(8, 3, padding=1), *[Residual([Conv(8, 3, padding=1), ReLU(), Conv(8, 3, padding=1)])] * blocks]
        network = Network.build([*layers, MaxPool(4), Flatten(), Dense(), Softmax()], (16, 16, 8), 3)
        context = TrainingContext(network, initial_weights(network, 1), 16, choices=KernelChoices(4), backward=False)
        return max(at + buffer.numbers(16, 4) for buffer, at in zip(context.buffers, context.offsets, strict=True))

    assert memory(9) == memory(2) <= 4 * (4 * 16 * 16 * 8)

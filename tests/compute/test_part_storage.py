from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adam_mp.compute.part_storage import ColumnBlocks, PartStorage
from adam_mp.compute.tensor_file import TensorFile, write_tensors
from adam_mp.network.cuts import plan_partitions, possible_ways
from adam_mp.network.network import Network
from adam_mp.network.partition import partition
from adam_mp.network.zoo import ZOO
from tests.compute.graphs import networks


@given(networks(), st.integers(2, 4), st.data())
@settings(max_examples=60, deadline=None)
def test_each_number_lies_where_its_partition_updates_it(network, parts, data):
    ways = {name: data.draw(st.sampled_from(ways)) for name, ways in possible_ways(network, parts).items()}
    storage = PartStorage(partition(network, parts, ways))
    flat = np.zeros(storage.layout.size, np.int64)
    for part in range(parts):
        assert (
            storage.part_layout(part).size - storage.shared_size == storage.block(part).stop - storage.block(part).start
        )
        for place in (*storage.slices(part), storage.block(part)):
            flat[place] += 1
        own = storage.part_views(flat, part)
        assert {name: each.shape for name, each in own.items()} == storage.plan.graphs[part].parameters
    assert (flat == 1).all()
    gradient = storage.part_layout(0).views(np.zeros(storage.part_layout(0).size))
    stored = {each.name: each.offset for each in storage.layout.tensors}
    for tensor in storage.part_layout(0).tensors:
        assert tensor.name in gradient
        assert stored[storage.stored_name(tensor.name, 0)] == tensor.offset, "the first block is where it is in both"


@given(networks(), st.integers(2, 4), st.integers(1, 5), st.data())
@settings(max_examples=40, deadline=None)
def test_parameter_servers_have_each_number_in_one_shard_of_the_machine_that_updates_it(network, parts, servers, data):
    ways = {name: data.draw(st.sampled_from(ways)) for name, ways in possible_ways(network, parts).items()}
    storage = PartStorage(partition(network, parts, ways))
    layout = storage.exchanged.for_servers(servers)
    assert layout.size == storage.layout.size
    whole = np.arange(1, layout.size + 1)
    served = np.zeros(layout.size, np.int64)
    for part in range(parts):
        block, own = storage.block(part), np.zeros(storage.part_layout(part).size, np.int64)
        for place in storage.slices(part):
            own[place] = whole[place]
        own[storage.shared_size :] = whole[block]
        held = storage.held(part, servers)
        assert (held.size, held.servers) == (len(own), servers)
        for number, shard in zip(held.numbers, held.shards, strict=True):
            assert not served[layout.shards[number].place].any()
            served[layout.shards[number].place] = own[shard.place]
    np.testing.assert_array_equal(served, whole)


def test_a_cut_tensor_is_read_and_written_as_one():
    whole = np.arange(30.0).reshape(6, 5)
    blocks = ColumnBlocks([np.zeros((6, 2)), np.zeros((6, 3))])
    blocks[...] = whole
    np.testing.assert_array_equal(np.asarray(blocks), whole)
    np.testing.assert_array_equal(blocks.copy(), whole)
    blocks[2:4] = -whole[2:4]
    whole[2:4] *= -1
    np.testing.assert_array_equal(np.asarray(blocks), whole)
    assert (blocks.shape, blocks.nbytes, blocks.itemsize) == ((6, 5), 240, 8)
    bias = ColumnBlocks([np.zeros(2), np.zeros(3)])
    bias[1:4] = np.array([1.0, 2.0, 3.0])
    np.testing.assert_array_equal(np.asarray(bias), [0, 1, 2, 3, 0])
    bias[...] = 7
    np.testing.assert_array_equal(np.asarray(bias), [7] * 5)


@pytest.mark.parametrize("parts", [2, 3])
def test_files_of_whole_tensors_are_written_from_parts_and_read_into_others(tmp_path, parts):
    network = Network.build(ZOO["mnist"]((28, 28, 1), 10), (28, 28, 1), 10)
    storage = PartStorage(plan_partitions(network, parts))
    flat = np.random.default_rng(1).standard_normal(storage.layout.size).astype(np.float32)
    write_tensors(tmp_path / "file", storage.whole_views(flat), {"format": "test"})
    file = TensorFile(tmp_path / "file", "test")
    assert {name: shape for name, (_, shape) in file.forms.items()} == dict(network.parameters)
    other = PartStorage(plan_partitions(network, 4))
    there = np.zeros(other.layout.size, np.float32)
    file.read(other.whole_views(there))
    for name, tensor in storage.whole_views(flat).items():
        np.testing.assert_array_equal(np.asarray(other.whole_views(there)[name]), np.asarray(tensor))

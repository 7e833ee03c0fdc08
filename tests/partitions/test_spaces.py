from __future__ import annotations

import numpy as np
import pytest

from adam_mp.compute.part_storage import PartStorage
from adam_mp.compute.tensor_file import TensorFile, write_tensors
from adam_mp.network.cuts import plan_partitions
from adam_mp.network.initialization import draw_weights, initial_weights
from adam_mp.network.network import Network
from adam_mp.network.zoo import ZOO
from adam_mp.partitions.spaces import level, tensors_of

SHAPE = (12, 12, 1)


class Elsewhere:
    """The flat spaces of other partitions, in this process."""

    def __init__(self, storage: PartStorage) -> None:
        parts = range(storage.plan.parts)
        self.spaces = {part: np.zeros(storage.part_layout(part).size, np.float32) for part in parts}
        self.most = 0

    def read(self, part, space, begin, end):
        assert space == "weights"
        self.most = max(self.most, end - begin)
        return self.spaces[part][begin:end].copy()

    def write(self, part, space, begin, values):
        assert values.dtype == np.float32
        self.spaces[part][begin : begin + len(values)] = values


@pytest.fixture(params=[2, 3])
def storage(request):
    network = Network.build(ZOO["lenet"]((28, 28, 1), 10), (28, 28, 1), 10, "lenet")
    return PartStorage(plan_partitions(network, request.param, "conv1=rows,dense*=units"))


def test_weights_that_are_drawn_in_parts_are_those_of_one_machine(storage):
    network, elsewhere = storage.plan.network, Elsewhere(storage)
    tensors = tensors_of(storage, elsewhere, "weights", elsewhere.spaces[0], is_state=False)
    draw_weights(network, 3, tensors)
    expected = initial_weights(network, 3)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(np.asarray(tensors[name]), tensor)
        assert (tensors[name].shape, tensors[name].nbytes) == (tensor.shape, tensor.nbytes)
    for part in range(storage.plan.parts):
        for name, view in storage.part_layout(part).views(elsewhere.spaces[part]).items():
            columns = storage.plan.columns.get(name)
            own = expected[name] if columns is None else expected[name][..., slice(*columns[part])]
            np.testing.assert_array_equal(view, own, name)


def test_a_file_holds_the_whole_and_is_read_into_the_parts_again(storage, tmp_path):
    first, second = Elsewhere(storage), Elsewhere(storage)
    draw_weights(storage.plan.network, 5, tensors_of(storage, first, "weights", first.spaces[0], is_state=False))
    written = tensors_of(storage, first, "weights", first.spaces[0], is_state=False)
    write_tensors(tmp_path / "file", written, {"format": "test"})  # type: ignore[arg-type]
    read = tensors_of(storage, second, "weights", second.spaces[0], is_state=False)
    TensorFile(tmp_path / "file", "test").read(read)
    for part, space in first.spaces.items():
        np.testing.assert_array_equal(second.spaces[part], space)
    assert first.most < storage.plan.network.parameter_count / storage.plan.parts


def test_an_optimizer_state_is_gathered_from_who_updates_it(storage):
    elsewhere = Elsewhere(storage)
    expected = np.arange(storage.shared_size, dtype=np.float32)
    for part, space in elsewhere.spaces.items():
        space[...] = -1
        for place in storage.slices(part):
            space[place] = expected[place]
    tensors = tensors_of(storage, elsewhere, "weights", elsewhere.spaces[0], is_state=True)
    layout = storage.part_layout(0)
    for tensor in layout.tensors:
        if tensor.name in storage.shared:
            found = np.asarray(tensors[tensor.name]).reshape(-1)
            np.testing.assert_array_equal(found, expected[tensor.offset : tensor.offset + tensor.size])


def test_all_machines_have_the_same_shared_tensors_once_they_are_levelled(storage):
    elsewhere, size = Elsewhere(storage), storage.shared_size
    expected = np.arange(1, size + 1, dtype=np.float32)
    for part, space in elsewhere.spaces.items():
        space[...] = -part
        for place in storage.slices(part):
            space[place] = expected[place]
    level(storage, elsewhere, elsewhere.spaces[0])
    for part, space in elsewhere.spaces.items():
        np.testing.assert_array_equal(space[:size], expected)
        assert (space[size:] == -part).all(), "blocks are each partition's own"

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.network.cuts import possible_ways
from adam_mp.network.network import Network
from adam_mp.network.partition import partition
from adam_mp.network.zoo import ZOO
from tests.compute.graphs import data_for, networks, weights_for
from tests.compute.partitions import gradients_of_parts, gradients_of_whole

SIDES = {"alexnet": 64, "vgg16": 32, "resnet18": 64, "resnet34": 64, "resnet50": 64, "mobilenet-v2": 64}


def assert_equal_gradients(network, plan, weights, images, labels, real=np.float64, limit=1e-9, **how):
    order = how.pop("seed", 0)
    scores, loss, gradients = gradients_of_whole(network, weights, images, labels, real, **how)
    of_parts, losses, found = gradients_of_parts(plan, weights, images, labels, real, seed=order, **how)
    for each in of_parts:
        np.testing.assert_array_equal(each, of_parts[0])
        assert np.abs(each - scores).max() <= limit * max(1.0, np.abs(scores).max())
    assert losses == pytest.approx([loss] * plan.parts, rel=limit)
    largest = max(np.linalg.norm(gradient) for gradient in gradients.values())
    for name, gradient in gradients.items():
        apart = np.linalg.norm(found[name] - gradient)
        assert apart <= limit * max(np.linalg.norm(gradient), 1e-3 * largest), (name, apart)


@given(networks(dropout=True), st.integers(2, 4), st.data())
def test_random_graphs_have_the_gradients_of_one_process(network, parts, data):
    ways = {name: data.draw(st.sampled_from(ways), name) for name, ways in possible_ways(network, parts).items()}
    plan = partition(network, parts, ways)
    images, labels = data_for(network, data.draw(st.integers(2, 5)))
    how = {"block": data.draw(st.integers(1, 3)), "key": data.draw(st.integers(0, 9)), "seed": data.draw(st.integers())}
    assert_equal_gradients(network, plan, weights_for(network), images, labels, **how)


LARGE = ("vgg16", "resnet18", "resnet34", "resnet50", "mobilenet-v2")


@pytest.mark.parametrize("way", [0, 1, -1])
@pytest.mark.parametrize("parts", [2, 3, 4])
@pytest.mark.parametrize("name", [pytest.param(each, marks=[pytest.mark.long] * (each in LARGE)) for each in ZOO])
def test_the_zoo_has_the_gradients_of_one_process(name, parts, way):
    side = SIDES.get(name, 32 if name in ("cifar-fast", "resnet20") else 28)
    shape = (side, side, 1 if side == 28 else 3)
    network = Network.build(ZOO[name](shape, 10), shape, 10, name)
    ways = {each: possible[min(way, len(possible) - 1)] for each, possible in possible_ways(network, parts).items()}
    plan = partition(network, parts, ways)
    images, labels = data_for(network, 3)
    weights = {each: tensor * 0.1 for each, tensor in weights_for(network).items()}
    assert_equal_gradients(network, plan, weights, images, labels)

from __future__ import annotations

import enum
import pickle

import numpy as np
import pytest

from adam_mp import (
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePool,
    LocalResponseNorm,
    MaxPool,
    Network,
    ReLU,
    Softmax,
)
from adam_mp.errors import NetworkError
from adam_mp.network.description import load_network
from adam_mp.network.initialization import initial_weights


@pytest.mark.parametrize(
    ("name", "shape", "classes", "parameters", "connections"),
    [
        ("lenet", (28, 28, 1), 10, 431_080, 2_293_000),
        ("mnist", (28, 28, 1), 10, 328_618, 2_487_552),
        ("alexnet", (224, 224, 3), 1000, 61_100_840, 714_188_480),
        ("alexnet", (64, 64, 3), 10, 20_344_650, 57_389_760),
        ("mlp", (1, 1, 30), 2, 147_714, 146_944),
        ("vgg16", (224, 224, 3), 1000, 138_365_992, 15_470_264_320),
        ("resnet18", (224, 224, 3), 1000, 11_689_512, 1_814_073_344),
        ("resnet34", (224, 224, 3), 1000, 21_797_672, 3_663_761_408),
        ("resnet50", (224, 224, 3), 1000, 25_557_032, 4_089_184_256),
        ("mobilenet-v2", (224, 224, 3), 1000, 3_504_872, 300_774_272),
        ("resnet20", (32, 32, 3), 10, 272_474, 40_813_184),
        ("cifar-fast", (32, 32, 3), 10, 1_972_792, 118_147_360),
    ],
)
def test_counts_of_the_zoo(name, shape, classes, parameters, connections):
    network = load_network(name, shape, classes)
    assert network.parameter_count == parameters
    assert network.connections == connections
    assert network.shapes[-1] == (classes,)


@pytest.mark.parametrize(
    ("layers", "means"),
    [
        ([Conv(4, 3), BatchNorm(), GlobalAveragePool(), Dense(), Softmax()], True),
        ([Conv(4, 3), BatchNorm(), GlobalAveragePool(), Dropout(), Flatten(), Dense(), Softmax()], True),
        ([Conv(4, 3), GlobalAveragePool(), Dense(), Softmax()], False),
        ([Conv(4, 3), BatchNorm(), Flatten(), Dense(), Softmax()], False),
        ([Conv(4, 3), BatchNorm(), GlobalAveragePool(), Dense(5), Dropout(), Dense(), Softmax()], False),
        ([Dense(), Softmax()], False),
    ],
)
def test_whose_scores_are_those_of_normed_means(layers, means):
    assert Network.build(layers, (9, 8, 3) if len(layers) > 2 else (5,), 5).scores_means is means


def test_names_shapes_and_parameters():
    network = Network.build([Conv(6, 3, 2, 1), ReLU(), Conv(4, 2), Flatten(), Dense(), Softmax()], (9, 8, 3), 5)
    assert network.names == ("conv1", "relu1", "conv2", "flatten1", "dense1", "softmax1")
    assert network.shapes == ((9, 8, 3), (5, 4, 6), (5, 4, 6), (4, 3, 4), (48,), (5,), (5,))
    assert network.parameters["conv1.weight"] == (27, 6)
    assert network.parameters["dense1.bias"] == (5,)
    assert pickle.loads(pickle.dumps(network)) == network


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([], ["no layers"]),
        ([Flatten(), Dense()], ["last layer must be softmax", "dense"]),
        ([Softmax(), Flatten(), Dense(), Softmax()], ["only the last"]),
        ([Dense(), Softmax()], ["dense1", "(8, 8, 2)", "flatten"]),
        ([Flatten(), Conv(3, 3), Softmax()], ["conv1", "(128,)"]),
        ([MaxPool(9), Flatten(), Dense(), Softmax()], ["max_pool1", "9x9", "8x8"]),
        ([Conv(2, 11, padding=1), Flatten(), Dense(), Softmax()], ["conv1", "11x11", "padding 1"]),
        ([Flatten(), LocalResponseNorm(), Dense(), Softmax()], ["local_response_norm1"]),
        ([Flatten(), Dense(7), Softmax()], ["7 scores", "4 classes"]),
        ([Flatten(), "dense", Softmax()], ["layer 2", "'dense'"]),
        ([Conv(3, 3), Softmax()], ["softmax1", "(6, 6, 3)"]),
    ],
)
def test_layers_that_do_not_fit(layers, words):
    with pytest.raises(NetworkError) as caught:
        Network.build(layers, (8, 8, 2), 4)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Conv(0, 3), lambda: Conv(3, 2.5), lambda: Conv(3, 3, 0), lambda: Conv(3, 3, padding=-1),
        lambda: MaxPool(0), lambda: MaxPool(17), lambda: MaxPool(2, 0), lambda: Dense(0), lambda: Dense(True),
        lambda: Dropout(1), lambda: Dropout(-0.1), lambda: LocalResponseNorm(0), lambda: LocalResponseNorm(alpha=0),
    ],
)  # fmt: skip
def test_layers_that_cannot_be(make):
    with pytest.raises(NetworkError):
        make()


def test_one_class_is_refused():
    with pytest.raises(NetworkError, match="at least 2 classes"):
        Network.build([Flatten(), Dense(), Softmax()], (2, 2, 1), 1)


def test_first_weights_come_from_the_seed_alone():
    network = load_network("lenet", (28, 28, 1), 10)
    first, again, other = (initial_weights(network, seed) for seed in (1, 1, 2))
    assert {name: array.shape for name, array in first.items()} == network.parameters
    for name, array in first.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, again[name])
        if name.endswith("weight"):
            assert (array != other[name]).any()
            expected = (0.1 if name == "dense2.weight" else 1.0) / array.shape[0]
            assert array.var() == pytest.approx(expected, rel=0.3)
        else:
            assert not array.any()


class OwnReLU(ReLU):
    pass


class Units(enum.IntEnum):
    FEW = 3


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (OwnReLU(), "is of the class OwnReLU, which is none of adam_mp's"),
        (Dense, r"is the class Dense; expected a layer: write Dense\(...\)"),
        (object(), "is an object; expected a layer"),
        (Dense(Units.FEW), "units is of type Units; expected a plain number"),
    ],
)
def test_what_processes_cannot_have_is_refused(layer, words):
    layers = (Flatten(), layer, Dense(4), Softmax())
    for make in (lambda: Network.build(layers, (8, 8, 2), 4), lambda: Network(layers, (8, 8, 2))):
        with pytest.raises(NetworkError, match=f"layer 2 .*{words}|layer 2 {words}"):
            make()

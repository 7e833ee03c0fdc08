from __future__ import annotations

import numpy as np
import pytest

from adam_mp import (
    BatchNorm,
    Conv,
    Dense,
    Flatten,
    GlobalAveragePool,
    GroupNorm,
    LayerNorm,
    Network,
    ReLU,
    Residual,
    Softmax,
)
from adam_mp.compute.choice import KernelChoices
from adam_mp.compute.context import TrainingContext
from adam_mp.errors import NetworkError
from adam_mp.network.description import from_json, load_network, to_json
from adam_mp.network.initialization import branch_ends, initial_weights

END = [GlobalAveragePool(), Dense(), Softmax()]


def first(*layers, shape=(8, 8, 16), name):
    return initial_weights(Network.build([*layers, *END], shape, 4), 1)[name]


@pytest.mark.parametrize(
    ("init", "variance"), [("auto", 1 / 144), ("he", 2 / 144), ("glorot", 2 / (144 + 9 * 64)), ("zero", 0.0)]
)
def test_the_variance_of_first_weights(init, variance):
    weight = first(Conv(64, 3, init=init), name="conv1.weight")
    assert weight.var() == pytest.approx(variance, rel=0.1)
    assert abs(weight.mean()) < 0.01


def test_a_weight_of_groups_has_the_inputs_and_outputs_of_one():
    weight = first(Conv(64, 3, groups=4, init="glorot"), name="conv1.weight")
    assert weight.var() == pytest.approx(2 / (9 * 4 + 9 * 16), rel=0.1)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize(("channels", "groups"), [(16, 1), (24, 1), (8, 1), (16, 4), (32, 16)])
def test_identity_passes_channels_through(size, channels, groups):
    network = Network.build(
        [Conv(channels, size, padding=size // 2, groups=groups, init="identity", bias=False), Flatten(), Dense(),
         Softmax()], (6, 6, 16), 3,
    )  # fmt: skip
    x = np.random.default_rng(0).standard_normal((2, 6, 6, 16), dtype=np.float32)
    context = TrainingContext(network, initial_weights(network, 1), 2, choices=KernelChoices(2))
    context.program(x, np.zeros(2, np.int32)).run_forward()
    out = next(array for place, array in context._arrays.items() if place[:2] == ("value", "conv1"))[:2, :6, :6]
    reads, makes = 16 // groups, channels // groups
    for group in range(groups):
        for channel in range(min(reads, makes)):
            np.testing.assert_array_equal(out[..., group * makes + channel], x[..., group * reads + channel])
    rest = [k for k in range(channels) if k % makes >= reads]
    assert not rest or out[..., rest].std() > 0.5


@pytest.mark.parametrize("conv", [Conv(24, 2, init="whiten"), Conv(60, 3, 2, 1, dilation=2, init="whiten", bias=False)])
def test_whitened_outputs_have_variance_one_and_no_correlation(conv):
    generator = np.random.default_rng(0)
    pictures = generator.standard_normal((20, 9, 8, 3)).cumsum(axis=1).cumsum(axis=3).astype(np.float32)
    network = Network.build([conv, *END], (9, 8, 3), 4)
    context = TrainingContext(network, initial_weights(network, 1, pictures), 20, choices=KernelChoices(20))
    context.program(pictures, np.zeros(20, np.int32)).run_forward()
    height, width, channels = conv.output_shape((9, 8, 3))
    values = next(array for place, array in context._arrays.items() if place[:2] == ("value", "conv1"))
    out = values[:20, :height, :width].reshape(-1, channels).astype(np.float64)
    wide = min(channels, conv.size**2 * 3)
    products = out.T @ out / len(out)
    np.testing.assert_allclose(products[:wide, :wide], np.eye(wide), atol=0.05)
    np.testing.assert_allclose(out[:, wide : 2 * wide], -out[:, : min(wide, channels - wide)], atol=1e-5)
    assert (out[:, 2 * wide :].std(axis=0) > 0.1).all()


def test_what_cannot_be_whitened():
    network = Network.build([Conv(4, 3, init="whiten"), *END], (8, 8, 2), 4)
    with pytest.raises(NetworkError, match="conv1 has init 'whiten', which is measured on images"):
        initial_weights(network, 1)
    for layers in ([ReLU(), Conv(4, 3, init="whiten")], [Conv(4, 3, groups=2, init="whiten")]):
        with pytest.raises(NetworkError, match="conv1 has init 'whiten'; that is for a convolution without groups"):
            Network.build([*layers, *END], (8, 8, 2), 4)
    with pytest.raises(NetworkError, match="dense: init is 'whiten'; known"):
        Dense(4, init="whiten")


def test_identity_of_a_dense_layer():
    network = Network.build([Flatten(), Dense(20, init="identity"), ReLU(), Dense(), Softmax()], (1, 1, 16), 4)
    weight = initial_weights(network, 1)["dense1.weight"]
    np.testing.assert_array_equal(weight[:, :16], np.eye(16))
    assert weight[:, 16:].std() > 0.1


def test_the_last_norm_of_a_residual_begins_at_zero():
    for norm in (BatchNorm(), GroupNorm(4), LayerNorm()):
        inner = [Conv(16, 3, padding=1), norm, ReLU(), Conv(16, 3, padding=1), norm]
        network = Network.build([norm, Residual(inner), Residual(inner, [Conv(16, 1), norm]), *END], (8, 8, 16), 4)
        weights, kind = initial_weights(network, 1), norm.kind
        scales = {number: weights[f"{kind}{number}.scale"] for number in range(1, 7)}
        assert [float(scale[0]) for scale in scales.values()] == [1, 1, 0, 1, 0, 1]
        assert branch_ends(network) == {f"{kind}3", f"{kind}5"}


def test_a_scale_that_is_given_stays():
    inner = [Conv(16, 3, padding=1), BatchNorm(init_scale=0.5)]
    assert (first(Residual(inner), name="batch_norm1.scale") == 0.5).all()
    assert (first(BatchNorm(init_scale=0), name="batch_norm1.scale") == 0).all()


def test_each_block_of_a_resnet_is_its_shortcut_at_first():
    network = load_network("resnet18", (32, 32, 3), 10)
    scales = [name for name, array in initial_weights(network, 1).items() if name.endswith("scale") and not array.any()]
    assert len(scales) == 8


def test_first_weights_are_written_down():
    layers = [Conv(4, 3, init="he"), BatchNorm(init_scale=0), Dense(4, init="zero"), Dense(), Softmax()]
    network = Network.build(layers, (3, 3, 2), 4)
    assert from_json(to_json(network)) == network
    assert "init" not in to_json(Network.build([Conv(4, 3), BatchNorm(), *END], (8, 8, 2), 4))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: Conv(4, 3, init="kaiming"),
            "conv: init is 'kaiming'; known: auto, glorot, he, identity, whiten, zero",
        ),
        (lambda: Dense(4, init="glorott"), "dense: init is 'glorott'; did you mean 'glorot'"),
        (lambda: Dense(4, init=0), "dense: init is 0; known: auto"),
        (lambda: BatchNorm(init_scale="a"), "batch_norm: init_scale is 'a'; expected a number"),
        (lambda: GroupNorm(4, init_scale=float("nan")), "group_norm: init_scale is nan; expected a number"),
    ],
)
def test_first_weights_that_cannot_be(make, words):
    with pytest.raises(NetworkError) as caught:
        make()
    assert words in str(caught.value)

from __future__ import annotations

import numpy as np
import pytest

from adam_mp import (
    Conv,
    Dense,
    Flatten,
    MaxPool,
    Multiply,
    Network,
    Node,
    ReLU,
    Residual,
    Softmax,
    SqueezeExcite,
    StochasticDepth,
)
from adam_mp.compute.choice import KernelChoices, likely_choices
from adam_mp.compute.context import TrainingContext
from adam_mp.compute.gradient_check import gradient_error
from adam_mp.compute.grouped import DepthwiseConvolution, GroupedConvolution, SameDepthwiseConvolution
from adam_mp.compute.measurement import measure_choices
from adam_mp.network.layers import Tanh
from tests.compute.graphs import data_for, numpy_scores, weights_for

SHAPE = (9, 8, 4)
NETWORKS = {
    "depthwise": [Conv(4, 3, padding="same", groups=4), Tanh()],
    "depthwise behind others": [
        Conv(4, 1), Conv(4, 3, padding=1, groups=4), ReLU(), Conv(4, 3, padding=1, groups=4, bias=False)
    ],
    "depthwise with strides": [Conv(4, 1), Conv(4, 3, 2, 1, groups=4), ReLU(), Conv(4, 5, 2, "same", groups=4)],
    "depthwise without padding": [Conv(4, 1), Conv(4, 3, groups=4), ReLU(), Conv(4, 4, groups=4, bias=False)],
    "depthwise, much padding": [Conv(4, 1), Conv(4, 2, padding=3, groups=4)],
    "depthwise, dilated": [Conv(4, 1), Conv(4, 3, padding="same", groups=4, dilation=2), Conv(4, 2, 2, 1, True, 4, 3)],
    "depthwise twice as wide": [Conv(4, 1), Conv(8, 3, padding="same", groups=4), ReLU()],
    "groups": [
        Conv(6, 3, groups=2), ReLU(), Conv(4, 3, 2, 1, groups=2, bias=False), Tanh(), Conv(6, 3, padding=4, groups=2)
    ],
    "groups, dilated": [Conv(4, 1), Conv(6, 3, padding="same", groups=2, dilation=2), ReLU(), MaxPool(2)],
    "all channels, dilated": [Conv(3, 1), Conv(4, 3, dilation=2), ReLU(), Conv(3, 2, 2, 1, dilation=3), MaxPool(2)],
    "read twice": [Node(Conv(4, 1), "a"), Conv(4, 3, padding=1, groups=4), Node(Multiply(), inputs=["conv2", "a"])],
    "a value times itself": [Node(Conv(4, 1), "a"), Node(Multiply(), inputs=["a", "a"])],
    "squeeze and excite": [Conv(6, 3), Residual([SqueezeExcite(6, 2)]), ReLU()],
}  # fmt: skip


def build(layers, shape=SHAPE):
    return Network.build([*layers, Flatten(), Dense(), Softmax()], shape, 3)


def bound(network, images, block, real=np.float64):
    x, labels = data_for(network, images)
    weights = {name: array.astype(real) for name, array in weights_for(network).items()}
    context = TrainingContext(network, weights, images, real, KernelChoices(block))
    return context, context.program(x.astype(real), labels), weights, x


@pytest.mark.parametrize("block", [1, 2, 5])
@pytest.mark.parametrize("name", NETWORKS)
def test_scores_and_gradients(name, block):
    network = build(NETWORKS[name])
    _, program, weights, x = bound(network, 5, block)
    program.run_forward()
    np.testing.assert_allclose(program.scores, numpy_scores(network, weights, x), rtol=1e-9, atol=1e-9)
    errors = (gradient_error(network, seed, 5, KernelChoices(block), 3 * len(network.parameters)) for seed in (1, 2))
    assert min(errors) < 1e-6


def test_channels_that_have_a_kernel_each_have_kernels_of_their_own():
    layers = [Conv(4, 3, groups=4), Conv(8, 3, groups=4), Conv(8, 3, padding="same", groups=8)]
    context, *_ = bound(build(layers), 2, 2)
    kinds = [type(each) for each in context.operations[:3]]
    assert kinds == [DepthwiseConvolution, GroupedConvolution, SameDepthwiseConvolution]
    for other in ({"stride": 2}, {"dilation": 2, "padding": 2}, {"padding": 0}, {"padding": 2}):
        assert not SameDepthwiseConvolution.fits(Conv(8, 3, groups=8, **{"padding": 1, **other}))


def test_only_convolutions_of_all_channels_have_ways_to_choose_from():
    network = build(
        [Conv(4, 3), Conv(4, 3, groups=4), ReLU(), Conv(6, 3, padding="same", groups=2), Conv(4, 3, dilation=1)]
    )
    assert set(likely_choices(network).ways_back) == {"conv1", "conv4"}
    assert set(measure_choices(network, 4).ways_back) == {"conv1", "conv4"}


@pytest.mark.parametrize("block", [1, 3, 20])
def test_stochastic_depth_drops_images_whole_and_scales_the_others(block):
    images, rate = 20, 0.4
    network = build([Conv(3, 1), Node(StochasticDepth(rate), "drop")])
    context, program, _, x = bound(network, images, block)
    context.set_dropout_key(7)
    program.run_forward()
    scores = program.scores.copy()
    dropped = next(each for each in context.operations if each.group.name == "drop")
    kept = np.round(dropped.mask * (1 - rate), 9)
    assert set(kept) == {0.0, 1.0}
    program.run_backward()
    once = context.gradient.copy()
    other = bound(network, images, images)
    other[0].set_dropout_key(7)
    other[1].run_forward()
    np.testing.assert_allclose(other[1].scores, scores)  # the same images, however the batch is cut
    other[1].run_backward()
    np.testing.assert_allclose(other[0].gradient, once, atol=1e-12)
    alone = context.program(x, None, training=False)
    alone.run_forward()
    np.testing.assert_array_equal(np.isclose(alone.scores, scores).all(axis=1), np.zeros(images, bool))
    masks = []
    for key in range(300):
        context.set_dropout_key(key)
        program.run_forward()
        masks.append(dropped.mask > 0)
    share = np.mean(masks, axis=0)
    assert abs(np.mean(share) - (1 - rate)) < 0.02
    assert np.all(abs(share - (1 - rate)) < 0.15)

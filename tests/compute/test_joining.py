from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from adam_mp import (
    Add,
    Concat,
    Conv,
    Dense,
    Flatten,
    GlobalAveragePool,
    MaxPool,
    Network,
    Node,
    ReLU,
    Residual,
    Softmax,
)
from adam_mp.compute import context as contexts
from adam_mp.compute.choice import KernelChoices
from adam_mp.compute.context import TrainingContext
from adam_mp.compute.fusion import fuse
from adam_mp.compute.gradient_check import gradient_error
from adam_mp.network.layers import AveragePool, Tanh
from adam_mp.network.norms import BatchNorm
from tests.compute.graphs import data_for, networks, numpy_scores, torch_gradients, weights_for

BLOCKS = st.sampled_from([1, 2, 3, 5])
ROW = [Conv(3, 3, padding=1), ReLU(), Conv(3, 3, padding=1)]
GRAPHS = {
    "sum": [Conv(3, 3), Residual(ROW), ReLU()],
    "sum of three": [Conv(3, 3), Add(ROW, [Conv(3, 1)], []), ReLU()],
    "sum of four, one twice": [
        Node(Conv(3, 3), "a"), Node(Tanh(), "b"), Node(Add(), inputs=["a", "b", "a", "b"]), ReLU(), Conv(2, 2)
    ],
    "shortcut": [Conv(3, 3), Residual([Conv(4, 3, 2, 1), ReLU()], [AveragePool(1, 2), Conv(4, 1, bias=False)]), ReLU()],
    "side by side": [Concat([Conv(3, 3, padding="same"), ReLU()], [Conv(2, 1)], [MaxPool(1)]), ReLU(), Conv(2, 2)],
    "images first": [Concat([], [Conv(2, 3, padding=1)]), Residual([Conv(4, 1)])],
    "inside each other": [Residual([Concat([Residual([Conv(2, 1)]), ReLU()], [Conv(1, 1)]), Conv(2, 1)]), Conv(3, 2)],
    "whole images": [Conv(4, 3), ReLU(), GlobalAveragePool()],
    "whole images and all pixels": [
        Conv(4, 3), ReLU(), Concat([GlobalAveragePool()], [Flatten(), Dense(5)], [Flatten()])
    ],
    "padded pooling": [Conv(3, 3), MaxPool(3, 2, 1), ReLU(), Conv(2, 3, padding=1), ReLU(), MaxPool(3, 1, "same")],
    "padded means": [Conv(3, 3), AveragePool(3, 2, "same"), MaxPool(2, 1, 1), ReLU()],
    "flat": [Flatten(), Dense(6, bias=False), Residual([Dense(6), ReLU(), Dense(6)]), ReLU(), Concat([Dense(2)], [])],
    "sums above a relu": [Conv(3, 3), ReLU(), Residual(ROW, [Conv(3, 1)]), ReLU(), MaxPool(2)],
    "norms": [
        Conv(3, 3, bias=False), BatchNorm(), ReLU(), Residual([Conv(3, 1), BatchNorm(), ReLU(), Conv(3, 1)]),
        BatchNorm(), ReLU(), GlobalAveragePool(), Dense(5), BatchNorm(), ReLU()
    ],
    "norms in a shortcut": [
        BatchNorm(), Residual([Conv(4, 3, 2, 1), BatchNorm()], [Conv(4, 1, 2), BatchNorm(0.1)]), ReLU(), MaxPool(2)
    ],
    "norms beside what waits for them": [
        Node(Conv(2, 3), "a"), Node(BatchNorm(), "b"), Node(Tanh(), "c", ["a"]), Node(BatchNorm(), "d", ["b"]),
        Node(Add(), inputs=["a", "c", "d", "a"])
    ],
    "skips to the end": [Node(Conv(3, 3), "early"), ReLU(), Conv(2, 3), Flatten(), Node(Dense(4), "late"),
                         Node(Flatten(), "flat", ["early"]), Node(Concat(), inputs=["flat", "late"])],
}  # fmt: skip


def build(layers, shape=(7, 6, 2)):
    kinds = {type(each) for each in layers}
    flat = [] if kinds & {Flatten, GlobalAveragePool} or "Flatten" in str(layers) else [Flatten()]
    return Network.build([*layers, *flat, Dense(), Softmax()], shape, 3)


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("block", [1, 2, 5])
def test_gradients_agree_with_finite_differences(name, block):
    network = build(GRAPHS[name])
    probes = 2 * len(network.parameters)
    assert min(gradient_error(network, seed, 5, KernelChoices(block), probes) for seed in (1, 2)) < 1e-6


@pytest.mark.parametrize("name", GRAPHS)
def test_scores_are_those_of_plain_numpy(name):
    network = build(GRAPHS[name])
    _, program, weights, x, _ = bound(network)
    program.run_forward()
    np.testing.assert_allclose(program.scores, numpy_scores(network, weights, x), rtol=1e-9, atol=1e-9)


@given(networks(smooth=True, dropout=True), st.integers(0, 50), BLOCKS)
@hypothesis_settings(max_examples=60)
def test_gradients_of_random_graphs(network, seed, block):
    # A kink of a max-pooling within a step of a finite difference spoils that probe; it cannot do so for two draws.
    errors = (gradient_error(network, draw, 4, KernelChoices(block), 6) for draw in (seed, seed + 100))
    assert min(errors) < 1e-5


def bound(network, images=4, block=3, real=np.float64):
    x, labels = data_for(network, images)
    weights = {name: array.astype(real) for name, array in weights_for(network).items()}
    context = TrainingContext(network, weights, images, real, KernelChoices(block))
    return context, context.program(x.astype(real), labels), weights, x, labels


@given(networks(), BLOCKS)
@hypothesis_settings(max_examples=60)
def test_scores_of_random_graphs_are_those_of_plain_numpy(network, block):
    _, program, weights, x, _ = bound(network, block=block)
    program.run_forward()
    np.testing.assert_allclose(program.scores, numpy_scores(network, weights, x), rtol=1e-9, atol=1e-9)


@given(networks(), BLOCKS)
def test_gradients_of_random_graphs_are_those_of_pytorch(network, block):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    context, program, weights, x, labels = bound(network, block=block)
    program.run_forward()
    program.run_backward()
    scores, gradients = torch_gradients(network, weights, x, labels)
    np.testing.assert_allclose(program.scores, scores, rtol=1e-9, atol=1e-9)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(context.gradients[name], gradient, rtol=1e-8, atol=1e-9, err_msg=name)


@given(networks(dropout=True), BLOCKS)
@hypothesis_settings(max_examples=60)
def test_values_that_share_memory_do_not_spoil_each_other(network, block):
    """The same numbers come out if every buffer has memory of its own."""

    def apart(buffers, batch, block, item):
        sizes = [buffer.numbers(batch, block) for buffer in buffers]
        return [sum(sizes[:number]) for number in range(len(sizes))], sum(sizes)

    results = []
    with pytest.MonkeyPatch.context() as patch:
        for arrange in (contexts.arrange, apart):
            patch.setattr(contexts, "arrange", arrange)
            context, program, *_ = bound(network, block=block, real=np.float32)
            context.set_dropout_key(3)
            for _ in range(2):
                program.run_forward()
                scores = program.scores.copy()
                program.run_backward()
            results.append((scores, program.totals.copy(), context.gradient.copy()))
    for shared, own in zip(*results, strict=True):
        np.testing.assert_array_equal(shared, own)


@given(networks(), BLOCKS)
@hypothesis_settings(max_examples=30)
def test_a_context_for_inference_alone_computes_the_same(network, block):
    _, program, weights, x, _ = bound(network, block=block)
    program.run_forward()
    choices = KernelChoices(block)
    alone = TrainingContext(network, weights, len(x), np.float64, choices, backward=False).program(x, None)
    alone.run_forward()
    np.testing.assert_array_equal(alone.scores, program.scores)


def test_a_step_of_a_graph_allocates_nothing():
    layers = [Conv(8, 3), Residual([*ROW[:1], Conv(8, 1)]), ReLU(), Concat([Conv(4, 1)], []), GlobalAveragePool()]
    _, program, *_ = bound(build(layers), 6, 2, np.float32)
    for _ in range(3):
        program.run_forward()
        program.run_backward()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    for _ in range(20):
        program.run_forward()
        program.run_backward()
    after, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 1000
    assert peak - before < 4000


def test_what_others_read_is_not_fused():
    layers = [Node(Conv(2, 3), "stem"), ReLU(), MaxPool(2), Flatten(), Node(Flatten(), "early", ["stem"])]
    network = build(
        [*layers, Node(Concat(), inputs=["flatten1", "early"]), Residual([Dense(82), ReLU()]), ReLU()], (7, 9, 2)
    )
    kinds = [[layer.kind for layer in group.layers] for group in fuse(network)]
    assert kinds[:2] == [["conv"], ["relu"]]
    assert ["add", "relu"] in kinds


def test_dense_layers_of_the_tail_update_their_weights_themselves():
    network = build([Conv(3, 3), ReLU(), GlobalAveragePool(), Dense(4), ReLU()])
    assert {"dense1", "dense2"} <= network.tail
    context, *_ = bound(network)
    assert context.update_directly(np.zeros(2)) == ["dense1.weight", "dense2.weight"]

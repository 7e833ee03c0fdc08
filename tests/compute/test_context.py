from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from adam_mp import Dense, Dropout, Flatten, MaxPool, Network, ReLU, Softmax
from adam_mp.compute.choice import KernelChoices, likely_choices
from adam_mp.compute.context import TrainingContext
from adam_mp.compute.fusion import fuse
from adam_mp.compute.gradient_check import gradient_error
from adam_mp.compute.optimizer import UpdateNumbers, make_optimizer
from adam_mp.compute.shares import shares_of
from adam_mp.compute.updates import bind_updates
from adam_mp.errors import NetworkError
from adam_mp.memory.layout import Layout
from adam_mp.memory.store import ParameterStore
from adam_mp.network.description import load_network
from adam_mp.network.initialization import initial_weights
from adam_mp.network.layers import AveragePool, Conv, LocalResponseNorm, Sigmoid, Tanh

SIZES = st.integers(1, 3)
IMAGE_LAYERS = st.lists(
    st.one_of(
        st.builds(Conv, st.integers(1, 4), SIZES, st.integers(1, 2), st.integers(0, 2)),
        st.builds(MaxPool, SIZES, st.none() | SIZES),
        st.builds(AveragePool, SIZES, st.none() | SIZES),
        st.sampled_from([ReLU(), ReLU(), Sigmoid(), Tanh(), Dropout(0.4), LocalResponseNorm(3, 0.5, 0.75, 1.0)]),
    ),
    max_size=5,
)
FLAT_LAYERS = st.lists(
    st.one_of(st.builds(Dense, st.integers(1, 6)), st.sampled_from([ReLU(), Sigmoid(), Tanh(), Dropout(0.3)])),
    max_size=3,
)
FIXED = [
    [Conv(4, 3), MaxPool(2), ReLU(), Conv(5, 3, padding=1), ReLU(), MaxPool(3, 2), Flatten(), Dense(7), ReLU()],
    [Conv(3, 3, 2, 1), ReLU(), Conv(1, 3, padding=1), ReLU(), Conv(3, 3, 2, 2), Flatten()],
    [MaxPool(2), ReLU(), Conv(3, 2), Flatten(), Tanh(), Dense(5)],
]


def build(layers, shape=(9, 8, 2)):
    return Network.build([*layers, Dense(), Softmax()], shape, 3)


@pytest.mark.compiles  # and then the other tests of gradients find the kernels for doubles in the cache
def test_gradients_agree_with_finite_differences():
    for layers, block, channels in itertools.product(FIXED, (1, 2, 5), (1, 2)):
        network = build(layers, (11, 10, channels))
        assert gradient_error(network, 3, images=5, choices=KernelChoices(block)) < 1e-6, (layers, block, channels)


@given(IMAGE_LAYERS, FLAT_LAYERS, st.integers(0, 50), st.sampled_from([1, 2, 3]))
@hypothesis_settings(max_examples=60)
def test_gradients_of_random_networks(image_layers, flat_layers, seed, block):
    try:
        network = build([*image_layers, Flatten(), *flat_layers])
    except NetworkError:
        return  # shrunk to nothing
    # A kink within a step of a finite difference spoils that probe; it cannot do so for two draws.
    assert (
        min(
            gradient_error(network, draw, images=3, choices=KernelChoices(block), probes=6)
            for draw in (seed, seed + 100)
        )
        < 1e-5
    )


def test_fusion_takes_convolution_pool_and_relu_in_either_order():
    network = build([Conv(2, 2), ReLU(), MaxPool(2), ReLU(), Flatten(), Dense(4), ReLU(), ReLU()])
    kinds = [[layer.kind for layer in group.layers] for group in fuse(network)]
    assert kinds == [["conv", "relu", "max_pool"], ["relu"], ["flatten"], ["dense", "relu"], ["relu"], ["dense"]]


def bound(network, batch, block=64, rule="momentum", decay_all=False, rates=()):
    """A context on a store of its own, the store, and random data."""
    optimizer = make_optimizer(rule, {"weight_decay": 1e-3, "momentum": 0.9})
    store = ParameterStore.create(Layout.of(network.parameters), optimizer.states)
    store.load(initial_weights(network, 1))
    context = TrainingContext(network, store.tensors, batch, choices=KernelChoices(block))
    generator = np.random.default_rng(0)
    images = generator.standard_normal((batch, *network.input_shape), dtype=np.float32)
    labels = generator.integers(network.classes, size=batch, dtype=np.int32)
    numbers = UpdateNumbers(optimizer)
    numbers.set_rate(0.05)
    updates = bind_updates(optimizer, store, context, numbers.array, shares_of(network.parameters, decay_all, rates))
    return store, context, images, labels, numbers.array, updates


def test_the_block_changes_nothing_but_rounding():
    network = load_network("mnist", (28, 28, 1), 10)
    gradients, losses = [], []
    for block in (1, 3, 8):
        store, context, images, labels, _, _ = bound(network, 8, block)
        program = context.program(images, labels)
        program.run_forward()
        program.run_backward()
        gradients.append(context.gradient.copy())
        losses.append(program.totals[0])
        store.close()
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
    for gradient in gradients[1:]:
        np.testing.assert_allclose(gradient, gradients[0], atol=1e-5)


def test_a_step_allocates_nothing():
    store, context, images, labels, _, updates = bound(load_network("mnist", (28, 28, 1), 10), 8)
    program = context.program(images, labels)

    def step():
        program.run_forward()
        program.run_backward()
        for update in updates:
            update()

    for _ in range(3):
        step()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    for _ in range(20):
        step()
    after, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    store.close()
    assert after - before < 1000
    assert peak - before < 4000


@pytest.mark.parametrize("batch", [1, 4, 9])
@pytest.mark.parametrize("between", [[Dense(40), ReLU()], [Dense(40), Tanh()], [Dense(40), ReLU(), Dropout(0.5)]])
@pytest.mark.parametrize("rates", [(), (("dense1", 0.0), ("dense2.weight", 0.5))])
def test_direct_updates_equal_plain_ones(batch, between, rates):
    network = build([Conv(5, 3), MaxPool(2), ReLU(), Flatten(), *between, Dense(80)])
    results = []
    for rule in ("sgd", "w - lr * (g + weight_decay * w)"):
        store, context, images, labels, _, updates = bound(network, batch, rule=rule, decay_all=True, rates=rates)
        program = context.program(images, labels)
        for _ in range(3):
            program.run_forward()
            program.run_backward()
            for update in updates:
                update()
        results.append(store.weights.copy())
        store.close()
    np.testing.assert_allclose(results[0], results[1], atol=2e-6)
    if rates:
        kept = initial_weights(network, 1)["dense1.weight"]
        np.testing.assert_array_equal(context.layout.views(results[0])["dense1.weight"], kept)


def test_evaluation_ignores_dropout_and_training_follows_its_key():
    network = build([Flatten(), Dense(30), Dropout(0.5)])
    store, context, images, labels, _, _ = bound(network, 6)
    still = context.program(images, labels, training=False)
    moving = context.program(images, labels)
    losses = []
    for key in (1, 2, 1):
        context.set_dropout_key(key)
        still.run_forward()
        losses.append(still.totals[0])
        moving.run_forward()
        losses.append(moving.totals[0])
    store.close()
    assert losses[0] == losses[2] == losses[4]
    assert losses[1] == losses[5] != losses[3]


def test_smaller_batches_share_the_buffers():
    network = build([Conv(3, 2), ReLU(), Flatten()])
    store, context, images, labels, _, _ = bound(network, 6, block=4)
    whole = context.program(images, labels)
    whole.run_forward()
    scores = whole.scores.copy()
    part = context.program(images[:5], labels[:5])
    part.run_forward()
    part.run_backward()
    np.testing.assert_allclose(part.scores, scores[:5], rtol=1e-5)
    assert context.nbytes > 0
    store.close()


def test_blocks_fit_the_cache():
    assert 1 <= likely_choices(load_network("lenet", (28, 28, 1), 10)).block <= 64
    assert likely_choices(load_network("alexnet", (224, 224, 3), 1000)).block <= 2


@pytest.mark.parametrize("way", ["flipped", "scattered", "sparse"])
@pytest.mark.parametrize("block", [1, 2, 5])
def test_gradients_of_all_ways_back_through_a_convolution(way, block):
    layers = [Conv(3, 2), Conv(20, 3, padding=1), ReLU(), Conv(4, 3, padding=2), MaxPool(2), ReLU(), Conv(2, 2)]
    layers.append(Flatten())
    choices = KernelChoices(block, dict.fromkeys(("conv2", "conv3", "conv4"), way))
    assert gradient_error(build(layers), 4, images=5, choices=choices) < 1e-6


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("mixed", [0.3, 0.8])
def test_gradients_of_mixed_labels(mixed, smoothing):
    network = build([Conv(3, 2), ReLU(), MaxPool(2), Flatten(), Dense(5)])
    assert gradient_error(network, 4, images=5, smoothing=smoothing, mixed=mixed) < 1e-6


@pytest.mark.parametrize("flattens", [1, 2, 3])
def test_leading_flat_layers_only_reshape_the_images(flattens):
    def scores_and_gradient(count):
        network = build([*[Flatten()] * count, Dense(5), ReLU()])
        weights = dict(zip(network.parameters, initial_weights(network, 1).values(), strict=True))
        context = TrainingContext(network, weights, 4)
        images = np.random.default_rng(0).standard_normal((4, 9, 8, 2), dtype=np.float32)
        program = context.program(images, np.array([0, 1, 2, 0], np.int32))
        for _ in range(2):
            program.run_forward()
            program.run_backward()
        return program.scores.copy(), context.gradient.copy()

    for one, many in zip(scores_and_gradient(1), scores_and_gradient(flattens), strict=True):
        np.testing.assert_array_equal(one, many)


@pytest.mark.parametrize("way", ["scattered", "sparse", "flipped"])
def test_the_bytes_of_a_context_are_those_it_takes(way):
    network = build([Conv(6, 3), Conv(8, 5), MaxPool(2), ReLU(), Flatten()], (48, 48, 3))
    choices = KernelChoices(4, {"conv1": "tiled", "conv2": way})
    weights = initial_weights(network, 1)
    TrainingContext(network, weights, 8, choices=choices)  # what is made once for all
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        context = TrainingContext(network, weights, 8, choices=choices)
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert context.nbytes == pytest.approx(taken, rel=0.02)


def test_labels_are_smoothed_in_training_alone():
    network = build([Flatten(), Dense(5)])
    weights = initial_weights(network, 1)
    images = np.random.default_rng(0).standard_normal((4, *network.input_shape), dtype=np.float32)
    labels = np.zeros(4, np.int32)
    losses = {}
    for smoothing in (0.0, 0.4):
        context = TrainingContext(network, weights, 4, smoothing=smoothing)
        for training in (False, True):
            program = context.program(images, labels, training)
            program.run_forward()
            losses[smoothing, training] = program.totals[0]
    assert losses[0.0, True] == losses[0.0, False] == losses[0.4, False]
    logarithms = program.scores - np.log(np.exp(program.scores).sum(axis=1, keepdims=True))
    smoothed = -(0.6 * logarithms[:, 0] + 0.4 * logarithms.mean(axis=1)).sum()
    assert losses[0.4, True] == pytest.approx(smoothed, rel=1e-5)


def test_each_run_reads_how_labels_are_mixed():
    network = build([Flatten(), Dense(5)])
    images = np.random.default_rng(0).standard_normal((4, *network.input_shape), dtype=np.float32)
    labels, mixed = np.array([0, 1, 2, 0], np.int32), np.zeros(1)
    context = TrainingContext(network, initial_weights(network, 1), 4)
    program = context.program(images, labels, mixed=mixed)
    plain = context.program(images, labels)
    for share in (0.0, 0.25, 1.0):
        mixed[0] = share
        program.run_forward()
        logarithms = program.scores - np.log(np.exp(program.scores).sum(axis=1, keepdims=True))
        own, other = logarithms[range(4), labels], logarithms[range(4), labels[::-1]]
        assert program.totals[0] == pytest.approx(-((1 - share) * own + share * other).sum(), rel=1e-5)
    plain.run_forward()
    assert plain.totals[0] == pytest.approx(-own.sum(), rel=1e-5)

from __future__ import annotations

import numpy as np
import pytest

from adam_mp.compute.clipping import Clip
from adam_mp.compute.context import TrainingContext
from adam_mp.compute.optimizer import CONSTANTS, UpdateNumbers, make_optimizer
from adam_mp.compute.part_storage import PartStorage
from adam_mp.compute.part_updates import PartUpdate, segments_of
from adam_mp.compute.shares import shares_of, stretches_of
from adam_mp.compute.updates import bind_updates
from adam_mp.memory.layout import Layout
from adam_mp.memory.store import ParameterStore
from adam_mp.network.cuts import plan_partitions
from adam_mp.network.initialization import initial_weights
from adam_mp.network.network import Network
from adam_mp.network.zoo import ZOO
from tests.compute.graphs import data_for
from tests.compute.partitions import LoopMail

STEPS, BATCH = 4, 6
VALUES = {"weight_decay": 0.01, "momentum": 0.9, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}


def batches(network):
    images, labels = data_for(network, STEPS * BATCH)
    return [(images[k::STEPS].astype(np.float32), labels[k::STEPS].copy()) for k in range(STEPS)]


def train_whole(network, optimizer, shares, clip_norm):
    store = ParameterStore.create(Layout.of(network.parameters), optimizer.states, own_names=optimizer.own_states)
    store.load(initial_weights(network, 1))
    context = TrainingContext(network, store.tensors, BATCH)
    numbers = UpdateNumbers(optimizer)
    clip = Clip(clip_norm, context.gradient, stretches_of(store.layout, shares)) if clip_norm else None
    updates = bind_updates(optimizer, store, context, numbers.array, shares, clip)
    for step, (images, labels) in enumerate(batches(network)):
        numbers.set_rate(0.1)
        numbers.set_step(step + 1)
        program = context.program(images, labels)
        program.run_forward()
        program.run_backward()
        for update in updates:
            update()
    found = {name: tensor.copy() for name, tensor in store.tensors.items()}
    store.close()
    return found


def _layout(network):
    return TrainingContext(
        network, initial_weights(network, 1, np.zeros((2, *network.input_shape), np.float32)), 1
    ).layout


def train_parts(network, optimizer, shares, clip_norm, parts, cut, apart):
    storage = PartStorage(plan_partitions(network, parts, cut))
    store = ParameterStore.create(storage.layout, optimizer.states, own_names=optimizer.own_states)
    first = initial_weights(network, 1)
    for name, tensor in storage.whole_views(store.weights).items():
        tensor[...] = first[name]
    stores = [store] * parts
    if apart:
        layouts = [storage.part_layout(part) for part in range(parts)]
        stores = [ParameterStore.create(layout, optimizer.states, own_names=optimizer.own_states) for layout in layouts]
        for part, own in enumerate(stores):
            own.load(storage.part_views(store.weights, part))
    mail, numbers = LoopMail(BATCH, np.float32), UpdateNumbers(optimizer)
    contexts, updates = [], []
    for part, graph in enumerate(storage.plan.graphs):
        weights = stores[part].tensors if apart else storage.part_views(store.weights, part)
        layout = storage.part_layout(part)
        contexts.append(TrainingContext(graph, weights, BATCH, mail=mail, layout=layout))
        bound = (storage, part, optimizer, stores[part], contexts[-1], numbers.array, shares, mail, clip_norm)
        updates.append(PartUpdate(*bound, apart=apart))
    for step, (images, labels) in enumerate(batches(network)):
        numbers.set_rate(0.1)
        numbers.set_step(step + 1)
        mail.sent.clear()
        left = [
            [*forward, *backward, *update.segments()]
            for context, update in zip(contexts, updates, strict=True)
            for forward, backward in [segments_of(context.program(images, labels))]
        ]
        while any(left):
            ready = [each for each in left if each and all(mail.arrived(message) for message in each[0].messages)]
            assert ready, "no partition can go on"
            for function, arguments in ready[-1].pop(0).calls:
                function(*arguments)
    if apart:
        for part, own in enumerate(stores):
            np.testing.assert_array_equal(own.weights[: storage.shared_size], stores[0].weights[: storage.shared_size])
            for name, tensor in storage.part_views(store.weights, part).items():
                tensor[...] = own.tensors[name]
    found = {name: tensor.copy() for name, tensor in storage.whole_views(store.weights).items()}
    for each in {id(each): each for each in (store, *stores)}.values():
        each.close()
    return found


@pytest.mark.parametrize("cut", ["auto", "rows", "channels", "dense*=none"])
@pytest.mark.parametrize(("rule", "clip_norm"), [("sgd", 0.0), ("sgd", 0.05), ("momentum", 0.0), ("adam", 0.5)])
@pytest.mark.parametrize("parts", [2, 3])
@pytest.mark.parametrize("apart", [False, True])
def test_parts_train_as_the_whole_does(apart, parts, rule, clip_norm, cut):
    network = Network.build(ZOO["lenet"]((28, 28, 1), 10), (28, 28, 1), 10)
    optimizer = make_optimizer(rule, {name: VALUES[name] for name in CONSTANTS})
    shares = shares_of(network.parameters, False, [("conv1", 0.0), ("dense1.weight", 0.5)])
    whole = train_whole(network, optimizer, shares, clip_norm)
    found = train_parts(network, optimizer, shares, clip_norm, parts, cut, apart)
    first = initial_weights(network, 1)
    for name, tensor in whole.items():
        moved = np.abs(tensor - first[name]).max()
        assert (moved == 0) == name.startswith("conv1")
        limit = 2e-3 if rule == "adam" else 1e-5  # adam divides by roots of tiny squares
        assert np.abs(found[name] - tensor).max() <= limit * max(moved, 1e-3), name


def test_residual_networks_with_norms_train_as_the_whole_does():
    network = Network.build(ZOO["resnet20"]((16, 16, 3), 4), (16, 16, 3), 4)
    optimizer = make_optimizer("nesterov", {name: VALUES[name] for name in CONSTANTS})
    shares = shares_of(network.parameters, False)
    whole = train_whole(network, optimizer, shares, 0.0)
    found = train_parts(network, optimizer, shares, 0.0, 2, "auto", apart=True)
    apart = max(np.abs(found[name] - tensor).max() for name, tensor in whole.items())
    assert apart < 2e-3

"""The choice between deltas and activations, layer by layer."""

from __future__ import annotations

import pytest

from adam_mp.errors import SettingsError
from adam_mp.memory.layout import Layout
from adam_mp.network import Conv, Dense, Flatten, MaxPool, Network, ReLU, Softmax
from adam_mp.params.replica.protocols import choose_protocols, factor_tensors
from adam_mp.transport.messages import LONGEST


def network(units):
    return Network.build([Conv(8, 3), MaxPool(2), ReLU(), Flatten(), Dense(units), ReLU(), Dense(), Softmax()],
                         (28, 28, 1), 10)  # fmt: skip


def test_the_cheaper_protocol_is_chosen_for_each_layer():
    big = network(4096)
    chosen = {each.layer: each for each in choose_protocols(big, 64, 1, "auto", True)}
    assert {name: each.protocol for name, each in chosen.items()} == {
        "conv1": "deltas", "dense1": "activations", "dense2": "deltas"
    }  # fmt: skip
    inputs = 13 * 13 * 8
    assert chosen["dense1"].activations_bytes == 4 * 64 * (inputs + 4096) + 4 * inputs * 4096 + 8 * 4096
    assert chosen["dense1"].deltas_bytes == 8 * (inputs * 4096 + 4096)
    assert all(each.protocol == "deltas" for each in choose_protocols(big, 2000, 1, "auto", True))
    layout = Layout.of(big.parameters)
    forced = choose_protocols(big, 2000, 1, "activations", True)
    assert [layout.tensors[index].name for index in factor_tensors(layout, forced)] == [
        "dense1.weight",
        "dense2.weight",
    ]
    assert factor_tensors(layout, choose_protocols(big, 64, 1, "deltas", True)) == ()
    assert factor_tensors(layout, choose_protocols(big, 64, 1, "auto", False)) == ()


def test_a_weight_with_a_rate_of_its_own_goes_as_deltas():
    chosen = choose_protocols(network(4096), 64, 1, "activations", True, apart={"dense1.weight"})
    assert {each.layer: each.protocol for each in chosen} == {
        "conv1": "deltas", "dense1": "deltas", "dense2": "activations"
    }  # fmt: skip


def test_activations_need_plain_descent():
    with pytest.raises(SettingsError, match="needs optimizer sgd"):
        choose_protocols(network(10), 64, 1, "activations", False)
    with pytest.raises(SettingsError, match="did you mean 'deltas'"):
        choose_protocols(network(10), 64, 1, "delta", True)


def test_activations_that_no_message_can_hold_are_not_chosen():
    wide = Network.build([Flatten(), Dense(20_000), ReLU(), Dense(), Softmax()], (90, 90, 3), 10)
    most = (LONGEST // 4 - 16) // (90 * 90 * 3 + 20_000)
    for images, protocol in ((most, "activations"), (most + 1, "deltas")):
        for wanted in ("auto", "activations"):
            assert choose_protocols(wide, images, 1, wanted, True)[0].protocol == protocol

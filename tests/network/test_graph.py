from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import pytest

import adam_mp
from adam_mp import (
    Add,
    Concat,
    Conv,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePool,
    GroupNorm,
    LayerNorm,
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
from adam_mp.errors import NetworkError
from adam_mp.network.description import load_network
from adam_mp.network.initialization import initial_weights
from adam_mp.network.layer import Layer
from adam_mp.network.layers import KINDS

END = [GlobalAveragePool(), Dense(), Softmax()]


def build(*layers, shape=(8, 8, 3), end=END):
    return Network.build([*layers, *end], shape, 4)


def wired(network):
    return [(node.name, node.inputs) for node in network.nodes]


def test_a_row_is_a_graph_in_which_each_layer_reads_the_one_before():
    network = Network.build([Conv(6, 3), ReLU(), Flatten(), Dense(), Softmax()], (9, 8, 3), 5)
    assert [node.layer for node in network.nodes] == list(network.layers)
    assert wired(network) == [
        ("conv1", ("input",)), ("relu1", ("conv1",)), ("flatten1", ("relu1",)), ("dense1", ("flatten1",)),
        ("softmax1", ("dense1",)),
    ]  # fmt: skip


def test_branches_begin_at_the_value_before_and_names_count_through_them():
    network = build(
        Conv(4, 3, padding="same"),
        Residual([Conv(8, 3, 2, "same"), ReLU(), Conv(8, 3, padding="same")], shortcut=[Conv(8, 1, 2)]),
        Concat([Conv(2, 1)], [MaxPool(1), Residual([ReLU()])], []),
    )
    assert wired(network)[:10] == [
        ("conv1", ("input",)), ("conv2", ("conv1",)), ("relu1", ("conv2",)), ("conv3", ("relu1",)),
        ("conv4", ("conv1",)), ("add1", ("conv3", "conv4")), ("conv5", ("add1",)), ("max_pool1", ("add1",)),
        ("relu2", ("max_pool1",)), ("add2", ("relu2", "max_pool1")),
    ]  # fmt: skip
    assert wired(network)[10] == ("concat1", ("conv5", "add2", "add1"))
    assert network.shape_of["concat1"] == (4, 4, 18)
    assert list(network.parameters)[:4] == ["conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"]
    assert network.parameters["conv4.weight"] == (4, 8)
    assert network.connections == sum(network.connection_counts)
    assert pickle.loads(pickle.dumps(network)) == network
    assert {name: array.shape for name, array in initial_weights(network, 1).items()} == network.parameters


def test_nodes_have_names_and_read_others_by_them():
    network = build(
        Node(Conv(4, 3, padding=1), "stem"),
        Node(Residual([Conv(4, 1)]), "block"),
        Node(Add(), "sum", ["block", "stem", "stem"]),
        Node(Concat([], [Node(MaxPool(1), "inner")]), inputs=["stem"]),
        Node(Concat(), "all", ["concat1", "sum"]),
    )
    assert wired(network)[:7] == [
        ("stem", ("input",)), ("conv2", ("stem",)), ("block", ("conv2", "stem")), ("sum", ("block", "stem", "stem")),
        ("inner", ("stem",)), ("concat1", ("stem", "inner")), ("all", ("concat1", "sum")),
    ]  # fmt: skip
    assert network.parameters["stem.weight"] == (27, 4)
    assert network.readers["stem"] == (1, 2, 3, 3, 4, 5)


def test_dense_layers_without_units_get_them_in_branches_too():
    network = build(
        Concat([Flatten(), Dense()], [Flatten(), Residual([Node(Dense(192), "d")])]), end=[Dense(), Softmax()]
    )
    assert network.shape_of["dense1"] == (4,)
    assert network.classes == 4


def test_features_need_no_flatten():
    network = Network.build([ReLU(), Dense(5), Residual([Dense(5, bias=False)]), Dense(), Softmax()], (1, 1, 30), 3)
    assert network.parameters["dense1.weight"] == (30, 5)
    assert "dense2.bias" not in network.parameters
    assert network.parameter_count == 30 * 5 + 5 + 25 + 5 * 3 + 3
    with pytest.raises(NetworkError, match=r"takes flat values, but gets \(1, 2, 30\)"):
        Network.build([Dense(5), Softmax()], (1, 2, 30), 5)


@pytest.mark.parametrize(("side", "size", "stride"), [(7, 3, 1), (8, 5, 2), (7, 1, 3), (9, 7, 4)])
def test_same_padding_keeps_the_size_or_its_share(side, size, stride):
    assert Conv(2, size, stride, "same").output_shape((side, side + 1, 3)) == (
        -(-side // stride), -(-(side + 1) // stride), 2
    )  # fmt: skip


def test_values_before_which_nothing_is_trained_and_the_flat_tail():
    network = build(MaxPool(2), Concat([Conv(2, 1)], []), ReLU(), end=[GlobalAveragePool(), ReLU(), Dense(), Softmax()])
    assert "max_pool1" not in network.trained_values
    assert {"concat1", "conv1", "softmax1"} <= network.trained_values
    assert network.tail == {"relu2", "dense1", "softmax1"}


def test_only_the_weights_right_before_the_softmax_are_small():
    network = Network.build([Flatten(), Dense(400), ReLU(), Residual([Dense(400)]), Dense(), Softmax()], (9, 9, 1), 300)
    first = initial_weights(network, 1)
    for name, share in (("dense2.weight", 1.0), ("dense3.weight", 0.1)):
        assert np.var(first[name]) == pytest.approx(share / 400, rel=0.1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: build(Residual([Conv(5, 1)])), "add1 adds conv1 of shape (8, 8, 5) and input of shape (8, 8, 3); ex"),
        (lambda: build(Concat([Conv(5, 3)], [])), "concat1 puts conv1 of shape (6, 6, 5) and input of shape (8, 8, 3)"),
        (lambda: build(Residual([Conv(3, 9)])), "conv1 (Conv(channels=3, size=9,"),
        (lambda: build(Node(Conv(3, 1), inputs=["conv2"]), Conv(3, 1)), "conv1 reads conv2 reads conv1: a cycle; exp"),
        (lambda: build(Node(ReLU(), "a", ["a"])), "a reads a: a cycle"),
        (lambda: build(Node(Add(), "a", ["input", "b"]), Node(ReLU(), "b", ["a"])), "a reads b reads a: a cycle"),
        (lambda: build(ReLU(), Node(Add(), "a", ["input", "b"]), Node(ReLU(), "b", ["relu1"])),
         "a reads b, which stands behind it; put b before a"),
        (lambda: build(ReLU(), Node(ReLU(), inputs=["relu99"])), "layer 2 (relu2) reads 'relu99', but no layer"),
        (lambda: build(ReLU(), Node(ReLU(), inputs=["rel1"])), "did you mean 'relu1'"),
        (lambda: build(Node(ReLU(), "a"), Residual([Node(Conv(3, 1), "a")])),
         "layer 1 and layer 2, inner layer 1 are both named 'a'; give one of them another name"),
        (lambda: build(Node(ReLU(), "conv1"), Conv(3, 1)), "layer 1 and layer 2 (by its number) are both named '"),
        (lambda: build(Node(ReLU(), "input")), "layer 1 (relu) is named 'input', as the images are"),
        (lambda: build(Node(ReLU(), "a.b")), "layer 1 (relu): 'a.b' is no name; expected a letter, then"),
        (lambda: build(Node(ReLU(), 3)), "layer 1 (relu): 3 is no name"),
        (lambda: build(Node(ReLU(), inputs=["input", "input"])), "layer 1 (relu) has 2 inputs; expected 1"),
        (lambda: build(Node(ReLU(), inputs="input")), "relu: inputs is 'input'; expected a list of names"),
        (lambda: build(Node(Residual([ReLU()]), inputs=[])), "layer 1 (residual) has 0 inputs; expected 1"),
        (lambda: build(ReLU(), Node(Conv(3, 1), inputs=["input"])), "no layer reads relu1 (relu); remove it, or"),
        (lambda: build(Add()), "layer 1 (add) has neither branches nor two inputs; write Add([...], [...])"),
        (lambda: build(Residual([Concat()])), "layer 1, inner layer 1 (concat) has neither branches nor two inputs"),
        (lambda: build(Add([ReLU()])), "add has one branch; expected at least two"),
        (lambda: build(Residual(Conv(3, 3))), "residual: layers is a Conv; expected a list of layers"),
        (lambda: build(Residual([ReLU()], ReLU())), "residual: shortcut is a ReLU; expected a list"),
        (lambda: build(Residual([])), "residual has no layers"),
        (lambda: build(Concat(ReLU(), [])), "concat: branch 1 is a ReLU; expected a list of layers"),
        (lambda: build(Concat([], [ReLU])), "layer 1, branch 2 layer 1 is the class ReLU; expected a layer: write"),
        (lambda: build(Residual([Conv(3, 1)], ["relu"])), "layer 1, shortcut layer 1 is 'relu'; expected a layer"),
        (lambda: build(Residual([Softmax()])), "softmax1"),
        (lambda: build(Node("relu")), "node: layer is 'relu'; expected a layer"),
        (lambda: Concat(axis=1), "concat has no setting 'axis'"),
        (lambda: Conv(3, 2, padding="same"), "conv: padding is 'same' with size 2; expected an odd size"),
        (lambda: MaxPool(3, padding=2), "max_pool: padding is 2 with size 3; expected at most half the size"),
        (lambda: MaxPool(2, padding="same"), "max_pool: padding is 'same' with size 2; expected an odd size"),
        (lambda: Conv(3, 3, padding="valid"), "conv: padding is 'valid'; expected a whole number of at least 0, or"),
        (lambda: Conv(3, 3, bias=1), "conv: bias is 1; expected true or false"),
        (lambda: Dense(3, "no"), "dense: bias is 'no'; expected true or false"),
        (lambda: Conv(8, 3, groups=3), "conv: channels is 8 and groups is 3; expected a multiple of groups"),
        (lambda: build(Conv(8, 3, groups=2)), "cannot divide 3 channels into 2 groups of one size"),
        (lambda: Conv(8, 3, dilation=0), "conv: dilation is 0; expected a whole number of at least 1"),
        (lambda: build(Conv(8, 3, dilation=4)), "its 9x9 window does not fit into 8x8 pixels"),
        (lambda: build(Conv(8, 2, padding="same", dilation=2)), "padding is 'same' with size 2; expected an odd size"),
        (lambda: build(Multiply([], [], [])), "multiply1 multiplies 3 values; expected two"),
        (lambda: build(Multiply([], [Conv(3, 2)])), "input of shape (8, 8, 3) and conv1 of shape (7, 7, 3); expected"),
        (lambda: build(Multiply([GlobalAveragePool()], [])), "expected a second one of shape (3,)"),
        (lambda: build(SqueezeExcite(9, 2)), "multiply1 multiplies input of shape (8, 8, 3) and sigmoid1 of shape (9,"),
        (lambda: SqueezeExcite(3, 0), "squeeze_excite: units is 0; expected a whole number of at least 1"),
        (lambda: StochasticDepth(1.0), "stochastic_depth: rate is 1.0; expected a number from 0 up to"),
        (lambda: Dropout(True), "dropout: rate is True; expected a number from 0 up to"),
    ],
)  # fmt: skip
def test_graphs_that_cannot_be(make, words):
    with pytest.raises(NetworkError) as caught:
        make()
    assert words in str(caught.value)


def test_layers_in_layers_without_end_are_refused():
    deep: Layer = ReLU()
    for _ in range(500):
        deep = Residual([deep])
    with pytest.raises(NetworkError, match="holds layers in layers more than 32 deep"):
        build(deep)


def blocks(language):
    """The code on the page about networks."""
    page = (Path(adam_mp.__file__).parent.parent / "docs" / "networks.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


@pytest.mark.parametrize("code", blocks("python"))
def test_the_python_on_the_page_of_networks(code, monkeypatch):
    trained = []
    monkeypatch.setattr(adam_mp, "train", lambda layers, data: trained.append(layers), raising=False)
    names = {"adam_mp": adam_mp, **{name: getattr(adam_mp, name) for name in adam_mp.__all__}}
    exec(code, names)  # it is ours
    network = Network.build(names["layers"], (32, 32, 3), 10)
    assert len(network.nodes) == (22 if trained else len(names["layers"]))


@pytest.mark.parametrize("text", blocks("toml"))
def test_the_toml_on_the_page_of_networks(text, tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(text + "".join(f'[[layers]]\ntype = "{kind}"\n' for kind in ("flatten", "dense", "softmax")))
    assert load_network(str(path), (32, 32, 3), 10).parameter_count > 100


def test_the_page_of_networks_has_every_kind():
    page = (Path(adam_mp.__file__).parent.parent / "docs" / "networks.md").read_text()
    for kind, layer in KINDS.items():
        assert f"`{kind}`" in page
        assert f"`{layer.__name__}`" in page


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([Flatten(), Dense(8), GroupNorm(8)], r"group_norm1 .*8 groups of one value, whose variance is 0"),
        ([LayerNorm()], r"layer_norm1 .*there is one channel"),
        ([Conv(6, 3), GroupNorm(groups=4)], r"group_norm1 .*cannot divide 6 channels into 4 groups"),
        ([lambda: GroupNorm(epsilon=0)], r"group_norm: epsilon is 0; expected a positive number"),
        ([lambda: GroupNorm(groups=0)], r"group_norm: groups is 0; expected a whole number of at least 1"),
        ([lambda: LayerNorm("a")], r"layer_norm: epsilon is 'a'; expected a positive number"),
    ],
)
def test_norms_that_cannot_be(layers, words):
    with pytest.raises(NetworkError, match=words):
        Network.build([*(each() if callable(each) else each for each in layers), *END], (8, 8, 1), 3)

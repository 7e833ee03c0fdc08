from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp import (
    Add,
    Concat,
    Dense,
    Flatten,
    GlobalAveragePool,
    Multiply,
    Network,
    Node,
    Residual,
    Softmax,
    SqueezeExcite,
    StochasticDepth,
)
from adam_mp.errors import NetworkError
from adam_mp.network.description import from_json, layer_from_dict, load_network, read_toml, to_json
from adam_mp.network.layers import KINDS, AveragePool, Conv, Dropout, LocalResponseNorm, MaxPool, ReLU, Sigmoid, Tanh
from adam_mp.network.tables import table_of

SIZES = st.integers(1, 3)
LAYERS = st.one_of(
    st.builds(Conv, st.integers(1, 5), SIZES, SIZES, st.integers(0, 2)),
    st.builds(MaxPool, SIZES, st.none() | SIZES),
    st.builds(AveragePool, SIZES, st.none() | SIZES),
    st.builds(Dropout, st.floats(0, 0.9)),
    st.builds(LocalResponseNorm, st.integers(1, 5), st.floats(1e-4, 1), st.floats(0.1, 1), st.floats(0.5, 3)),
    st.builds(StochasticDepth, st.floats(0, 0.9)),
    st.builds(SqueezeExcite, SIZES, SIZES),
    st.sampled_from([ReLU(), Sigmoid(), Tanh(), Conv(6, 3, groups=3), Conv(6, 3, dilation=2)]),
)


@st.composite
def named(draw, parts):
    """A part as it is, or with a name or inputs of its own."""
    part = draw(parts)
    name, inputs = draw(st.sampled_from([None, "a", "b-1"])), draw(st.sampled_from([None, ("input",)]))
    return part if name is None and inputs is None else Node(part, name, inputs)


PARTS = st.recursive(
    LAYERS,
    lambda parts: st.one_of(
        st.builds(Residual, st.lists(named(parts), min_size=1, max_size=3), st.lists(parts, max_size=2)),
        st.lists(st.lists(parts, max_size=2), min_size=2, max_size=3).map(lambda branches: Concat(*branches)),
        st.lists(st.lists(parts, max_size=2), min_size=2, max_size=3).map(lambda branches: Add(*branches)),
        st.lists(st.lists(parts, max_size=2), min_size=2, max_size=2).map(lambda branches: Multiply(*branches)),
    ),
    max_leaves=8,
)


@given(named(PARTS))
def test_parts_and_their_tables(part):
    table = json.loads(json.dumps(table_of(part)))
    assert layer_from_dict(table, 1) == part


@given(st.lists(LAYERS, max_size=4))
def test_json_and_tables_round_trip(layers):
    try:
        network = Network.build([*layers, Flatten(), Dense(), Softmax()], (20, 20, 2), 3, "någon")
    except NetworkError:
        return  # shrunk to nothing
    assert from_json(to_json(network)) == network
    for layer in network.layers:
        assert layer_from_dict({"type": layer.kind, **dataclasses.asdict(layer)}, 1) == layer


def test_every_kind_is_in_the_table():
    assert all(kind == layer.kind for kind, layer in KINDS.items())


def test_toml(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(
        'name = "own"\n[[layers]]\ntype = "flatten"\n[[layers]]\ntype = "dense"\n[[layers]]\ntype = "softmax"\n'
    )
    assert read_toml(path) == ([Flatten(), Dense(), Softmax()], "own")
    network = load_network(str(path), (4, 4, 1), 3)
    assert network.name == "own"
    assert network.layers[1] == Dense(3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('layers = [{type = "residual"}]', "lacks layers"),
        ('layers = [{type = "residual", layers = 3}]', "layer 1: residual: layers is 3; expected a list of layers"),
        (
            'layers = [{type = "residual", layers = [{type = "cov"}]}]',
            "layer 1, inner layer 1: unknown type 'cov'; did",
        ),
        ('layers = [{type = "concat", branches = [[{type = "relu"}], 3]}]', "layer 1: concat: branch 2 is 3"),
        ('layers = [{type = "concat", branches = {}}]', "expected a list of lists of layers"),
        ('layers = [{type = "relu", name = 3}]', "layer 1: name is 3; expected text"),
        ('layers = [{type = "relu", inputs = "input"}]', "layer 1: relu: inputs is 'input'; expected a list of names"),
        ('layers = [{type = "batch_norn"}]', "unknown type 'batch_norn'; did you mean 'batch_norm'"),
        ('layers = [{type = "GlobalAvgPool2d"}]', "did you mean 'global_average_pool'"),
        ("layers = 3", "no \\[\\[layers\\]\\]"),
        ("name = 'x'", "no \\[\\[layers\\]\\]"),
        ("layer = []", "did you mean 'layers'"),
        ("[[layers]]\nsize = 3", "layer 1 has no type"),
        ('[[layers]]\ntype = "maxpool"\nsize = 3', "did you mean 'max_pool'"),
        ('[[layers]]\ntype = "conv"\nchannels = 3', "lacks size"),
        ('[[layers]]\ntype = "conv"\nchannels = "3"\nsize = 2', "channels is '3'"),
        ('[[layers]]\ntype = "dense"\nunit = 3', "did you mean 'units'"),
        ("][", "is not TOML"),
    ],
)
def test_toml_that_is_wrong(tmp_path, text, message):
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(NetworkError, match=message) as caught:
        read_toml(path)
    assert str(path) in str(caught.value)


def test_functions(tmp_path, monkeypatch):
    (tmp_path / "makers.py").write_text(
        "import adam_mp\n"
        "def good(shape, classes):\n    return [adam_mp.Flatten(), adam_mp.Dense(), adam_mp.Softmax()]\n"
        "def network(shape, classes):\n    return adam_mp.Network.build(good(shape, classes), shape, classes)\n"
        "def nothing(shape, classes):\n    return None\n"
        "def broken(shape, classes):\n    return 1 / 0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert load_network("makers:good", (4, 4, 1), 3).classes == 3
    assert load_network("makers:network", (4, 4, 1), 3).classes == 3
    for text, message in (
        ("makers:god", "did you mean 'good'"),
        ("makers:nothing", "expected it to return layers"),
        ("makers:broken", "ZeroDivisionError"),
        ("no_such_module:good", "cannot import"),
        ("lenett", "did you mean 'lenet'"),
    ):
        with pytest.raises(NetworkError, match=message):
            load_network(text, (4, 4, 1), 3)


def test_only_what_a_module_has_for_use_is_named(tmp_path, monkeypatch):
    own = "".join(f"def own{number:02d}(shape, classes):\n    return []\n" for number in range(12))
    (tmp_path / "many.py").write_text(f"import os\nfrom pathlib import Path\nSIZE = 3\ndef _hidden(): pass\n{own}")
    (tmp_path / "without.py").write_text("from pathlib import Path\nnothing = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    known = ", ".join(f"own{number:02d}" for number in range(10))
    for text, message in (
        ("many:xyz", f"module 'many' has no function 'xyz'; known: {known} and 2 more"),
        ("without:nothing", "module 'without' has no function 'nothing', nor any other"),
    ):
        with pytest.raises(NetworkError) as caught:
            load_network(text, (4, 4, 1), 3)
        assert str(caught.value) == message


def test_a_network_must_fit_the_data():
    network = Network.build([Flatten(), Dense(), Softmax()], (4, 4, 1), 3)
    assert load_network(network, (4, 4, 1), 3) is network
    with pytest.raises(NetworkError, match=r"and has 3 classes, but the data has"):
        load_network(network, (4, 4, 1), 4)


GRAPH = """
[[layers]]
type = "conv"
name = "stem"
channels = 8
size = 3
padding = "same"
[[layers]]
type = "residual"
layers = [
  {type = "conv", channels = 16, size = 3, stride = 2, padding = "same", bias = false},
  {type = "relu"},
]
shortcut = [{type = "conv", channels = 16, size = 1, stride = 2}]
[[layers]]
type = "concat"
name = "both"
branches = [[], [{type = "conv", channels = 4, size = 1}, {type = "relu"}]]
[[layers]]
type = "global_average_pool"
[[layers]]
type = "global_average_pool"
name = "early"
inputs = ["stem"]
[[layers]]
type = "concat"
inputs = ["early", "global_average_pool1"]
[[layers]]
type = "dense"
[[layers]]
type = "softmax"
"""


def test_toml_with_branches(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(GRAPH)
    network = load_network(str(path), (8, 8, 1), 3)
    assert network.layers == (
        Node(Conv(8, 3, padding="same"), "stem"),
        Residual([Conv(16, 3, 2, "same", bias=False), ReLU()], [Conv(16, 1, 2)]),
        Node(Concat([], [Conv(4, 1), ReLU()]), "both"),
        GlobalAveragePool(),
        Node(GlobalAveragePool(), "early", ("stem",)),
        Node(Concat(), inputs=("early", "global_average_pool1")),
        Dense(3),
        Softmax(),
    )
    assert from_json(to_json(network)) == network


def test_the_text_of_a_row_is_that_of_earlier_versions():
    """It stands in model files and checkpoints, and is part of the key of measured choices."""
    network = Network.build([Conv(2, 3), MaxPool(2), ReLU(), Flatten(), Dense(), Softmax()], (8, 8, 1), 3)
    assert to_json(network) == (
        '{"name": "network", "input_shape": [8, 8, 1], "layers": ['
        '{"type": "conv", "channels": 2, "size": 3, "stride": 1, "padding": 0}, '
        '{"type": "max_pool", "size": 2, "stride": null}, {"type": "relu"}, {"type": "flatten"}, '
        '{"type": "dense", "units": 3}, {"type": "softmax"}]}'
    )


def test_tables_in_tables_without_end_are_refused():
    table = {"type": "relu"}
    for _ in range(60):
        table = {"type": "residual", "layers": [table]}
    with pytest.raises(NetworkError, match="more than 32 deep"):
        layer_from_dict(table, 1)
    with pytest.raises(NetworkError, match="damaged network description"):
        from_json('{"layers": [' + '{"type": "residual", "layers": [' * 100_000)


@pytest.mark.parametrize("text", ["", "{}", '{"layers": 3}', '{"layers": [], "input_shape": [1], "name": "x"}', "[1]"])
def test_damaged_json(text):
    with pytest.raises(NetworkError):
        from_json(text)

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp import Dense, Flatten, Network, Softmax
from adam_mp.errors import NetworkError
from adam_mp.network.description import from_json, layer_from_dict, load_network, read_toml, to_json
from adam_mp.network.layers import KINDS, AveragePool, Conv, Dropout, LocalResponseNorm, MaxPool, ReLU, Sigmoid, Tanh

SIZES = st.integers(1, 3)
LAYERS = st.one_of(
    st.builds(Conv, st.integers(1, 5), SIZES, SIZES, st.integers(0, 2)),
    st.builds(MaxPool, SIZES, st.none() | SIZES),
    st.builds(AveragePool, SIZES, st.none() | SIZES),
    st.builds(Dropout, st.floats(0, 0.9)),
    st.builds(LocalResponseNorm, st.integers(1, 5), st.floats(1e-4, 1), st.floats(0.1, 1), st.floats(0.5, 3)),
    st.sampled_from([ReLU(), Sigmoid(), Tanh()]),
)


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


@pytest.mark.parametrize("text", ["", "{}", '{"layers": 3}', '{"layers": [], "input_shape": [1], "name": "x"}', "[1]"])
def test_damaged_json(text):
    with pytest.raises(NetworkError):
        from_json(text)

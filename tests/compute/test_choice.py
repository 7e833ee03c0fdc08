from __future__ import annotations

import json

import pytest

from adam_mp import Concat, Conv, Dense, Flatten, GlobalAveragePool, Network, Node, ReLU, Residual, Softmax
from adam_mp.compute import choice, measurement
from adam_mp.compute.choice import KernelChoices
from adam_mp.kernels import compilation
from adam_mp.network.layers import AveragePool


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(compilation, "cache_folder", lambda: tmp_path)
    return tmp_path


def network(filters=3):
    layers = [Conv(4, 3), Conv(filters, 3, padding=1), ReLU(), Conv(3, 2, 2), Flatten(), Dense(), Softmax()]
    return Network.build(layers, (9, 9, 2), 3)


def test_choices_are_measured_once(monkeypatch):
    monkeypatch.setattr(measurement, "_UNDISTURBED", 0.0)
    first = measurement.choose_kernels(network(), 8)
    assert 1 <= first.block <= 8
    assert first.ways_back["conv1"] == "tiled"
    assert first.ways_back["conv2"] in ("flipped", "scattered", "sparse")
    assert first.ways_back["conv3"] in ("scattered", "sparse")
    monkeypatch.setattr(measurement, "measure_choices", None)
    assert measurement.choose_kernels(network(), 8) == first
    for other in ((network(4), 8), (network(), 9)):
        with pytest.raises(TypeError):
            measurement.choose_kernels(*other)


@pytest.mark.parametrize(
    ("filters", "side", "cache", "block"),
    [
        (256, 4, 2 << 20, 2),  # 2.25 MB of weights are read for 32 pixels at least
        (256, 1, 2 << 20, 32),
        (256, 1, 4 << 20, 1),  # they stay in the cache
        (256, 8, 2 << 20, 1),  # one image has enough
        (128, 1, 2 << 20, 1),
    ],
)
def test_a_block_has_pixels_enough_for_weights_that_no_cache_holds(monkeypatch, filters, side, cache, block):
    monkeypatch.setattr(choice, "l2_bytes", lambda: cache)
    layers = [Conv(256, 1), ReLU(), AveragePool(64 // side), Conv(filters, 3, padding=1), Flatten(), Dense(), Softmax()]
    assert choice.likely_choices(Network.build(layers, (64, 64, 3), 3)).block == block


@pytest.mark.parametrize("text", ["", "[]", "{", '{"KEY": 3}', '{"KEY": {"block": 4}}'])
def test_a_damaged_file_only_means_measuring_again(folder, text):
    text = text.replace("KEY", choice._key(network(), 8))
    (folder / "choices.json").write_text(text)
    assert choice.read_choices(network(), 8) is None
    choice.keep_choices(network(), 8, KernelChoices(2, {"conv2": "flipped"}))
    assert choice.read_choices(network(), 8) == KernelChoices(2, {"conv2": "flipped"})


def test_a_folder_that_cannot_be_written_is_no_failure(monkeypatch, tmp_path):
    monkeypatch.setattr(compilation, "cache_folder", lambda: tmp_path / "missing")
    choice.keep_choices(network(), 8, KernelChoices(2))
    assert choice.read_choices(network(), 8) is None


@pytest.mark.parametrize(("share", "kept"), [(1.0, True), (0.5, False)])
def test_what_was_measured_on_a_busy_core_is_not_kept(monkeypatch, folder, share, kept):
    clock, own = iter(range(100)), iter(range(100))
    monkeypatch.setattr(measurement, "measure_choices", lambda *_: KernelChoices(4, {"conv1": "tiled"}))
    monkeypatch.setattr(measurement.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(measurement.time, "thread_time", lambda: share * next(own))
    assert measurement.choose_kernels(network(), 31).block == 4
    assert (choice.read_choices(network(), 31) is not None) == kept


def test_a_busy_moment_meets_all_candidates(monkeypatch):
    """The first is the faster one, and the machine is busy for the time of its first turn."""
    spent, runs = [0.0], {"fast": 0, "slow": 0}

    def run(name):
        runs[name] += 1
        busy = name == "fast" and runs[name] <= 4  # one that does not count, and three
        spent[0] += 0.05 if busy else {"fast": 0.01, "slow": 0.02}[name]

    monkeypatch.setattr(measurement.time, "thread_time", lambda: spent[0])
    seconds = measurement._in_turns({name: lambda name=name: run(name) for name in runs})
    assert seconds == pytest.approx({"fast": 0.01, "slow": 0.02})


def test_choices_survive_json():
    choices = KernelChoices(5, {"conv2": "flipped"})
    assert KernelChoices.from_dict(json.loads(json.dumps(choices.as_dict()))) == choices


def test_a_network_without_convolutions_has_nothing_to_choose():
    flat = Network.build([Flatten(), Dense(5), Softmax()], (4, 4, 1), 5)
    assert measurement.measure_choices(flat, 7).ways_back == {}


def test_a_graph_is_measured_whole_up_to_its_flat_tail():
    """Several values leave the images, layers have names of their own, and two convolutions read the images."""
    layers = [
        Concat([Conv(4, 3, padding="same")], [Node(Conv(2, 1), "dense9")]),
        Node(Residual([Conv(6, 3, padding="same"), ReLU()]), "end0"),
        Node(Flatten(), "f"), Dense(7), Node(GlobalAveragePool(), "g", ["dense9"]),
        Node(Concat(), inputs=["dense1", "g"]),
    ]  # fmt: skip
    graph = Network.build([*layers, Dense(), Softmax()], (9, 9, 2), 3)
    part = measurement._image_part(graph)
    assert {name for name in part.names[:-1] if name in graph.names} == set(graph.names) - graph.tail
    chosen = measurement.measure_choices(graph, 6)
    assert list(chosen.ways_back) == ["conv1", "dense9", "conv3"]
    assert (chosen.ways_back["conv1"], chosen.ways_back["dense9"]) == ("tiled", "tiled")
    assert chosen.ways_back["conv3"] in ("flipped", "scattered", "sparse")
    assert 1 <= chosen.block <= 6

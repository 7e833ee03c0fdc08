"""One object says how images are read, and a model keeps it."""

from __future__ import annotations

import json

import numpy as np
import pytest

import adam_mp
from adam_mp.compute.model import Model, load
from adam_mp.compute.tensor_file import read_tensors, write_tensors
from adam_mp.data.reading.options import WHITE, LoadOptions
from adam_mp.errors import SettingsError
from adam_mp.network.description import load_network
from adam_mp.network.initialization import initial_weights

CHOSEN = LoadOptions(follow_links=True, pixel_limit=123, turned=False, white=4095.0)


def make_model(reading):
    network = load_network("mlp", (4, 4, 1), 2)
    return Model(network, initial_weights(network, 0), (0.0,), (1.0,), reading=reading)


def test_the_package_has_it():
    assert adam_mp.LoadOptions is LoadOptions


def test_a_model_keeps_it(tmp_path):
    make_model(CHOSEN.as_dict()).save(tmp_path / "a.safetensors")
    assert LoadOptions.kept(load(tmp_path / "a.safetensors").reading) == CHOSEN


def test_a_model_of_an_older_version_keeps_its_own_way(tmp_path):
    path = tmp_path / "a.safetensors"
    make_model(CHOSEN.as_dict()).save(path)
    tensors, metadata = read_tensors(path, "adam_mp.model.2")
    older = {name: value for name, value in metadata.items() if name not in ("reading", "checksum")}
    write_tensors(path, tensors, older)
    assert LoadOptions.kept(load(path).reading) == LoadOptions(turned=False, white=WHITE)
    assert json.loads(metadata["reading"]) == CHOSEN.as_dict()


@pytest.mark.parametrize("values", [{"pixel_limit": 0}, {"white": 0}, {"white": float("nan")}])
def test_impossible_values_are_refused(values):
    with pytest.raises(SettingsError, match="expected"):
        LoadOptions(**values)


def test_the_limit_of_bytes_leaves_room_for_notes():
    assert LoadOptions(pixel_limit=1).byte_limit > 50_000_000
    assert LoadOptions().byte_limit > 8 * 10**8
    assert np.isfinite(WHITE)

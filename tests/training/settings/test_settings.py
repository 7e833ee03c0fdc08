from __future__ import annotations

import enum
import math

import numpy as np
import pytest

from adam_mp.errors import SettingsError
from adam_mp.kernels.draw import TRANSFORMATIONS
from adam_mp.kernels.update import RULES
from adam_mp.training.settings.option import help_of
from adam_mp.training.settings.settings import FIELDS, TrainSettings, make_settings


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("epochs", [0, -1, 1.5, "3", True, None]),
        ("batch_size", [0, -3, 2.0]),
        ("cores", [0, -1, 1.5, 10**9]),
        ("data_servers", [0, "2"]),
        ("restarts", [-1]),
        ("seed", [-1, 0.5]),
        ("validation", [-0.1, 1, 1.5, "half", math.nan]),
        ("momentum", [1, -0.1, math.inf]),
        ("beta1", [1, -0.1, math.nan, "0.9", None]),
        ("beta2", [1, 1.5, -1e-9]),
        ("epsilon", [0, 1e-50, -1e-8, 2, math.inf]),
        ("weight_decay", [-1, 2]),
        ("clip_norm", [-1, math.inf, "1"]),
        ("label_smoothing", [-0.1, 1, "some"]),
        ("mixup", [-0.1, math.nan, math.inf, 1e4, "0.2", True]),
        ("cutmix", [-1, math.nan, math.inf, "some"]),
        ("decay_all", [1, "yes", None]),
        ("quorum", [0, 1.1]),
        ("target_accuracy", [0, 1.1, "all"]),
        ("checkpoint_seconds", [0, -5]),
        ("stall_seconds", [0]),
        ("lr", [0, -0.1, math.nan, math.inf, "0.1 * epok", "", "9 ** 9 ** 9 ** 9", "1 + " * 200 + "1"]),
        ("run_dir", [3, ""]),
        ("memory_dir", [3, ""]),
        ("resume", [3, ""]),
        ("augment", [3]),
        ("optimizer", [None]),
    ],
)
def test_impossible_values(name, values):
    for value in values:
        with pytest.raises(SettingsError, match="lr" if name == "lr" else name):
            TrainSettings(**{name: value})


def test_the_cache_may_be_a_number():
    for size in (0, 2_000_000_000, 1.5e9, "60%", "2GB"):
        assert TrainSettings(cache=size).cache == size


def test_numbers_of_numpy_are_numbers():
    settings = TrainSettings(epochs=np.int64(2), lr=np.float32(0.5))
    assert (type(settings.epochs), settings.lr) == (int, 0.5)


def test_every_setting_is_explained():
    for name, field in FIELDS.items():
        assert field.metadata["group"], name
        assert field.metadata["unit"] or field.type == "bool", name
        assert len(help_of(field)) > 10, name
    for rule in RULES:
        assert rule in help_of(FIELDS["optimizer"])
    assert "0.001 for adamw" in help_of(FIELDS["lr"])
    assert all(name in help_of(FIELDS["augment"]) for name in TRANSFORMATIONS)


def test_an_unknown_name_gets_a_proposal():
    with pytest.raises(SettingsError, match="did you mean 'epochs'"):
        make_settings({"epoch": 3})


def test_data_servers_may_be_left_to_the_machine():
    assert TrainSettings(data_servers="auto").data_servers is None
    with pytest.raises(SettingsError, match="data_servers is 'many'"):
        TrainSettings(data_servers="many")


def test_what_a_resumed_run_goes_on_without_may_be_given_as_text():
    given = {"join": "none", "data_from": "none", "servers": 0}
    made = TrainSettings(**given)
    assert (made.join, made.data_from, made.servers) == (None, None, None)
    with pytest.raises(SettingsError, match="servers is False"):
        TrainSettings(servers=False)


class Rule(str, enum.Enum):
    PLAIN = "sgd"


class Seed(enum.IntEnum):
    FIRST = 7


class Rate(float):
    pass


def test_values_of_a_users_own_class_become_plain():
    """Processes of a run cannot have classes that a script defines."""
    settings = TrainSettings(optimizer=Rule.PLAIN, seed=Seed.FIRST, lr=Rate(0.5), strict=True)
    for name, value in (("optimizer", "sgd"), ("seed", 7), ("lr", 0.5), ("strict", True)):
        assert getattr(settings, name) == value
        assert type(getattr(settings, name)) is type(value)


@pytest.mark.parametrize(("name", "example"), [("lr", "'0.1 * 0.9 ** epoch'"), ("optimizer", "'w - lr * g'")])
def test_in_place_of_a_function_a_formula_is_named(name, example):
    with pytest.raises(SettingsError) as caught:
        make_settings({name: lambda epoch: 0.1})
    assert str(caught.value).startswith(f"{name} is a function, which other processes cannot have; expected")
    assert str(caught.value).endswith(f"such as {example}")

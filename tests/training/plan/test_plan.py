"""What is found to be wrong before kernels are compiled, which takes a minute on a new machine."""

from __future__ import annotations

import numpy as np
import pytest

from adam_mp import BatchNorm, Conv, Dense, GlobalAveragePool, Softmax
from adam_mp.errors import AdamError, DataError, NetworkError, SettingsError
from adam_mp.training.plan import plan
from adam_mp.training.settings.settings import TrainSettings
from adam_mp.transport.keys import make_key_file
from tests.conftest import LAYERS, make_images

MEANS = [Conv(4, 3), BatchNorm(), GlobalAveragePool(), Dense(), Softmax()]


class CompilingError(Exception):
    """Kernels would be compiled now."""


@pytest.fixture(autouse=True)
def compiling(monkeypatch):
    def compile_kernels(*_):
        raise CompilingError

    monkeypatch.setattr(plan, "compile_kernels", compile_kernels)


def make(**settings):
    settings = {"model": list(LAYERS), "data": make_images(400, 1), "epochs": 3, **settings}
    return plan.make_plan(settings, lambda event: None)


@pytest.mark.parametrize("consistency", ["async", "sync"])
@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"lr": "1 / 0"}, SettingsError, "fails: division by zero"),
        ({"lr": "epoch / (epoch - 2)"}, SettingsError, r"in epoch 1 \(from 0\) is -1"),
        ({"data": "nowhere"}, DataError, "does not exist"),
        ({"mixup": 0.2, "batch_size": 1}, SettingsError, "mixup mixes the images of a batch .* has one image"),
        (
            {"cutmix": 1.0, "data": (np.zeros((50, 7), np.float32), np.arange(50) % 2), "model": [Dense(), Softmax()]},
            SettingsError,
            "the data are rows of 7 features",
        ),
        ({"model": "lenett"}, NetworkError, "did you mean 'lenet'"),
        (
            {"key_file": "key"},
            SettingsError,
            "give servers=N, join=HOST:PORT, --listen HOST:PORT or data_from=HOST:PORT too",
        ),
    ],
)
def test_mistakes_are_told_before_kernels_are_compiled(consistency, settings, kind, message):
    with pytest.raises(kind, match=message):
        make(consistency=consistency, **settings)


def test_a_rate_over_updates_is_checked_first_where_their_number_is_known():
    with pytest.raises(SettingsError, match=r"in epoch 0 \(from 0\), update 23 is -"):
        make(lr="1 - step / 20", consistency="async")
    with pytest.raises(CompilingError):  # how many workers there are hangs on a measurement
        make(lr="1 - step / 20", consistency="sync")


@pytest.mark.parametrize(
    ("settings", "rate"),
    [
        ({}, 0.07),
        ({"optimizer": "nesterov"}, 0.007),
        ({"optimizer": "w - lr * g"}, 0.07),
        ({"model": MEANS}, 0.5),
        ({"model": MEANS, "optimizer": "momentum"}, 0.05),
        ({"model": MEANS, "optimizer": "adamw"}, 0.001),
        ({"model": MEANS, "optimizer": "w - lr * g"}, 0.5),
    ],
)
def test_the_default_rate_is_that_of_the_optimizer_and_the_kind_of_network(settings, rate, monkeypatch):
    told = []
    monkeypatch.setattr(plan, "check_rate", lambda settings, images: told.append(settings.lr))
    for given in ({}, {"lr": 0.25}):
        with pytest.raises(CompilingError):
            make(**settings, **given)
    assert told == [f"{rate} * warmup * (1 - progress)", 0.25]


@pytest.mark.parametrize("place", [{"servers": 1}, {"join": "127.0.0.1:7"}, {"data_from": "127.0.0.1:7"}])
def test_a_key_file_is_taken_where_there_is_somebody_to_use_it_with(place, tmp_path):
    make_key_file(tmp_path / "key")
    with pytest.raises(CompilingError):
        make(key_file=str(tmp_path / "key"), **place)


@pytest.mark.parametrize("given", [{"join": "none"}, {"servers": 0}, {"data_from": "none"}])
def test_what_a_resumed_run_goes_on_without_is_refused_of_a_new_one(given):
    with pytest.raises(SettingsError, match="is for a run that is resumed and goes on without; leave it out, or give"):
        make(**given)


@pytest.mark.parametrize("given", [{"join": None, "servers": None, "data_from": None}, {"data_servers": "auto"}])
def test_that_there_is_none_may_be_said_of_a_new_run(given):
    with pytest.raises(CompilingError):
        make(**given)


@pytest.mark.parametrize(
    ("cores", "replicas", "each", "said"),
    [
        (2, 2, 1, []),
        (4, 1, 4, []),
        (2, 3, 1, ["3 replicas for 2 cores: each has the processes of one core, and they share"]),
        (3, 2, 1, ["3 cores for 2 replicas: each takes 1, and 1 of them stays free; give cores=2 or 4"]),
        (8, 2, 4, ["8 cores asked for, but only 4 usable here"]),
    ],
)
def test_cores_that_cannot_be_divided_as_asked_are_told(monkeypatch, cores, replicas, each, said):
    monkeypatch.setattr(plan, "usable_cores", lambda: 4)
    told = []
    settings = TrainSettings(servers=1, replicas=replicas, cores=cores)
    assert plan._cores_of_each(settings, lambda notice: told.append(notice.text)) == each
    assert [text[: len(start)] for text, start in zip(told, said, strict=True)] == said


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"momentum": 0.5, "beta1": 0.8},
            "momentum and beta1: no effect, since the formula of the optimizer sgd has none",
        ),
        ({"momentum": 0.5, "optimizer": "momentum"}, None),
        ({"momentum": 0.5, "optimizer": "v = momentum * v + g; w - lr * v"}, None),
        ({"optimizer": "sgd", "decay_all": True}, None),
        (
            {"decay_all": True, "optimizer": "w - lr * g"},
            "decay_all: no effect, since the formula of the optimizer w - lr * g has none",
        ),
    ],
)
def test_numbers_that_an_optimizer_does_not_have_are_told(settings, said):
    told = []
    given = {"model": list(LAYERS), "data": make_images(400, 1), **settings}
    with pytest.raises(CompilingError):
        plan.make_plan(given, lambda event: told.append(getattr(event, "text", None)))
    assert [text for text in told if text and "no effect" in text] == ([said] if said else [])


def test_what_is_right_comes_to_the_kernels():
    assert not issubclass(CompilingError, AdamError)
    with pytest.raises(CompilingError):
        make()


@pytest.mark.parametrize("more", [{"servers": 1}, {"join": "127.0.0.1:7700"}, {"data_from": "127.0.0.1:7700"}])
def test_a_key_file_that_cannot_be_read_is_told_before_data_are(tmp_path, more):
    given = {"model": "lenet", "data": str(tmp_path / "no-data"), "key_file": str(tmp_path / "no-key"), **more}
    with pytest.raises(SettingsError, match="cannot read key file"):
        plan.make_plan(given, lambda event: None)

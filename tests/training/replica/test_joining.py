"""What replicas must agree on when they join a run."""

from __future__ import annotations

import numpy as np
import pytest

from adam_mp import Dense, Flatten, Node, ReLU, Softmax
from adam_mp.training.plan.plan import make_plan
from adam_mp.training.replica.joining import run_facts


def facts(**settings):
    data = (np.arange(40 * 16, dtype=np.uint8).reshape(40, 4, 4), np.arange(40) % 2)
    model = [Flatten(), Dense(), Softmax()]
    return run_facts(make_plan({"model": model, "data": data, "cores": 1, **settings}, lambda event: None))


@pytest.mark.parametrize(("name", "value"), [("ignore_orientation", True), ("white", 4095.0)])
def test_replicas_read_images_alike(name, value):
    usual, other = facts(), facts(**{name: value})
    assert usual.difference(facts()) is None
    assert usual.difference(other) == f"{name} {value}, the run has None"
    assert other.difference(usual) == f"{name} None, the run has {value}"


def test_replicas_have_the_same_layers_also_without_weights():
    usual = facts()
    assert usual.difference(facts(model=[Flatten(), ReLU(), Dense(), Softmax()])).startswith("digest of the layers '")
    assert usual.difference(facts(model=[Node(Flatten(), "flatten1"), Dense(), Softmax()])) is None


def test_replicas_update_alike():
    usual = facts()
    for name, value in (
        ("decay_all", True),
        ("rates", "dense1.bias=0.5"),
        ("label_smoothing", 0.1),
        ("mixup", 0.2),
        ("cutmix", 1.0),
        ("clip_norm", 2.0),
        ("average", "last:2"),
        ("views", "reflect"),
    ):
        assert usual.difference(facts(**{name: value})).startswith(f"{name} {value!r}, the run has ")

from __future__ import annotations

import types

import pytest

from adam_mp.training.epoch.hints import ServingHints
from adam_mp.training.plan.split import Costs, Split

SECOND = 1e9


def plan(cached=1.0, data_from=None, ready=0.0):
    return types.SimpleNamespace(
        cores=4,
        split=Split(3, 1),
        costs=Costs(1e-3, 1e-4, 0, 1e-3, cached, ready),
        data=types.SimpleNamespace(cache_bytes=10**9),
        settings=types.SimpleNamespace(data_from=data_from),
    )


def hint(seconds=10.0, cached=1.0, waited=10.0, busy=20.0, decode=0.0, augment=9.0, hits=50, data_from=None, ready=0.0,
         deaths=0, without=0.0):  # fmt: skip
    notices = []
    hints = ServingHints(plan(cached, data_from, ready), notices.append)
    measured = {
        "waited_ns": waited * SECOND, "busy_ns": busy * SECOND, "decode_ns": decode * SECOND,
        "augment_ns": augment * SECOND, "hits": hits, "decoded": 50,
    }  # fmt: skip
    hints.check(measured, seconds, deaths, without)
    hints.check(measured, seconds, deaths, 2 * without)  # said once
    assert len(notices) <= 1
    return notices[0] if notices else ""


def test_where_workers_do_not_wait_nothing_is_said():
    assert hint(waited=1.0) == ""
    assert hint(seconds=0.5) == ""


def test_the_flag_that_would_help():
    assert "waited for data 33% of their time; 27% of the cores' time is free: --data-servers 2" in hint()
    assert "--cache holds 20% of the images in 1,000 MB" in hint(cached=0.2, busy=25, decode=10, augment=3)
    assert "later epochs find them in the cache" in hint(busy=25, decode=10, augment=3, hits=0)
    assert "later epochs find them in the cache" in hint(busy=25, decode=10, augment=3, hits=50, ready=0.5)
    assert "cores are busy" in hint(busy=25, decode=10, augment=3, hits=50)
    assert "data servers of --data-from make too few pictures" in hint(data_from="10.0.0.1:7800")
    assert "cores are busy: --data-servers 2" in hint(busy=30)


def test_an_epoch_in_which_a_process_died_tells_nothing_of_data_servers():
    notices = []
    hints = ServingHints(plan(), notices.append)
    measured = {"waited_ns": 9 * SECOND, "busy_ns": 20 * SECOND, "decode_ns": 0, "augment_ns": SECOND, "hits": 0,
                "decoded": 0}  # fmt: skip
    hints.check(measured, 10.0, 2, 0.0)
    assert notices == []
    hints.check(measured, 10.0, 2, 0.0)
    assert len(notices) == 1


def test_who_waits_for_batches_of_the_run_does_not_wait_for_data_servers():
    """Three workers wait 10 seconds together, 3 seconds of each for a lease; then 2 seconds of each."""
    assert hint(without=3.0) == ""
    assert "waited for data 17% of their time" in hint(without=2.0)


@pytest.mark.parametrize("epochs", [1, 10])
def test_decoding_counts_for_as_many_epochs_as_it_is_done(epochs):
    assert Costs(1e-3, 1e-4, 0, 1e-3, 1.0).serve_seconds(epochs) == pytest.approx(1e-4 + 1e-3 / epochs)
    assert Costs(1e-3, 1e-4, 0, 1e-3, 1.0, 1.0).serve_seconds(epochs) == pytest.approx(1e-4)  # all are surveyed
    assert Costs(1e-3, 1e-4, 0, 1e-3, 0.0).serve_seconds(epochs) == pytest.approx(1.1e-3)

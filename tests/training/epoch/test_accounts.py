"""The account of an epoch and the figures of a run, without processes."""

from __future__ import annotations

import numpy as np

from adam_mp.memory.staleness import COLUMNS
from adam_mp.training.epoch import accounts
from adam_mp.training.epoch.accounts import EpochAccount
from adam_mp.training.folder.figures import SERVING, WAITS, Figures, Sums

NAMES = (*WAITS, "busy_ns", "staleness", "updates", "images", "images_here", "loss", *SERVING)


def counts(fresh, stale):
    """A histogram of `fresh` updates that were of no staleness and `stale` ones of 2."""
    columns = np.zeros(COLUMNS, np.int64)
    columns[[0, 2]] = fresh, stale
    return columns


def counters(updates, staleness):
    return {**dict.fromkeys(NAMES, 0.0), "updates": updates, "staleness": staleness, "images_here": 16.0 * updates}


def record(account, connections=1):
    known = dict.fromkeys(
        ("epoch", "images_trained", "images_skipped", "images_failed", "validation_loss", "validation_accuracy",
         "updates", "lr", "validation_seconds"), 0,
    )  # fmt: skip
    return account.record(account.measured(), connections, **known)


def test_progress_tells_of_the_last_seconds_and_its_rates_and_the_time_left_are_of_all_machines(monkeypatch):
    """This machine trains 100 images a second, another as many; then nothing comes for a while."""
    clock = [50.0]
    monkeypatch.setattr(accounts.time, "monotonic", lambda: clock[0])
    now = counters(0.0, 0.0)
    account = EpochAccount(lambda: dict(now), lambda: counts(0, 0), {}, dict(now), counts(0, 0))
    seen = []
    for second in range(1, 61):
        clock[0] += 1
        if second <= 30:
            now.update(images=200.0 * second, images_here=100.0 * second, busy_ns=1e9 * second)
            now.update(loss=200.0 * second, updates=10.0 * second)
        else:
            now.update(waited_ns=1e9 * (second - 30))
        seen.append(account.progress(0, 1, 200 * min(second, 30), 60_000, 10))
    assert seen[0].images_per_second == seen[29].images_per_second == 200
    assert seen[29].connections_per_second == 2000
    assert seen[29].seconds_left == (60_000 - 6000) / 200
    assert seen[29].wait_fraction == 0
    assert seen[34].images_per_second == 100
    assert seen[34].wait_fraction == 0.5
    assert seen[59].images_per_second == seen[59].connections_per_second == 0
    assert seen[59].seconds_left is None
    assert seen[59].wait_fraction == 1
    assert seen[59].loss == 2
    assert seen[59].seconds == 60


def test_an_epochs_rates_are_of_all_machines_and_its_loss_is_of_this_one(monkeypatch):
    """All machines train 900 images in 3 seconds, this one 300 of them; 100 were trained before it joined."""
    clock, now = [50.0], {**counters(0.0, 0.0), "images": 100.0}
    monkeypatch.setattr(accounts.time, "monotonic", lambda: clock[0])
    account = EpochAccount(lambda: dict(now), lambda: counts(0, 0), {}, dict(now), counts(0, 0))
    clock[0] += 3.0
    now.update(images=1000.0, images_here=300.0, loss=600.0)
    ended = record(account, 10)
    assert (ended.images_per_second, ended.connections_per_second, ended.loss) == (300, 3000, 2)


def test_rates_of_slow_updates_do_not_jump(monkeypatch):
    """An update of 16 images takes 40 seconds."""
    clock = [0.0]
    monkeypatch.setattr(accounts.time, "monotonic", lambda: clock[0])
    now = counters(0.0, 0.0)
    account = EpochAccount(lambda: dict(now), lambda: counts(0, 0), {}, dict(now), counts(0, 0))
    rates = []
    for second in range(1, 2001):
        clock[0] += 1
        now.update(images=16.0 * (second // 40), updates=second // 40)
        rates.append(account.progress(0, 1, 16 * (second // 40), 60_000, 10).images_per_second)
    assert 0.7 * 16 / 40 < min(rates[400:]) <= max(rates[400:]) < 1.3 * 16 / 40


def test_the_record_of_an_epoch_that_was_cut_has_both_parts():
    """An epoch of which 3 updates are made before an interruption, and 4 after; the epochs before had 10."""
    now = [counters(0.0, 0.0), counts(10, 0)]
    first = EpochAccount(lambda: now[0], lambda: now[1], {}, now[0], counts(10, 0))
    now[:] = counters(3.0, 4.0), counts(11, 2)
    part = first.as_part()
    figures = Figures(staleness_counts=now[1].tolist(), staleness_before=counts(10, 0).tolist(), epoch_part=part)
    kept = Figures(**vars(figures))

    now[:] = counters(0.0, 0.0), np.array(kept.staleness_counts)
    second = EpochAccount(
        lambda: now[0], lambda: now[1], kept.epoch_part, now[0], np.array(kept.staleness_before)
    )  # fmt: skip
    now[:] = counters(4.0, 2.0), counts(14, 3)
    kept.staleness_counts = now[1].tolist()
    ended = record(second)
    assert ended.staleness == {"0": 4, "2": 3}
    assert ended.staleness_mean == 6 / 7

    kept.end_epoch(2, Sums(7 * 16), 1.0, second.measured())
    assert kept.staleness_before == kept.staleness_counts

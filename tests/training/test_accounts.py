"""The account of an epoch and the figures of a run, without processes."""

from __future__ import annotations

import numpy as np

from adam_mp.memory.staleness import COLUMNS
from adam_mp.training.accounts import EpochAccount
from adam_mp.training.figures import SERVING, Figures, Sums

NAMES = ("waited_ns", "busy_ns", "staleness", "updates", "images", "loss", *SERVING)


def counts(fresh, stale):
    """A histogram of `fresh` updates that were of no staleness and `stale` ones of 2."""
    columns = np.zeros(COLUMNS, np.int64)
    columns[[0, 2]] = fresh, stale
    return columns


def counters(updates, staleness):
    return {**dict.fromkeys(NAMES, 0.0), "updates": updates, "staleness": staleness, "images": 16.0 * updates}


def record(account):
    known = dict.fromkeys(
        ("epoch", "images_trained", "images_skipped", "images_failed", "validation_loss", "validation_accuracy",
         "updates", "lr", "validation_seconds"), 0,
    )  # fmt: skip
    return account.record(account.measured(), 1, **known)


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

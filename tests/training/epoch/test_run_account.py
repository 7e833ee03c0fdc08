"""The account of a run: what is counted when an epoch ends, is cut, is undone, or was trained by others."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from adam_mp.memory.staleness import COLUMNS
from adam_mp.training.epoch import accounts, run_account
from adam_mp.training.epoch.run_account import RunAccount
from adam_mp.training.folder.figures import SERVING, WAITS, Sums

NAMES = (*WAITS, "busy_ns", "staleness", "updates", "images", "images_here", "loss", *SERVING)


class Run:
    """Processes that count what the test says, and a clock."""

    def __init__(self, monkeypatch, progress=None):
        self.now, self.updates, self.decoded = 1000.0, 0, 0
        for module in (accounts, run_account):
            monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        self.account = RunAccount(progress, self.totals, self.staleness)

    def totals(self):
        return {**dict.fromkeys(NAMES, 0.0), "updates": float(self.updates), "decoded": float(self.decoded)}

    def staleness(self):
        counts = np.zeros(COLUMNS, np.int64)
        counts[0] = self.updates
        return counts

    def train(self, updates, decoded=0, seconds=10.0):
        self.updates, self.decoded, self.now = self.updates + updates, self.decoded + decoded, self.now + seconds

    def end(self, following, images):
        self.account.epoch.end()
        self.account.read_counters()
        measured = self.account.end_epoch(following, Sums(images))
        self.account.drop_epoch()
        return measured


@pytest.fixture
def run(monkeypatch):
    return Run(monkeypatch)


def test_what_data_servers_make_ahead_counts_for_the_next_epoch(run):
    run.account.begin_epoch()
    run.train(5, decoded=100)
    run.account.epoch.end()
    run.account.read_counters()
    run.decoded += 30  # while the epoch is validated
    run.now += 3.0
    assert run.account.end_epoch(1, Sums(80))["decoded"] == 100
    run.account.drop_epoch()
    run.account.begin_epoch()
    run.train(5, decoded=70)
    assert run.end(2, 80)["decoded"] == 100
    figures = run.account.figures
    assert (figures.images_trained, figures.updates, figures.epochs_done) == (160, 10, 2)
    assert (figures.training_seconds, figures.seconds, run.account.seconds_here) == (20, 23, 20)
    assert (figures.staleness_counts[0], figures.staleness_before[0]) == (10, 10)


def test_counters_that_go_on_are_read_once_at_an_epochs_end(monkeypatch):
    """Each image that is decoded counts for one epoch, though data servers decode between any two looks at them."""
    run = Run(monkeypatch)
    quiet = run.totals

    def totals():
        run.decoded += 1
        return quiet()

    run.account = RunAccount(None, totals, run.staleness)
    counted = []
    for epoch in range(3):
        run.account.begin_epoch()
        run.train(5, decoded=10)
        counted.append(run.end(epoch + 1, 80)["decoded"])
    assert sum(counted) == run.decoded


def test_what_is_undone_counts_in_seconds_alone(run):
    run.account.begin_epoch()
    run.train(5)
    run.end(1, 80)
    kept = dataclasses.asdict(run.account.up_to_now())
    run.account.begin_epoch()
    run.train(4, decoded=50)
    run.account.drop_epoch()  # it diverges
    run.account.go_back(kept, 0.5, 1)
    assert run.account.figures.seconds == 20
    run.account.begin_again(run.totals())
    run.account.begin_epoch()
    run.train(6, decoded=60)
    measured = run.end(2, 80)
    assert (measured["updates"], measured["decoded"]) == (6, 60)
    figures = run.account.figures
    assert (figures.images_trained, figures.updates, figures.staleness_counts[0]) == (160, 11, 11)
    assert (figures.rate_share, figures.rollbacks) == (0.5, 1)
    assert (figures.training_seconds, figures.seconds, run.account.seconds_here) == (20, 30, 30)


@pytest.mark.parametrize("final", [False, True])
def test_a_checkpoint_within_an_epoch_has_its_part(run, monkeypatch, final):
    run.account.begin_epoch()
    run.train(5)
    if final:
        run.account.keep_part([(3, 2)])
        kept = run.account.up_to_now()
    else:
        kept = run.account.with_part([(3, 2)])
    assert (kept.epoch_part["updates"], kept.epoch_part["seconds"], kept.part_failed) == (5, 10, [(3, 2)])
    assert (kept.seconds, kept.staleness_counts[0]) == (10, 5)
    assert (run.account.figures.epoch_part != {}) == final  # the run that goes on counts all of the epoch at its end
    resumed = Run(monkeypatch, dataclasses.asdict(kept))
    resumed.account.begin_epoch()
    resumed.train(7)
    assert resumed.account.elapsed() == 20
    assert resumed.end(1, 200)["updates"] == 12
    assert resumed.account.figures.training_seconds == 20
    assert resumed.account.figures.staleness_counts[0] == 12


def test_epochs_of_others_are_counted_and_told(run):
    told = []
    run.account.count_missed([(3, Sums(90, 5, 1)), (4, Sums(95))], told.append)
    figures = run.account.figures
    assert (figures.images_trained, figures.images_skipped, figures.images_failed) == (185, 5, 1)
    assert [text.split(" ended")[0] for text in told] == ["epoch 4", "epoch 5"]


def test_an_epoch_is_dropped_once(run):
    run.account.begin_epoch()
    run.train(1)
    run.account.drop_epoch()
    run.now += 50
    run.account.drop_epoch()
    assert run.account.seconds_here == 10

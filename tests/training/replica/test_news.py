"""What a replica keeps of what the coordinator said."""

from __future__ import annotations

import pytest

from adam_mp.training.folder.figures import Sums
from adam_mp.training.replica.news import News


def facts(epoch, *finished):
    ends = [{"epoch": each, "trained": 100 + each, "skipped": 5, "failed": 3} for each in finished]
    return {"epoch": epoch, "trained": 40, "failed": 1, "updates": 7, "map": {"epoch": 1}, "finished": ends}


def test_an_end_that_was_said_once_is_kept_as_long_as_the_epoch_is_open_here():
    news = News(facts(0)).followed_by(facts(1, 0), 0).followed_by(facts(1), 0)
    assert (news.epoch, news.sums(0), news.trained(0)) == (1, Sums(97, 5, 3), 100)
    assert news.missed(0) == []
    news = news.followed_by(facts(3, 1, 2), 1)
    assert [entry["epoch"] for entry in news.finished] == [1, 2]  # the one before is behind this replica
    assert news.missed(1) == [(2, Sums(99, 5, 3))]


def test_an_end_that_is_said_again_counts_once():
    news = News(facts(1, 0)).followed_by(facts(1, 0), 0)
    assert len(news.finished) == 1


def test_images_are_counted_from_one_answer_to_a_later_one_across_the_ends_of_epochs():
    first = News(facts(0))
    more = first.followed_by({**facts(0), "trained": 70, "failed": 2}, 0)
    assert (first.trained_since(first), more.trained_since(first)) == (0, 29)
    later = more.followed_by(facts(2, 0, 1), 0)
    assert later.trained_since(more) == (97 - 68) + 98 + 39
    assert more.trained_since(later) < 0


def test_images_are_counted_on_when_the_end_of_an_epoch_is_no_longer_named():
    """An elected coordinator had been told of all images of the epoch before it could end it."""
    counted = News({**facts(0), "trained": 100, "failed": 3})
    ended = counted.followed_by({**facts(1, 0), "trained": 0, "failed": 0}, 0)
    assert ended.trained_since(counted) == 0
    opened = ended.followed_by(facts(1), 1)
    assert opened.trained_since(counted) == 39
    assert opened.followed_by(facts(2, 1), 1).trained_since(counted) == 98 + 39


def test_of_an_epoch_that_goes_on_nothing_is_skipped_yet():
    assert News(facts(0)).sums(0) == Sums(39, 0, 1)
    assert News(facts(0)).trained(0) == 40
    assert News(facts(2)).sums(0) == Sums()  # of an end that nobody told, nothing is known


@pytest.mark.parametrize(("leader", "leads"), [({}, False), ({"leader": False}, False), ({"leader": True}, True)])
def test_who_leads(leader, leads):
    assert News({**facts(0), **leader}).leads == leads


def test_the_pulse_changes_when_the_run_gets_on_and_not_with_each_answer():
    news = News(facts(0))
    assert news.followed_by(facts(0), 0).pulse == news.pulse
    for name in ("epoch", "trained", "updates"):
        assert News({**facts(0), name: 50}).pulse != news.pulse

"""What a parameter server knows of its run: the same, whether the coordinator is beside it or elsewhere."""

from __future__ import annotations

import pytest

from adam_mp.errors import TransportError
from adam_mp.memory.layout import Layout
from adam_mp.params.run.announcements import Announcements
from adam_mp.params.run.bucket_map import LayoutFacts
from adam_mp.params.run.coordinator import Coordinator
from adam_mp.params.run.member import MEMBER_DEADLINE
from adam_mp.params.run.news import News
from adam_mp.params.run.statements import Reporting
from adam_mp.params.server.run_view import HostedRun, OwnJoining, RemoteRun
from adam_mp.transport.forms import read

LAYOUT = LayoutFacts.of(Layout.of({"a": (30, 7)})).as_list()
FACTS = {"layout": LAYOUT, "images": 95, "batch_size": 10, "epochs": 1, "quorum": 1.0, "agreed": {}}


class Link:
    """A line to a coordinator in this process, on which nothing is lost; while `cut`, nothing comes through."""

    address, who, waiting = "first:1", "the coordinator at first:1", ""

    def __init__(self, coordinator, identity):
        self.coordinator, self.identity, self.sequence = coordinator, identity, 0
        self.run, self.busy, self.cut, self.silence, self.left = 0, False, False, 0.0, False

    def join(self, facts, seconds, stop, say):
        self.run = self.coordinator.run
        self.sequence += 1
        return read(News, self.coordinator.join(self.identity, facts, 0.0, self.sequence), TransportError)

    def report(self, make, joining, interval):
        if self.cut:
            self.silence += 30.0
            return None
        self.sequence += 1
        return read(News, self.coordinator.report(self.identity, self.sequence, make(), 0.0), TransportError)

    def trouble(self):
        return "nobody answers there"

    def leave(self):
        self.left = True


@pytest.fixture(params=["beside it", "elsewhere"])
def run(request):
    """(coordinator, view, lines that were said)."""
    coordinator, told = Coordinator(run=5, expected=1), []
    if request.param == "beside it":
        view = HostedRun(coordinator, 100, "here:1")
    else:
        view = RemoteRun(Link(coordinator, 100), OwnJoining("here:1"), Announcements(told.append))
    return coordinator, view, told


def test_a_server_learns_of_replicas_and_map_and_end(run):
    coordinator, view, _ = run
    view.join(0.0, 1.0, lambda: False)
    assert (view.run, view.phase, view.over, view.replicas) == (5, "waiting", False, 0)
    assert not view.is_replica(7)
    coordinator.join(7, {"role": "replica", "facts": FACTS}, 1.0)
    news = view.report(lambda: Reporting({"queue": 3}), 0.5, 1.0)
    assert [(server.identity, server.address) for server in news.map.servers] == [(100, "here:1")]
    assert news.layout == LayoutFacts.from_list(LAYOUT)
    assert (view.phase, view.replicas, view.is_replica(7), view.is_replica(8)) == ("training", 1, True, False)
    assert coordinator.roster.members[100].report == {"queue": 3}
    coordinator.report(7, 1, {"epoch": 0, "trained": list(range(10))}, 1.0)
    view.report(Reporting, 0.5, 2.0)
    assert (view.phase, view.over) == ("done", False)
    coordinator.leave(7)
    view.report(Reporting, 0.5, 3.0)
    assert (view.over, view.replicas, view.is_replica(7)) == (True, 0, False)


def test_a_report_is_made_when_it_is_due(run):
    _, view, _ = run
    view.join(0.0, 1.0, lambda: False)
    told = [view.report(Reporting, interval, now) is not None
            for interval, now in ((0.5, 1.0), (0.5, 1.4), (0.05, 1.4), (0.5, 1.8), (0.5, 1.9))]  # fmt: skip
    assert told == [True, False, True, False, True]


def test_a_server_beside_the_coordinator_reports_at_once_when_the_map_has_changed():
    coordinator = Coordinator(run=5, expected=2)
    view = HostedRun(coordinator, 100, "here:1")
    view.join(0.0)
    assert view.report(Reporting, 0.5, 1.0).map is None
    coordinator.join(101, {"role": "params", "address": "there:1"}, 1.0)
    coordinator.join(7, {"role": "replica", "facts": FACTS}, 1.0)
    assert view.report(Reporting, 0.5, 1.1).map is not None
    assert view.report(Reporting, 0.5, 1.2) is None


def test_a_server_that_took_leave_of_itself_joins_again():
    coordinator = Coordinator(run=5, expected=1)
    view = HostedRun(coordinator, 100, "here:1")
    view.join(0.0)
    for number in range(round(MEMBER_DEADLINE) + 2):
        coordinator.step(float(number))
    assert 100 not in coordinator.roster.members
    assert view.report(Reporting, 0.5, 20.0) is None
    assert coordinator.roster.members[100].address == "here:1"
    assert view.report(Reporting, 0.5, 21.0) is not None


def test_a_server_elsewhere_says_what_becomes_of_the_run_and_gives_up_in_the_end():
    coordinator, told = Coordinator(run=5, expected=1), []
    link = Link(coordinator, 100)
    view = RemoteRun(link, OwnJoining("here:1"), Announcements(told.append))
    view.join(0.0, 1.0, lambda: False)
    coordinator.join(7, {"role": "replica", "facts": FACTS}, 0.0)
    coordinator.report(7, 1, {"epoch": 0, "trained": list(range(10))}, 0.0)
    for now in (1.0, 2.0):
        view.report(Reporting, 0.5, now)
    assert told == ["joining the run of first:1", "the run is done"]
    link.cut = True
    for now in (3.0, 4.0):
        assert view.report(Reporting, 0.5, now) is None
    with pytest.raises(TransportError, match="the coordinator at first:1 is silent for 60 s: nobody answers there"):
        view.report(Reporting, 0.5, 5.0)
    assert told[2:] == ["the coordinator at first:1 has not answered for 30 s; the run waits for it, 60 s at most"]
    view.leave()
    assert link.left

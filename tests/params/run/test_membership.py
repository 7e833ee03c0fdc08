"""A member's line: which answer is taken for which request, and what is done without waiting."""

from __future__ import annotations

import threading
import time

import pytest

from adam_mp.errors import StoppedError, TransportError
from adam_mp.params.run import membership
from adam_mp.params.run.membership import CoordinatorLink
from adam_mp.params.run.news import News
from adam_mp.transport.addresses import Address
from adam_mp.transport.messages import Kind, with_facts

HERE = Address("127.0.0.1", 7700)
WELCOME = {"run": 5, "epoch": 0}


class Line:
    """A dialer whose peer answers as `answers` says: a function of each message sent, to a list of (kind, facts)."""

    def __init__(self, answers):
        self.answers, self.sent, self.inbox = answers, [], []
        self.troubles = ["nobody answers there"]

    def dial(self, address):
        pass

    def trouble(self, address):
        return self.troubles.pop(0) if len(self.troubles) > 1 else self.troubles[0]

    def reaches(self, address):
        return False

    def send(self, peer, message):
        self.sent.append(message)
        for kind, facts in self.answers(message):
            self.inbox.append((peer, with_facts(kind, facts, sequence=message.sequence)))
        return object()

    def receive(self, seconds):
        return self.inbox.pop(0) if self.inbox else None


def orders_and_two_welcomes(message):
    return [(Kind.WELCOME, WELCOME)] * 2 if message.kind == Kind.JOIN else [(Kind.ORDERS, {"granted": [1]})]


def joined(answers):
    link = CoordinatorLink(Line(answers), HERE, 9)
    link.join({}, 1.0)
    return link


def test_what_a_coordinator_says_cannot_do_anything_to_a_terminal():
    said = "\x1b[2J\x9b1A\r\n\u202eno" + 5000 * "!"

    def answers(message):
        if message.kind != Kind.JOIN:
            return [(Kind.REFUSED, {"reason": said})]
        return [(Kind.WELCOME, {**WELCOME, "waiting": said} if len(told) < 1 else WELCOME)]

    told = []
    link = CoordinatorLink(Line(answers), HERE, 9)
    link.join({}, 20.0, say=told.append)
    with pytest.raises(TransportError) as caught:
        link.ask(Kind.STATUS, {}, 1.0)
    for text in (*told, str(caught.value)):
        assert text.isascii()
        assert text.isprintable()
        assert "no!!" in text
        assert len(text) < 600
    assert len(told) == 1


def test_a_second_welcome_is_no_answer_to_a_report():
    link = joined(orders_and_two_welcomes)
    assert [link.report(dict, dict, 0.0) for _ in range(2)] == [None, News(granted=(1,))]


def test_an_answer_of_another_kind_is_not_taken():
    def answers(message):
        return [(Kind.WELCOME, WELCOME)] if message.kind == Kind.JOIN else [(Kind.WELCOME, WELCOME), (Kind.STATE, {})]

    link = joined(answers)
    assert [link.report(dict, dict, 0.0) for _ in range(4)] == [None] * 4
    assert link.ask(Kind.STATUS, {}, 1.0) == {}


def test_sequences_go_on_when_a_member_joins_again_and_are_others_in_another_process():
    link = joined(orders_and_two_welcomes)
    link.join({}, 1.0)
    sequences = [message.sequence for message in link._dialer.sent]
    assert sequences == [sequences[0], sequences[0] + 1]
    assert CoordinatorLink(Line(orders_and_two_welcomes), HERE, 9)._sequence >> 32 != sequences[0] >> 32


def test_a_member_that_is_not_known_any_more_joins_again_without_waiting(monkeypatch):
    monkeypatch.setattr(membership, "_AGAIN", 0.0)
    welcomes = [{"waiting": "1 of 2 servers are there"}, {"run": 8, "epoch": 3}]

    def answers(message):
        if message.kind == Kind.JOIN:
            return [(Kind.WELCOME, welcomes.pop(0) if "again" in message.facts() else WELCOME)]
        return [(Kind.REFUSED, {"reason": "not known", "rejoin": True})] if message.run == 5 else [(Kind.ORDERS, {})]

    link = joined(answers)
    taken = [link.report(dict, lambda: {"again": True}, 0.0) for _ in range(4)]
    assert taken == [None, None, News(run=8, epoch=3), News()]
    assert link.run == 8


def test_a_refusal_is_an_error():
    link = joined(lambda m: [(Kind.WELCOME, WELCOME)] if m.kind == Kind.JOIN else [(Kind.REFUSED, {"reason": "no"})])
    with pytest.raises(TransportError, match="refuses: no"):
        link.report(dict, dict, 0.0)


def test_who_was_in_the_run_and_is_not_let_in_again_did_nothing_wrong():
    refusals = [{"reason": "not known", "rejoin": True}, {"reason": "full"}]
    answers = {Kind.JOIN: [(Kind.WELCOME, WELCOME)]}
    link = joined(lambda m: answers.get(m.kind) or [(Kind.REFUSED, refusals.pop(0))])
    assert link.report(dict, dict, 0.0) is None
    answers.clear()
    with pytest.raises(TransportError, match="refuses: full") as caught:
        link.report(dict, dict, 0.0)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("answer", [[], [(Kind.WELCOME, {"waiting": "0 of 2"})]])
def test_joining_ends_at_once_when_it_is_to_stop(answer):
    link, stop = CoordinatorLink(Line(lambda message: answer), HERE, 9), threading.Event()
    threading.Timer(0.2, stop.set).start()
    began = time.monotonic()
    with pytest.raises(StoppedError):
        link.join({}, 30.0, stop.is_set)
    assert time.monotonic() - began < 10


def test_joining_ends_in_time_naming_what_is_waited_for():
    waiting = CoordinatorLink(Line(lambda message: [(Kind.WELCOME, {"waiting": "0 of 2"})]), HERE, 9)
    with pytest.raises(TransportError, match=r"let nobody in within 0\.1 s: 0 of 2"):
        waiting.join({}, 0.1)


def test_what_is_waited_for_is_said_once_and_again_when_it_changes():
    answers, told = [{"waiting": "0 of 2"}, {"waiting": "0 of 2"}, {"waiting": "1 of 2"}, WELCOME], []
    link = CoordinatorLink(Line(lambda message: [(Kind.WELCOME, answers.pop(0))]), HERE, 9)
    assert link.join({}, 30.0, say=told.append) == News(run=5)
    assert told == [f"waiting to join {HERE}, for 30 s more at most: {reason}" for reason in ("0 of 2", "1 of 2")]


def test_who_gets_no_answer_is_told_in_time_what_is_seen_and_how_long_it_goes_on(monkeypatch):
    clock = [100.0]
    line, told = Line(lambda message: []), []

    def receive(seconds):
        clock[0] += 0.05

    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    line.receive = receive
    line.troubles = ["nobody answers there"] * 3 + ["it refuses this key file; give that of the run"]
    link = CoordinatorLink(line, HERE, 9)
    with pytest.raises(TransportError) as caught:
        link.join({}, 60.0, say=lambda text: told.append((clock[0] - 100.0, text)))
    seconds, lines = zip(*told, strict=True)
    assert lines == (
        f"waiting to join {HERE}, for 57 s more at most: nobody answers there; is 'adam-mp serve-params' running "
        "there?",
        f"waiting to join {HERE}, for 57 s more at most: it refuses this key file; give that of the run",
    )
    assert all(3 <= each < 3.5 for each in seconds)
    assert str(caught.value) == (f"{HERE} does not answer for 60 s: it refuses this key file; give that of the run")


def test_who_asks_may_wait_less_long_where_nobody_is():
    link = CoordinatorLink(Line(lambda message: []), HERE, 9)
    began = time.monotonic()
    with pytest.raises(TransportError, match="does not answer for 0 s: nobody answers there; is 'adam-mp serve-pa"):
        link.ask(Kind.STATUS, {}, 30.0, unreached=0.2)
    assert time.monotonic() - began < 10


def test_a_member_that_was_stopped_takes_nobody_for_silent(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    link = joined(lambda message: [(Kind.WELCOME, WELCOME)] if message.kind == Kind.JOIN else [])
    for _ in range(100):
        clock[0] += 0.05
        assert link.report(dict, dict, 0.0) is None
    assert 4.8 < link.silence < 5.0
    clock[0] += 600
    link.report(dict, dict, 0.0)
    assert link.silence < 6.1


SERVERS = [[1, "127.0.0.1:7700", "127.0.0.1:7800"], [2, "127.0.0.1:7701", "127.0.0.1:7801"]]
MAP = {"epoch": 1, "servers": SERVERS, "commit": "copied", "groups": [[1, 0, [1], [], 0]]}


class Servers(Line):
    """A dialer of several servers: `answers` is a function of the peer and the message."""

    def __init__(self, answers):
        super().__init__(None)
        self.by_peer, self.dialled = answers, []

    def dial(self, address):
        self.dialled.append(str(address))

    def hang_up(self, address):
        self.dialled.remove(str(address))

    def send(self, peer, message):
        assert self.dialled == [str(peer)]
        self.answers = lambda message: self.by_peer(str(peer), message)
        return super().send(peer, message)


def test_a_server_that_is_not_the_coordinator_leads_to_it():
    def answers(peer, message):
        if peer == str(HERE):
            return [(Kind.REFUSED, {"reason": "elsewhere", "coordinator": "127.0.0.1:7701"})]
        return [(Kind.WELCOME, WELCOME)]

    link = CoordinatorLink(Servers(answers), HERE, 9)
    assert link.join({}, 2.0).run == 5
    assert str(link.address) == "127.0.0.1:7701"


def test_two_servers_that_lead_to_each_other_are_not_asked_without_pause():
    others = {"127.0.0.1:7700": "127.0.0.1:7701", "127.0.0.1:7701": "127.0.0.1:7700"}
    line = Servers(lambda peer, message: [(Kind.REFUSED, {"reason": "elsewhere", "coordinator": others[peer]})])
    link = CoordinatorLink(line, HERE, 9)
    with pytest.raises(TransportError):
        link.join({}, 1.2)
    assert 2 <= len(line.sent) < 8


def test_an_address_that_nobody_can_dial_is_no_way_to_the_coordinator():
    line = Servers(lambda peer, message: [(Kind.REFUSED, {"reason": "elsewhere", "coordinator": "nowhere"})])
    with pytest.raises(TransportError, match="elsewhere"):
        CoordinatorLink(line, HERE, 9).join({}, 1.0)


@pytest.mark.parametrize("elected", [True, False])
def test_the_other_servers_are_asked_if_an_elected_coordinator_is_silent(monkeypatch, elected):
    monkeypatch.setattr(membership, "_TURN", 0.2)
    dead = set()

    def answers(peer, message):
        if peer in dead:
            return []
        if message.kind == Kind.JOIN:
            return [(Kind.WELCOME, {**WELCOME, "map": MAP, "elected": elected})]
        return [(Kind.ORDERS, {"granted": [1]})] if peer != str(HERE) else []

    link = CoordinatorLink(Servers(answers), HERE, 9)
    link.join({}, 2.0)
    dead.add(str(HERE))
    deadline, news = time.monotonic() + (5 if elected else 0.5), None
    while news is None and time.monotonic() < deadline:
        news = link.report(dict, dict, 0.0)
        time.sleep(0.01)
    assert (news is not None) == elected
    assert str(link.address) == ("127.0.0.1:7701" if elected else str(HERE))

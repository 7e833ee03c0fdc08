"""The synchronizer's loop: what orders allow, how long it waits, and whom it blames."""

from __future__ import annotations

import threading
import time
import types

import pytest

from adam_mp.errors import TransportError
from adam_mp.memory.board import STOP, TRAIN, VALIDATE
from adam_mp.memory.exchange import APPLYING, PUSHED, SEEN, ExchangeMemory
from adam_mp.memory.layout import Held, Layout
from adam_mp.params.replica import synchronizer
from adam_mp.params.replica.synchronizer import Synchronizer, note_map, read_map
from adam_mp.params.run.bucket_map import BucketMap, ServerPlace
from adam_mp.params.run.listening import Listening
from adam_mp.transport.addresses import parse_address

WELL, SILENT, REFUSING = (parse_address(f"127.0.0.1:{port}", "server") for port in (7701, 7702, 7703))


class Board:
    """Gives the orders of a list, one a look; the last one stands."""

    held_up = False

    def __init__(self, *orders):
        self.orders = list(enumerate(orders))

    def order(self):
        return self.orders.pop(0) if len(self.orders) > 1 else self.orders[0]


class Exchange:
    """A round that takes `turns` turns with an answer each, and then has none for the servers in `owing`."""

    def __init__(self, turns, owing=()):
        self.turns, self.owing, self.answered, self.moved = turns, dict(owing), 0, None
        self.flights = types.SimpleNamespace(silences=dict.fromkeys((WELL, SILENT, REFUSING), 0.0))
        self.touched = []  # the orders under which weights were touched

    def begin(self):
        """A round."""

    @property
    def done(self):
        return self.answered == self.turns and not self.owing

    def step(self, now, seconds):
        self.touched.append(self.board.orders[0][1])
        if self.answered < self.turns:
            self.answered += 1
        else:
            time.sleep(0.01)
            self.flights.silences[SILENT] += 0.01

    def unanswered(self):
        return self.owing


class Rounds(Exchange):
    """Rounds of a turn each, after which all shards are seen; `death` is the number of the one in which it dies."""

    def __init__(self, death=0):
        super().__init__(1)
        self.death, self.begun = death, 0

    def begin(self):
        self.begun, self.answered = self.begun + 1, 0

    def step(self, now, seconds):
        super().step(now, 0)
        if self.begun == self.death:
            raise KeyError("it dies")
        self.words.states[:] = SEEN


class Counters:
    """Counters in a dictionary."""

    def __init__(self):
        self.values = {}

    def add(self, name, amount):
        self.values[name] = self.values.get(name, 0) + amount

    def publish(self, name, value):
        self.values[name] = value


@pytest.fixture
def make():
    words = ExchangeMemory.create(Held.all_of(Layout.of({"w": (3, 4)}).for_servers(3)))

    def build(board, exchange):
        made = object.__new__(Synchronizer)  # without processes, memory of a run and connections
        made.spec = types.SimpleNamespace(patience=0.2, batch_size=1, images=10, keys=None, follows=False)
        made.memory = types.SimpleNamespace(board=board)
        made.store = types.SimpleNamespace(read_updates=lambda: 0)
        made.dialer = types.SimpleNamespace(trouble=lambda address: "nobody answers there")
        made.words, made.exchange, made.counters, made.inboxes = words, exchange, Counters(), None
        made.exchanged, made.between, made.rounds = 0, (0, 0), []
        made.listening, made.heard, made.maps, made.map = Listening(), 0.0, words.read("maps"), BucketMap(1, ())
        exchange.board, exchange.words = board, words
        return made

    yield build
    words.close()


def test_a_successor_touches_no_weights_that_are_evaluated(make):
    exchange = Exchange(3)
    made = make(Board(*[VALIDATE] * 20, *[TRAIN] * 20, STOP), exchange)
    made.words.states[:] = SEEN
    made.run()
    assert exchange.touched
    assert set(exchange.touched) == {TRAIN}
    assert made.counters.values["acknowledged"] > 0


def test_the_first_of_all_takes_the_weights_whatever_the_order(make):
    exchange = Exchange(3)
    made = make(Board(*[0] * 12, STOP), exchange)
    made.run()
    assert len(exchange.touched) == 3
    assert made.counters.values == {"ready": 1, "heartbeat": 3, "acknowledged": 0} | made.counters.values


@pytest.mark.parametrize(("left", "more"), [(SEEN, 0), (PUSHED, 1), (APPLYING, 1)])
def test_a_round_that_is_wanted_is_done_once_all_is_there(make, left, more):
    words = make(Board(), Rounds()).words
    words.states[:] = SEEN
    for _ in range(3):  # synchronizers that die in their first round
        words.want_round()
        with pytest.raises(KeyError):
            make(Board(TRAIN), Rounds(1)).run()
    words.states[:] = left
    wanted = words.want_round()
    assert not words.is_done(wanted)
    exchange = Rounds()
    made = make(Board(*[TRAIN] * 100, STOP), exchange)
    made.run()
    assert words.is_done(wanted)
    assert exchange.begun == 1 + more  # what a predecessor had pushed is without later updates
    assert not words.is_done(words.want_round())
    assert words.statistics().rounds == exchange.begun


@pytest.mark.parametrize("turns", [0, 10**6])
def test_a_synchronizer_turns_to_the_servers_of_a_newer_map(make, turns, monkeypatch):
    """Between rounds and in the middle of one: what was not answered is asked again."""
    made = make(Board(TRAIN), Exchange(turns, {SILENT: ""} if turns else ()))
    words, met = made.words, []
    words.states[:] = PUSHED if turns else SEEN
    wanted = words.want_round() if turns else 0

    def connect(bucket_map):
        met.append(bucket_map)
        made.exchange = Rounds()
        made.exchange.board, made.exchange.words = Board(*[TRAIN] * 30, STOP), words
        made.memory.board = made.exchange.board

    made.spec.patience, made.dialer = 60.0, types.SimpleNamespace(close=lambda: met.append("hung up"))
    made.connect = connect
    monkeypatch.setattr(synchronizer, "SocketDialer", lambda keys: made.dialer)
    newer = BucketMap(4, tuple(ServerPlace(number, f"127.0.0.1:{7710 + number}") for number in range(3)))
    threading.Timer(0.2, note_map, (words, newer)).start()
    made.run()
    assert met == ["hung up", newer]
    assert made.exchange.begun == (2 if turns else 1)  # the first had what the old servers were told
    assert words.is_done(wanted)
    assert words.statistics().round_begun - words.statistics().rounds == bool(turns)


def test_a_successor_finds_the_newest_map(make):
    words = make(Board(TRAIN), Exchange(0)).words
    assert words.read_map() == (0, b"")
    for epoch in range(1, 8):
        newest = BucketMap(epoch, tuple(ServerPlace(number, "x" * 300 + str(epoch)) for number in range(3)))
        note_map(words, newest)
        count, text = words.read_map()
        assert (count, read_map(text)) == (epoch, newest)


def test_the_servers_that_are_well_are_not_blamed(make):
    made = make(Board(TRAIN), Exchange(2, {SILENT: "", REFUSING: "refuses: the message is of run 1"}))
    with pytest.raises(TransportError) as caught:
        made.run()
    assert str(SILENT) + ": nobody answers there" in str(caught.value)
    assert str(REFUSING) + ": refuses: the message is of run 1" in str(caught.value)
    assert str(WELL) not in str(caught.value)
    assert made.counters.values["heartbeat"] == 2
    well, silent, refusing = made.words.silences
    assert (well, refusing) == (0, 0)
    assert silent == round(1000 * made.exchange.flights.silences[SILENT]) >= 100


@pytest.mark.parametrize(
    ("silence", "trained", "between", "held_up"),
    [
        (1.5, 41, (0, 0), True),
        (1.5, 40, (0, 0), False),  # four rounds' images
        (0.9, 41, (0, 0), False),
        (1.5, 79, (20, 25), False),  # rounds are longer than the setting says, as on slow networks
        (1.5, 81, (20, 25), True),
        (1.5, 81, (20, 900), True),  # the last one was long because a server was silent
    ],
)
def test_workers_wait_for_a_silent_server_once_they_have_trained_much_without_it(
    make, silence, trained, between, held_up
):
    made = make(Board(TRAIN), Exchange(1))
    made.exchange.flights.silences[SILENT] = silence
    made.store.read_updates, made.between = lambda: trained, between
    made.tell_silences()
    assert made.memory.board.held_up == held_up
    made.exchange.flights.silences[SILENT] = 0.0
    made.tell_silences()
    assert not made.memory.board.held_up


def test_one_that_follows_begins_rounds_of_the_numbers_that_it_is_told(make):
    exchange = Rounds()
    made = make(Board(*[TRAIN] * 40, STOP), exchange)
    made.spec.follows, made.store.read_updates = True, lambda: 10**6  # images alone begin no round
    words = made.words
    words.states[:] = SEEN
    words.note("wanted", 7)  # rounds 1 to 6 have begun elsewhere meanwhile: one stands for all of them
    made.run()
    assert exchange.begun == 1
    assert (words.read("round_begun"), words.read("round_done")) == (7, 7)


def test_workers_wait_for_a_server_that_is_silent_to_another_machine_of_the_group(make):
    made = make(Board(TRAIN), Rounds())
    words, updates = made.words, [0]
    words.states[:] = SEEN
    made.store.read_updates = lambda: updates[0]
    words.note("others_done", 0)
    words.note("others_silent", 1500)
    for updates[0] in (10, 20, 30, 40):
        made.round(lambda: True)  # those of this machine go on
        made.tell_silences()
        assert not made.memory.board.held_up
    updates[0] = 51  # 41 since the beginning of the first that the others have not done
    made.tell_silences()
    assert made.memory.board.held_up
    words.note("others_done", 2)  # now 21
    made.tell_silences()
    assert not made.memory.board.held_up

"""The processes that make pictures for other machines: what they leave when they die, of a sample or of nothing."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time

import numpy as np
import pytest
import zmq

from adam_mp.data.augmentation import PRESETS
from adam_mp.data.pictures import PictureSpec, open_pictures
from adam_mp.data.reading.faults import Fault
from adam_mp.data.reading.loading import LoadOptions, load_data
from adam_mp.data.serving import makers as makers_module
from adam_mp.data.serving.picture_messages import answer_bytes, longest_answer, most_samples, pack_request
from adam_mp.errors import ProcessError
from adam_mp.transport.messages import Kind, Message, encode
from tests.data.odd_makers import die
from tests.data.reading.test_loading import Items
from tests.data.sides import (
    COLOUR,
    COLOURS,
    COUNT,
    GREY,
    SPEC,
    Side,
    arrays_data,
    expect_same,
    fill,
    question,
    remote,
    serving,
)
from tests.system.conftest import wait_until

DEADLY = 5


class Deadly(Items):
    """A data set that kills a process which asks for one of its items, but for the one that made it."""

    def __init__(self, count):
        super().__init__(count)
        self.mother = os.getpid()

    def __getitem__(self, index):
        if index == DEADLY and os.getpid() != self.mother:
            os.abort()
        return np.full(self.shape, 10 * index, np.uint8), self.targets[index]


@pytest.fixture
def deadly(forks):
    """Two machines' copies of a data set with a deadly item."""
    made = []
    for _ in range(2):
        made.append(Side(load_data(Deadly(12), LoadOptions("32"))))
    yield made
    for side in made:
        side.close()


@pytest.mark.parametrize("count", [1, 2])
def test_a_sample_that_kills_two_processes_is_left_out_for_all_and_named_once(deadly, count):
    here, there = deadly
    spec = PictureSpec(COLOURS, PRESETS["none"])
    with serving(there, count=count) as (address, server), remote(here, address, spec=spec) as pictures:
        for epoch in (1, 2):
            labels = [fill(pictures, batch, COLOUR, epoch)[1] for batch in np.arange(12).reshape(-1, 4)]
            expected = np.delete(there.memory.arrays["labels"], DEADLY)
            np.testing.assert_array_equal(np.concatenate(labels), expected)
        assert here.memory.arrays["bad"].nonzero()[0].tolist() == [DEADLY]
        assert here.memory.arrays["bad"][DEADLY] == Fault.CRASHED
        here.memory.arrays["bad"][DEADLY] = 0  # another replica asks for it
        assert len(fill(pictures, range(4, 8), COLOUR, 3)[0]) == 3
        notices = server.makers.notices
        assert len(notices) == 3
        assert [notice for notice in notices if "left out" in notice] == [
            f"item {DEADLY} of the training data: decoding it killed the process, twice; it is left out"
        ]
        assert sum("was killed by SIGABRT" in notice and "started again" in notice for notice in notices) == 2


def test_what_a_killed_process_had_to_do_is_done_by_others(make_side):
    here, there = make_side(arrays_data()), make_side(arrays_data())
    local = open_pictures(SPEC, here.memory, here.memory.board.counters[1])
    batches = np.arange(COUNT).reshape(-1, 4)
    with serving(there, count=2, restarts=99) as (address, server), remote(here, address) as pictures:
        for epoch in range(4):
            child = server.makers.children[f"picture maker {epoch % 2}"]
            pictures.prepare(*batches, key=epoch)
            os.kill(child.pid, signal.SIGKILL if epoch % 2 else signal.SIGSEGV)
            expect_same(pictures, local, batches, GREY, epoch)
            wait_until(
                lambda child=child, epoch=epoch: server.makers.children[f"picture maker {epoch % 2}"] is not child,
                "a successor",
            )
        assert len(server.makers.notices) == 4
        assert all("started again" in notice for notice in server.makers.notices)
        assert not there.memory.board.counters[0].read().decoding


def test_processes_that_die_of_nothing_end_the_server(make_side):
    side = make_side(arrays_data())
    with (
        side.makers(function=die, restarts=2) as makers,
        pytest.raises(ProcessError, match="picture maker 0 died 3 times in a row soon after its start; now it ended"),
    ):
        makers.wait_ready(lambda: False)
    assert len(makers.notices) == 2


def test_what_a_stuck_process_had_to_do_is_done_by_others(make_side, monkeypatch):
    monkeypatch.setattr(makers_module, "_STUCK", 1.0)
    here, there = make_side(arrays_data()), make_side(arrays_data())
    local = open_pictures(SPEC, here.memory, here.memory.board.counters[1])
    batches = np.arange(COUNT).reshape(-1, 4)
    with serving(there, count=2, restarts=99) as (address, server), remote(here, address) as pictures:
        expect_same(pictures, local, batches, GREY, 1)
        stuck = server.makers.children["picture maker 0"]
        os.kill(stuck.pid, signal.SIGSTOP)
        expect_same(pictures, local, batches, GREY, 2)
        wait_until(lambda: server.makers.children["picture maker 0"] is not stuck, "a successor")
        ended, replaced = server.makers.notices
        assert re.fullmatch(r"picture maker 0 has not moved for \d s; it is ended", ended)
        assert "started again" in replaced
        expect_same(pictures, local, batches, GREY, 3)
        slots = server.makers.slots  # the last answers may be on their way yet
        wait_until(lambda: sorted(slots._free) == list(range(slots.handle.slots)), "all slots to be free")


def test_a_process_that_has_nothing_to_do_is_not_stuck(make_side, monkeypatch):
    monkeypatch.setattr(makers_module, "_STUCK", 0.2)
    here, there = make_side(arrays_data()), make_side(arrays_data())
    with serving(there, count=2) as (address, server), remote(here, address) as pictures:
        fill(pictures, range(4), GREY, 1)
        time.sleep(1)
        assert not server.makers.notices


def test_many_that_take_no_answers_leave_a_slot_to_whoever_makes_the_next(make_side, monkeypatch):
    monkeypatch.setattr(makers_module, "_MOST_SPARE", 1)
    there = make_side(arrays_data())
    with serving(there, count=2) as (address, server), contextlib.ExitStack() as readers:
        context = readers.enter_context(zmq.Context())
        number = server._service.describe(question(there)).session
        for _ in range(6):
            reader = readers.enter_context(context.socket(zmq.DEALER))
            reader.rcvhwm, reader.rcvbuf, reader.linger = 1, 1 << 16, 0
            reader.connect(f"tcp://{address}")
            for sequence in range(2, 10):
                asked = pack_request(np.zeros(4000, np.int64), sequence).tobytes()
                message = Message(Kind.FETCH, asked, shard=number, sequence=sequence)
                reader.send_multipart([encode(message), message.payload])
        wait_until(lambda: server.statistics().requests + server.statistics().dropped >= 40, "all to be made")


def test_who_takes_no_answers_holds_nobody_up(make_side, monkeypatch):
    """A replica asks for much and takes nothing, so that its answers keep slots; the other gets all it wants."""
    monkeypatch.setattr(makers_module, "_MOST_SPARE", 1)
    there = make_side(arrays_data())
    greedy, other = make_side(arrays_data()), make_side(arrays_data())
    local = open_pictures(SPEC, other.memory, other.memory.board.counters[1])
    samples = np.zeros(4000, np.int64)
    with serving(there) as (address, _server), remote(greedy, address) as pictures, remote(other, address) as mine:
        for key in range(60):
            pictures.prepare(samples, key=key)
            pictures._receive = lambda _seconds: False
        expect_same(mine, local, np.arange(COUNT).reshape(-1, 4), GREY, 1)


def test_slots_hold_any_answer():
    for shape in ((1, 1, 1), (9, 9, 1), (224, 224, 3), (2000, 2000, 3)):
        most = most_samples(shape)
        for bad in (0, 1, most // 2, most):
            assert answer_bytes(most - bad, bad, shape) <= longest_answer(most, shape)

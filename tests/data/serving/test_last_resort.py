"""While no data server answers, a machine makes its pictures itself: the same ones, and it goes back to the servers."""

from __future__ import annotations

import time

import numpy as np
import pytest

from adam_mp.data.augmentation import parse_augmentation
from adam_mp.data.pictures import PictureSpec, open_pictures
from adam_mp.data.reading.faults import Fault
from adam_mp.data.reading.loading import LoadOptions, load_data
from adam_mp.errors import TransportError
from adam_mp.memory.board import ELSEWHERE, HERE
from tests.data.odd_makers import make_slowly
from tests.data.pictures_on_disk import write_folder
from tests.data.sides import (
    COLOUR,
    COLOURS,
    COUNT,
    GREY,
    SPEC,
    arrays_data,
    expect_same,
    fill,
    serving,
    with_last_resort,
)
from tests.system.conftest import wait_until

BATCHES = np.arange(COUNT).reshape(-1, 4)


def made_by(side):
    return side.memory.board.counters[0].read().made_by


def go_back(pictures, local, key):
    """Have batches made, the same as here, until a server makes them; return the last key."""
    deadline = time.monotonic() + 60
    while "answers and makes" not in pictures.told[-1]:
        assert time.monotonic() < deadline
        key += 1
        expect_same(pictures, local, BATCHES, GREY, key)
    return key


def test_with_nobody_there_pictures_are_made_here_and_it_is_said_once(make_side, free_port):
    here = make_side(arrays_data())
    local = open_pictures(SPEC, here.memory, here.memory.board.counters[1])
    address = f"127.0.0.1:{free_port}"
    began = time.monotonic()
    with with_last_resort(here, address, deadline=0.7) as pictures:
        assert time.monotonic() - began >= 0.7
        for key in (1, 2):
            expect_same(pictures, local, BATCHES, GREY, key)
        assert pictures.told == [
            f"data server {address} does not answer (nobody answers there); this machine makes the pictures until one "
            f"answers; start it with: adam-mp serve-data --listen {address} ..."
        ]
    assert made_by(here) == HERE


def test_a_server_that_is_not_there_at_the_start_is_not_waited_for_as_long_as_a_slow_one(make_side, free_port):
    began = time.monotonic()
    with with_last_resort(make_side(arrays_data()), f"127.0.0.1:{free_port}", deadline=60.0) as pictures:
        assert 3 <= time.monotonic() - began < 30
        assert "does not answer (nobody answers there)" in pictures.told[0]


def test_servers_that_come_and_go_lose_no_picture_and_change_none(make_side, free_port):
    here, there = make_side(arrays_data()), make_side(arrays_data())
    local = open_pictures(SPEC, here.memory, here.memory.board.counters[1])
    address, key = f"127.0.0.1:{free_port}", 0
    with with_last_resort(here, address, deadline=0.5) as pictures:
        for _ in range(2):
            with serving(there, free_port) as (_, server):
                key = go_back(pictures, local, key)
                assert made_by(here) == ELSEWHERE
                before = server.statistics().pictures
                expect_same(pictures, local, BATCHES, GREY, key := key + 1)
                assert server.statistics().pictures > before
            expect_same(pictures, local, BATCHES, GREY, key := key + 1)
            assert made_by(here) == HERE
    assert ["answers and makes" in text for text in pictures.told] == [False, True, False, True, False]


def test_a_server_that_is_slow_gives_way_until_it_answers(make_side):
    here, there = make_side(arrays_data()), make_side(arrays_data())
    local = open_pictures(SPEC, here.memory, here.memory.board.counters[1])
    with (
        serving(there, function=make_slowly) as (address, _),
        with_last_resort(here, address, deadline=0.3) as pictures,
    ):
        expect_same(pictures, local, BATCHES[:1], GREY, 1)
        assert made_by(here) == HERE
        assert "it opened a session, and then was silent" in pictures.told[-1]
        pictures._servers._link._deadline = 60.0  # what is slow here is the machine
        go_back(pictures, local, 1)
        expect_same(pictures, local, BATCHES, GREY, 99)
    assert made_by(here) == ELSEWHERE


def test_bad_images_are_marked_whoever_finds_them(make_side, tmp_path, free_port):
    write_folder(tmp_path, 5, height=60, width=90)
    data = load_data(tmp_path, LoadOptions("32"))
    (tmp_path / "green" / "0002.jpg").unlink()
    spec = PictureSpec(COLOURS, parse_augmentation("reflect=0.5,crop=0.3,colour=0.1,noise=2", COLOUR), 7 / 8)
    here, mirror = make_side(data, 7 / 8), make_side(data, 7 / 8)
    local = open_pictures(
        PictureSpec(COLOURS, spec.augmentation, 7 / 8, here.source, here.handle), here.memory,
        here.memory.board.counters[1],
    )  # fmt: skip
    with with_last_resort(mirror, f"127.0.0.1:{free_port}", spec=spec, deadline=0.2) as pictures:
        expect_same(pictures, local, np.arange(15).reshape(-1, 5), COLOUR, 1)
    assert np.flatnonzero(mirror.memory.arrays["bad"]).tolist() == [7]
    assert mirror.memory.arrays["bad"][7] == Fault.MISSING
    assert mirror.memory.board.counters[0].read().bad == 1


def test_a_server_that_refuses_is_an_error_even_then(make_side, free_port):
    here, there = make_side(arrays_data(1)), make_side(arrays_data(2))
    with with_last_resort(here, f"127.0.0.1:{free_port}", deadline=0.2) as pictures:

        def prepare():
            pictures.prepare(BATCHES[0], BATCHES[1], key=1)

        fill(pictures, BATCHES[0], GREY, 1)
        with serving(there, free_port), pytest.raises(TransportError, match="refuses: the replica's data has digest"):
            wait_until(prepare, "the refusal")

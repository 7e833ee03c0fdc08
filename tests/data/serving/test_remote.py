"""Pictures from data servers over TCP: the same as those made here, whatever is lost, late, twice, wrong or dead."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.cli.serve_data import run as serve_data
from adam_mp.data.augmentation import PRESETS, parse_augmentation
from adam_mp.data.mixing import Mixing
from adam_mp.data.pictures import PictureSpec, open_pictures
from adam_mp.data.reading.dataset import epoch_order
from adam_mp.data.reading.faults import Fault
from adam_mp.data.reading.loading import LoadOptions, load_data
from adam_mp.data.serving.picture_messages import (
    MOST_SAMPLES,
    answer_bytes,
    pack_request,
    unpack_answer,
    unpack_request,
)
from adam_mp.data.serving.picture_service import PictureServer, PictureService
from adam_mp.data.serving.remote import RemotePictures
from adam_mp.data.serving.server import DataServer, DataServerSpec
from adam_mp.errors import AdamError, SettingsError, TransportError
from adam_mp.memory.run_memory import RunMemory
from adam_mp.transport.addresses import Address
from adam_mp.transport.keys import make_key_file
from adam_mp.transport.messages import Kind, Message, with_facts
from adam_mp.transport.zeromq import SocketDialer
from tests.data.odd_makers import make_faults, make_less_slowly, make_nonsense, make_slowly
from tests.data.pictures_on_disk import write_folder
from tests.data.serving.test_server import drain
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
    source_of,
)

KEYS = st.none() | st.integers(0, 2**64 - 1)


# The same pictures.


@pytest.mark.parametrize("key", [None, 0, 5, 2**64 - 1])
def test_pictures_of_arrays_are_those_made_here(make_side, key):
    here, there = make_side(arrays_data()), make_side(arrays_data())
    local = open_pictures(SPEC, here.memory, here.memory.board.counters[1])
    batches = np.random.default_rng(1).permutation(COUNT).reshape(-1, 5)
    with serving(there) as (address, server), remote(here, address) as pictures:
        expect_same(pictures, local, batches, GREY, key)
    done = server.statistics()
    assert done.pictures >= COUNT
    assert (done.sessions, done.refused) == (1, 0)
    assert done.bytes == done.requests * answer_bytes(5, 0, GREY)


def test_a_batch_that_is_larger_than_a_message_comes_in_parts(make_side, monkeypatch):
    monkeypatch.setattr("adam_mp.data.serving.picture_messages.PART_BYTES", 4 * 81 * 2)
    here, there = make_side(arrays_data()), make_side(arrays_data())
    local = open_pictures(SPEC, here.memory, here.memory.board.counters[1])
    with serving(there) as (address, server), remote(here, address) as pictures:
        expect_same(pictures, local, [np.arange(COUNT)], GREY, 3)
    assert server.statistics().requests >= COUNT // 2


def test_pictures_in_files_are_those_made_here_and_bad_ones_are_marked(make_side, tmp_path):
    write_folder(tmp_path, 5, height=60, width=90)
    data = load_data(tmp_path, LoadOptions("32"))
    whole = (tmp_path / "red" / "0003.jpg").read_bytes()
    (tmp_path / "red" / "0003.jpg").write_bytes(whole[:-300])
    (tmp_path / "green" / "0002.jpg").unlink()
    augmentation = parse_augmentation("reflect=0.5,crop=0.3,colour=0.1,noise=2", COLOUR)
    for keep in (7 / 8, 1.0):  # the server decodes for the first and, without its cache, for the second
        here = make_side(data, keep)
        there = make_side(data, 7 / 8)
        local = open_pictures(
            PictureSpec(COLOURS, augmentation, keep, here.source, here.handle), here.memory,
            here.memory.board.counters[1],
        )  # fmt: skip
        spec = PictureSpec(COLOURS, augmentation, keep)
        mirror = make_side(data)
        service = PictureService(there.data)
        service.describe(question(there, PictureSpec(COLOURS, augmentation, 7 / 8)))
        with serving(there, service=service, count=2) as (address, _), remote(mirror, address, spec=spec) as pictures:
            for epoch in (1, 2):
                expect_same(pictures, local, epoch_order(np.arange(15), 1, epoch).reshape(-1, 5), COLOUR, epoch)
        bad = mirror.memory.arrays["bad"]
        assert {number: Fault(bad[number]) for number in np.flatnonzero(bad)} == {7: Fault.MISSING, 13: Fault.DAMAGED}
        assert mirror.memory.board.counters[0].read().bad == 2
        assert (there.cache.statistics().images > 0) == (keep == 7 / 8)


def test_sessions_decode_as_their_replicas_do(make_side, tmp_path):
    write_folder(tmp_path, 2, height=60, width=90)
    service = PictureService(make_side(load_data(tmp_path, LoadOptions("32"))).data)
    side = make_side(load_data(tmp_path, LoadOptions("32")))
    spec = PictureSpec(COLOURS, PRESETS["none"])
    first, again = (service.session(service.describe(question(side, spec)).session) for _ in range(2))
    assert first == again
    assert first.cached
    for changes in ({"turned": False}, {"white": 4095.0}):
        other = service.session(service.describe(question(side, spec, **changes)).session)
        assert not other.cached
        assert all(getattr(other.look, name) == value for name, value in changes.items())
    facts = {name: value for name, value in question(side, spec).items() if name not in ("turned", "white")}
    older = service.session(service.describe(facts).session)
    assert (older.look.turned, older.look.white) == (False, 65535)


def test_a_file_that_is_mended_is_had_when_it_is_asked_for_again(make_side, tmp_path):
    write_folder(tmp_path, 2, height=60, width=90)
    data = load_data(tmp_path, LoadOptions("32"))
    path = tmp_path / "blue" / "0001.jpg"
    whole = path.read_bytes()
    path.unlink()
    here, there = make_side(data), make_side(data)
    with (
        serving(there) as (address, _),
        remote(here, address, spec=PictureSpec(COLOURS, PRESETS["none"])) as p,
    ):
        assert len(fill(p, range(6), COLOUR, 1)[0]) == 5
        assert here.memory.arrays["bad"][1] == Fault.MISSING
        assert len(fill(p, [1], COLOUR, 1)[0]) == 0  # known to be bad: nobody is asked
        path.write_bytes(whole)
        here.memory.arrays["bad"][1] = Fault.GOOD
        assert len(fill(p, range(6), COLOUR, 1)[0]) == 6


def test_a_data_server_process_fills_its_rings_from_remote(make_side, monkeypatch):
    there = make_side(arrays_data())
    made = []
    with serving(there) as (address, _):
        for far in (False, True):
            here = make_side(arrays_data(), workers=1, servers=1)
            here.memory.sample_order[...] = epoch_order(np.arange(COUNT), 1, 0)
            here.memory.ledger.open(0, np.zeros(COUNT // 4, np.uint8))
            here.memory.arrays["labels"][...] = there.memory.arrays["labels"][...] = np.arange(COUNT)
            monkeypatch.setattr(RunMemory, "attach", lambda handle, here=here: here.memory)
            source = source_of(here, address) if far else None
            server = DataServer(DataServerSpec(1, here.memory.handle, 4, 1, SPEC, source, Mixing(1.0, 1.0)))
            made.append(drain(here.memory, [server]))
            if far:
                server.pictures.close()
    (near, near_tags), (far_, far_tags) = made
    assert sorted(near_tags) == sorted(far_tags)
    assert sorted(near) == sorted(far_) == list(range(COUNT))
    for sample, picture in near.items():
        np.testing.assert_array_equal(picture, far_[sample])


def test_with_keys_both_sides_need_the_same(make_side, tmp_path):
    here, there = make_side(arrays_data()), make_side(arrays_data())
    keys, others = make_key_file(tmp_path / "key"), make_key_file(tmp_path / "other")
    with serving(there, keys=keys) as (address, _):
        with remote(here, address, keys=keys) as pictures:
            assert len(fill(pictures, range(4), GREY, 1)[0]) == 4
        with remote(here, address, keys=others, deadline=1.0) as pictures:
            assert pictures.silent
            assert re.search(r"does not answer \(.*key.*pictures until one answers$", pictures.describe_silence())


# What goes wrong.


def test_other_data_are_refused_with_both_digests(make_side):
    here, there = make_side(arrays_data(1)), make_side(arrays_data(2))
    with serving(there) as (address, server), pytest.raises(TransportError) as caught:
        RemotePictures(SPEC, source_of(here, address), here.memory, here.memory.board.counters[0])
    text = str(caught.value)
    assert f"data server {address} refuses" in text
    assert str(here.data.digest) in text
    assert str(there.data.digest) in text
    assert server.statistics().refused >= 1


def test_a_class_that_only_one_side_has_is_named(make_side):
    here, there = make_side(arrays_data(1)), make_side(arrays_data(1))
    names = ("cat", "dog", "h\u00e4n")
    there.data = dataclasses.replace(there.data, class_names=names, classes=3)
    source = dataclasses.replace(source_of(here), classes=("cat", "h\u00e4n"))
    with serving(there) as (address, _):
        source = dataclasses.replace(source, addresses=(address,))
        with pytest.raises(
            TransportError, match=r"have the classes cat, .*: only the data server has dog; give both sides"
        ):
            RemotePictures(SPEC, source, here.memory, here.memory.board.counters[0])
        same = dataclasses.replace(source, classes=names)
        RemotePictures(SPEC, same, here.memory, here.memory.board.counters[0]).close()


def test_other_labels_are_noticed(make_side):
    here, there = make_side(arrays_data()), make_side(arrays_data())
    here.memory.arrays["labels"][3] = 7
    with (
        serving(there) as (address, _),
        remote(here, address) as pictures,
        pytest.raises(TransportError, match=f"data server {address} has label . for sample 3, this machine 7"),
    ):
        fill(pictures, [2, 3], GREY, 1)


def test_a_server_that_was_replaced_gets_the_session_again(make_side, free_port):
    here, there, other = (make_side(arrays_data()) for _ in range(3))
    local = open_pictures(SPEC, here.memory, here.memory.board.counters[1])
    batches = np.arange(COUNT).reshape(-1, 8)
    with contextlib.ExitStack() as stack:
        with serving(there, free_port) as (address, first):
            pictures = stack.enter_context(remote(here, address))
            expect_same(pictures, local, batches, GREY, 1)
        with serving(other, free_port) as (_, second):
            expect_same(pictures, local, batches, GREY, 2)
    assert first.statistics().refused == 0
    assert second.statistics().refused >= 1  # for the session that it did not know
    assert second.statistics().sessions == 1
    assert second.statistics().pictures >= COUNT


def test_a_dead_first_address_gives_way_to_the_second(make_side, free_port):
    here, there = make_side(arrays_data()), make_side(arrays_data())
    local = open_pictures(SPEC, here.memory, here.memory.board.counters[1])
    with serving(there) as (address, _), remote(here, f"127.0.0.1:{free_port}", address) as pictures:
        expect_same(pictures, local, np.arange(COUNT).reshape(-1, 8), GREY, 1)


def test_a_server_that_falls_silent_gives_way_to_the_next(make_side):
    here, there, other = (make_side(arrays_data()) for _ in range(3))
    local = open_pictures(SPEC, here.memory, here.memory.board.counters[1])
    with contextlib.ExitStack() as stack:
        second, _ = stack.enter_context(serving(other))
        with serving(there) as (first, _):
            pictures = stack.enter_context(remote(here, first, second))
            expect_same(pictures, local, [np.arange(8)], GREY, 1)
        expect_same(pictures, local, np.arange(COUNT).reshape(-1, 8), GREY, 2)


def test_an_address_that_is_none_is_refused(make_side):
    here = make_side(arrays_data())
    for addresses in (("here",), ()):
        with pytest.raises(SettingsError, match="expected"), remote(here, *addresses):
            pass


class Once(PictureServer):
    """Answers each request twice, and loses the first one."""

    lost = 0

    def _queue(self, request):
        if not self.lost:
            self.lost += 1
        else:
            super()._queue(request)

    def _send(self, peer, answer):
        super()._send(peer, answer)
        super()._send(peer, answer)


def test_a_slow_answer_is_asked_for_again_made_once_and_used_once(make_side):
    here, there = make_side(arrays_data()), make_side(arrays_data())
    local = open_pictures(SPEC, here.memory, here.memory.board.counters[1])
    with serving(there, function=make_slowly) as (address, server), remote(here, address) as pictures:
        asked = count_sent(pictures)
        pictures.prepare(np.arange(4), np.arange(4, 8), key=1)
        for batch in (range(4), range(4, 8)):
            for mine, theirs in zip(fill(local, batch, GREY, 1), fill(pictures, batch, GREY, 1), strict=True):
                np.testing.assert_array_equal(mine, theirs)
        assert len(asked) > len(set(asked)) == 2  # asked again
        assert there.memory.board.counters[0].read().heartbeat == 2
    assert server.statistics().requests == 2  # counted after the answer was sent, so only now surely


def test_what_is_lost_comes_again_and_what_comes_twice_is_used_once(make_side):
    here, there = make_side(arrays_data()), make_side(arrays_data())
    local = open_pictures(SPEC, here.memory, here.memory.board.counters[1])
    with serving(there, kind=Once) as (address, server), remote(here, address) as pictures:
        expect_same(pictures, local, np.arange(COUNT).reshape(-1, 4), GREY, 1)
    assert server.lost == 1


def test_what_finds_the_server_full_comes_later(make_side, monkeypatch):
    monkeypatch.setattr("adam_mp.data.serving.picture_service._MOST_REQUESTS", 1)
    here, there = make_side(arrays_data()), make_side(arrays_data())
    local = open_pictures(SPEC, here.memory, here.memory.board.counters[1])
    with serving(there, function=make_less_slowly) as (address, server), remote(here, address) as pictures:
        expect_same(pictures, local, np.arange(8).reshape(2, 4), GREY, 1)
    assert server.statistics().dropped >= 1


def count_sent(pictures):
    """Note the sequence number of each request that is sent from now on."""
    sent, send = [], pictures._link.send
    pictures._link.send = lambda message: sent.append(message.sequence) or send(message)
    return sent


def test_what_was_forgotten_is_ignored_when_it_comes(make_side):
    here, there = make_side(arrays_data()), make_side(arrays_data())
    local = open_pictures(SPEC, here.memory, here.memory.board.counters[1])
    with serving(there) as (address, _), remote(here, address) as pictures:
        pictures.prepare(np.arange(8), np.arange(8, 16), key=1)
        expect_same(pictures, local, [np.arange(4, 12)], GREY, 2)
        pictures.prepare(key=None)
        assert not pictures._waiting
        assert not pictures._ahead


# What is sent.


@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=50), KEYS)
def test_a_request_is_read_as_it_was_written(samples, key):
    there, drawn = unpack_request(pack_request(np.array(samples), key).tobytes())
    assert there.tolist() == samples
    assert drawn == key


@given(st.binary(max_size=100))
def test_other_bytes_are_no_request(content):
    try:
        samples, key = unpack_request(content)
    except TransportError:
        return
    assert pack_request(samples, key).tobytes() == content or key is None


@given(st.binary(max_size=200), st.integers(0, 3), st.integers(-1, 4), st.integers(-1, 4))
def test_bytes_that_are_no_answer_are_refused(content, count, kept, bad):
    header = np.array([kept, bad], "<i8").tobytes()
    for payload in (content, header + content, header + content[:8] * 4):
        try:
            answer = unpack_answer(payload, count, (1, 2, 1))
        except TransportError:
            continue
        assert len(answer.labels) + len(answer.positions) == count
        assert answer.images.shape == (len(answer.labels), 1, 2, 1)
        assert ((answer.positions >= 0) & (answer.positions < count)).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"digest": None},
        {"count": "x"},
        {"image_shape": [9, 9]},
        {"normalization": 3},
        {"normalization": {}},
        {"keep": 0},
        {"keep": float("nan")},
        {"keep": 1.5},
        {"keep": True},
        {"ranges": []},
        {"ranges": [-1.0] * 12},
        {"ranges": ["1"] * 12},
        {"ranges": [float("inf")] + [0] * 11},
        {"ranges": [10**400] + [0] * 11},
        {"normalization": {"mean": [0], "deviation": [0], "fill": 0, "directions": []}},
        {"normalization": {"mean": [0], "deviation": [1], "fill": [], "directions": []}},
        {"normalization": {"mean": [0], "deviation": [1], "fill": 0, "directions": [[1], [2]]}},
        {"normalization": {"mean": [0, 0], "deviation": [1, 1], "fill": 0, "directions": []}},
    ],
)
def test_descriptions_that_cannot_be_are_refused(make_side, changes):
    side = make_side(arrays_data())
    with pytest.raises(AdamError) as caught:
        PictureService(side.data).describe(question(side, **changes))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=12) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=20,
)


@given(st.sampled_from(["normalization", "ranges", "keep", "mean", "deviation", "fill", "directions"]), JSON)
def test_any_description_is_taken_or_refused(field, value):
    side = Side(arrays_data())
    try:
        facts = question(side)
        (facts if field in facts else facts["normalization"])[field] = value
        facts = json.loads(json.dumps(facts))
        service = PictureService(side.data)
        try:
            session = service.describe(facts).session
        except AdamError:
            return
        images = unpack_answer(side.fetcher(service)(session, pack_request(np.arange(2), 1)), 2, GREY).images
        assert images.shape == (2, *GREY)
    finally:
        side.close()


def test_requests_that_cannot_be_are_refused(make_side):
    side = make_side(arrays_data())
    service = PictureService(side.data)
    session = service.describe(question(side)).session
    fetch = side.fetcher(service)
    for samples in ([COUNT], [-1], [0, 2**40], [], [0] * (MOST_SAMPLES + 1)):
        with pytest.raises(TransportError):
            fetch(session, pack_request(np.array(samples, np.int64), 1))
    with pytest.raises(TransportError):
        fetch(session, b"odd")
    assert service.session(session + 1) is None
    assert len(fetch(session, pack_request(np.zeros(MOST_SAMPLES, np.int64), 1))) == answer_bytes(MOST_SAMPLES, 0, GREY)


def test_the_same_description_is_the_same_session_and_the_oldest_goes(make_side):
    side = make_side(arrays_data())
    service, other = PictureService(side.data), PictureService(make_side(arrays_data()).data)
    sessions = [service.describe(question(side, keep=1 / n)).session for n in range(1, 17)]
    assert len(set(sessions)) == 16
    assert other.describe(question(side, keep=1 / 16)).session == sessions[-1]
    assert service.session(sessions[0])
    assert service.describe(question(side, keep=1 / 2)).session == sessions[1]
    service.describe(question(side, keep=1 / 17))
    assert service.sessions == 16
    assert service.session(sessions[0])
    assert service.session(sessions[2]) is None


def test_garbage_is_refused_and_the_server_lives(make_side):
    here, there = make_side(arrays_data()), make_side(arrays_data())
    generator = np.random.default_rng(5)
    with serving(there) as (address, server), remote(here, address) as pictures:
        session = pictures._link.session
        dialer, peer = SocketDialer(None), Address("127.0.0.1", int(address.rpartition(":")[2]))
        dialer.dial(peer)
        messages = [
            Message(Kind.FETCH, generator.bytes(int(size)), shard=int(shard), sequence=n)
            for n, (size, shard) in enumerate(zip(generator.integers(0, 300, 60), [session, 7] * 30, strict=True))
        ]
        messages += [
            Message(Kind.DESCRIBE, generator.bytes(50)),
            with_facts(Kind.DESCRIBE, {}),
            Message(Kind.DELTA),
        ]
        messages += [Message(Kind.FETCH, bytes(1 << 20), shard=session, sequence=99)]
        for message in messages:
            deadline = time.monotonic() + 10
            while dialer.send(peer, message) is None:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            _, answer = dialer.receive(10)
            assert answer.kind is Kind.REFUSED
            assert answer.sequence == message.sequence
            assert answer.facts()["reason"]
        dialer.close()
        assert len(fill(pictures, range(4), GREY, 1)[0]) == 4
    assert server.statistics().refused == len(messages)


def test_a_server_that_answers_nonsense_is_named(make_side):
    here = make_side(arrays_data())
    for function, message in (
        (make_nonsense, "sent an answer that is not valid"), (make_faults, "refuses: .*ValueError: a .fault"),
    ):  # fmt: skip
        there = make_side(arrays_data())
        with (
            serving(there, function=function) as (address, _),
            remote(here, address) as pictures,
            pytest.raises(TransportError, match=f"data server {address} {message}"),
        ):
            fill(pictures, [1], GREY, 1)


# The command.


def test_the_command_serves_until_it_is_told_to_stop(make_side, tmp_path):
    write_folder(tmp_path / "images", 4, height=60, width=90)
    data = load_data(tmp_path / "images", LoadOptions("32"))
    here, address_file = make_side(data), tmp_path / "address"
    arguments = ["--data", str(tmp_path / "images"), "--image-size", "32", "--listen", "127.0.0.1:0", "--cores", "2"]
    code = f"import sys; from adam_mp.cli.serve_data import run; sys.exit(run({arguments!r} + sys.argv[1:]))"
    with subprocess.Popen(
        [sys.executable, "-c", code, "--address-file", str(address_file)], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            deadline = time.monotonic() + 90
            while not address_file.exists():
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            address = address_file.read_text().strip()
            with remote(here, address, spec=PictureSpec(COLOURS, PRESETS["imagenet"], 7 / 8)) as pictures:
                assert len(fill(pictures, range(12), COLOUR, 1)[0]) == 12
            os.kill(server.pid, signal.SIGTERM)
            out, _ = server.communicate(timeout=20)
        finally:
            server.kill()
    assert server.returncode == 0
    assert (
        f"serving images: 12 images on {address}, 2 picture makers\n" in out
        or f"12 images on {address}, 2 picture makers\n" in out
    )
    assert "served 12 pictures in 1 answer, " in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--listen is missing"),
        (["--listen", "here"], "--listen is 'here'; expected HOST:PORT"),
        (["--listen", "0.0.0.0:0"], "without keys would let anyone join"),
        (["--listen", "127.0.0.1:0", "--key-file", "/nowhere"], "cannot read key file"),
        (["--listen", "127.0.0.1:0", "--cores", "0"], "cores is 0"),
        (["--listen", "127.0.0.1:0", "--data", "/nowhere"], "/nowhere"),
    ],
)
def test_the_command_says_what_is_wrong(arguments, message):
    with pytest.raises(AdamError, match=message):
        serve_data(arguments)

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.transport import messages
from adam_mp.transport.messages import (
    ENCODINGS,
    HEADER_BYTES,
    LONGEST,
    FrameError,
    Kind,
    Message,
    WrongVersion,
    decode,
    encode,
    with_facts,
)  # fmt: skip

NUMBERS = (Kind.FIRST, Kind.DELTA, Kind.FACTORS, Kind.FRESH)
HEADER = struct.Struct("<4sHHQQIIQQQHHI")
BYTES_8, BYTES_4 = st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1)


@st.composite
def any_message(draw) -> Message:
    encoding = draw(st.integers(0, len(ENCODINGS) - 1))
    kind = draw(st.sampled_from(Kind))
    payload = draw(st.binary(max_size=200))
    if kind in NUMBERS:
        payload = payload[: len(payload) // 4 * 4]
    return Message(
        kind,
        payload,
        draw(BYTES_8),
        draw(BYTES_8),
        draw(BYTES_4),
        draw(BYTES_4),
        draw(BYTES_8),
        draw(BYTES_8),
        encoding,
    )


def framed(payload: bytes = b"", **changed) -> bytes:
    """A header with other fields than `encode` would write, and the right checksum."""
    fields = {
        "magic": b"AdMP", "version": messages.VERSION, "kind": Kind.STATUS, "run": 0, "sender": 0, "map_epoch": 0,
        "shard": 0, "sequence": 0, "shard_version": 0, "length": len(payload), "encoding": 0, "pad": 0,
    } | changed  # fmt: skip
    header = HEADER.pack(*fields.values(), 0)
    return header[:-4] + crc32c(header + payload).to_bytes(4, "little")


def test_the_header_has_64_bytes():
    assert HEADER_BYTES == HEADER.size == 64


@given(any_message())
def test_a_message_comes_back_as_it_was(message):
    header = encode(message)
    assert len(header) == HEADER_BYTES
    assert decode(header, message.payload) == message


@given(any_message())
def test_a_message_comes_back_from_any_kind_of_buffer(message):
    header, payload = bytearray(encode(message)), bytearray(message.payload)
    assert decode(memoryview(header), memoryview(payload)) == message


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_comes_back(kind):
    assert decode(encode(Message(kind, bytes(8), 1, 2, 3, 4, 5, 6, 1)), bytes(8)) == Message(
        kind, bytes(8), 1, 2, 3, 4, 5, 6, 1
    )


def test_the_bytes_are_those_that_other_versions_expect():
    message = Message(Kind.DELTA, b"abcdefgh", 1, 2, 3, 4, 5, 6, 2)
    expected = framed(
        b"abcdefgh", kind=17, run=1, sender=2, map_epoch=3, shard=4, sequence=5, shard_version=6, encoding=2
    )  # fmt: skip
    assert encode(message) == expected


@given(any_message(), st.data())
def test_each_flipped_bit_is_found(message, data):
    header, payload = encode(message), bytes(message.payload)
    frames = header + payload
    bits = range(8 * len(frames)) if data.draw(st.booleans()) else [data.draw(st.integers(0, 8 * len(frames) - 1))]
    for bit in bits:
        flipped = bytearray(frames)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FrameError):
            decode(flipped[:HEADER_BYTES], flipped[HEADER_BYTES:])


@given(any_message(), st.data())
def test_a_truncated_message_is_refused(message, data):
    header, payload = encode(message), bytes(message.payload)
    cut = data.draw(st.integers(0, HEADER_BYTES - 1))
    with pytest.raises(FrameError, match=f"header has {cut} bytes; expected 64"):
        decode(header[:cut], payload)
    if payload:
        left = data.draw(st.integers(0, len(payload) - 1))
        with pytest.raises(FrameError, match=f"message says {len(payload)} bytes, but {left} came"):
            decode(header, payload[:left])


@given(any_message(), st.binary(min_size=1, max_size=100))
def test_a_longer_message_is_refused(message, more):
    header = encode(message)
    with pytest.raises(FrameError, match="header has"):
        decode(header + more, message.payload)
    with pytest.raises(FrameError, match="message says"):
        decode(header, bytes(message.payload) + more)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_any_bytes_are_refused(header, payload):
    with pytest.raises(FrameError):
        decode(header, payload)


@pytest.mark.parametrize("magic", [b"PMdA", b"GET ", b"\0\0\0\0", b"\n\n\n\n"])
def test_a_wrong_magic_is_named(magic):
    with pytest.raises(FrameError, match=r"begins with b'.*'; expected b'AdMP'") as error:
        decode(framed(magic=magic), b"")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("version", [0, messages.VERSION - 1, messages.VERSION + 1, 65535])
def test_another_version_is_refused_naming_both(version):
    expected = f"peer speaks version {version} of the messages, this side version {messages.VERSION}"
    with pytest.raises(WrongVersion, match=expected):
        decode(framed(version=version), b"")


def test_another_version_is_named_whatever_else_it_changed():
    with pytest.raises(WrongVersion):
        decode(framed(version=messages.VERSION + 1, length=99, kind=999)[:-4] + b"new!", b"payload")


@pytest.mark.parametrize("length", [0, 3, 5, 1 << 40, (1 << 64) - 1])
def test_a_wrong_length_is_refused(length):
    with pytest.raises(FrameError, match=f"message says {length} bytes, but 4 came"):
        decode(framed(b"abcd", length=length), b"abcd")


@pytest.mark.parametrize("kind", sorted({0, 11, 15, 24, 31, 34, 65535} - set(Kind)))
def test_an_unknown_kind_is_refused(kind):
    with pytest.raises(FrameError, match=f"unknown kind {kind}"):
        decode(framed(kind=kind), b"")


@pytest.mark.parametrize("encoding", [len(ENCODINGS), 255, 65535])
def test_an_unknown_encoding_is_refused(encoding):
    with pytest.raises(FrameError, match=f"unknown encoding {encoding}"):
        decode(framed(encoding=encoding), b"")


@pytest.mark.parametrize("kind", NUMBERS)
@pytest.mark.parametrize("encoding", range(len(ENCODINGS)))
@pytest.mark.parametrize("length", range(9))
def test_numbers_come_whole_or_not_at_all(kind, encoding, length):
    payload = bytes(length)
    header = encode(Message(kind, payload, encoding=encoding))
    width = 4 if encoding == 0 else 2
    if length % width:
        with pytest.raises(FrameError, match=f"{kind.name} has {length} bytes"):
            decode(header, payload)
    else:
        assert decode(header, payload).array().size == length // width


def test_an_oversized_payload_is_refused_on_both_sides():
    payload = bytearray(LONGEST + 4)
    with pytest.raises(FrameError, match=f"expected at most {LONGEST}"):
        decode(framed()[:48] + len(payload).to_bytes(8, "little") + bytes(8), payload)
    with pytest.raises(FrameError, match=f"DELTA has {LONGEST + 4} bytes; expected at most {LONGEST}"):
        encode(Message(Kind.DELTA, payload))


@pytest.mark.parametrize("field", ["run", "sender", "map_epoch", "shard", "sequence", "version", "encoding"])
@pytest.mark.parametrize("number", [-1, 1 << 64])
def test_numbers_that_fit_no_header_are_an_error_of_the_sender(field, number):
    with pytest.raises(struct.error):
        encode(Message(Kind.STATUS, **{field: number}))


@pytest.mark.parametrize(("encoding", "dtype"), list(enumerate(("<f4", "<f2", "<u2"))))
def test_arrays_are_views_of_the_payload(encoding, dtype):
    numbers = np.arange(12).astype(dtype).reshape(3, 4)
    message = Message(Kind.FRESH, numbers, encoding=encoding)
    received = decode(encode(message), memoryview(numbers))
    assert received.length == numbers.nbytes
    assert received.array().dtype == dtype
    assert np.array_equal(received.array(), numbers.ravel())
    assert np.shares_memory(received.array(), numbers)


def test_a_payload_with_gaps_is_an_error_of_the_sender():
    with pytest.raises(ValueError, match="contiguous"):
        encode(Message(Kind.FRESH, np.ones((4, 4), np.float32)[:, ::2]))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=4,
)


@given(st.dictionaries(st.text(), JSON))
def test_facts_come_back(facts):
    message = with_facts(Kind.REPORT, facts, run=7, sender=3)
    assert (message.run, message.sender) == (7, 3)
    assert decode(encode(message), message.payload).facts() == facts


@given(st.binary(max_size=100))
def test_facts_of_any_bytes_are_an_object_or_refused(payload):
    try:
        facts = json.loads(payload)
    except ValueError:
        facts = None
    message = Message(Kind.REPORT, payload)
    if isinstance(facts, dict):
        assert message.facts() == facts
        return
    with pytest.raises(FrameError, match=r"^REPORT ") as error:
        message.facts()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("payload", [b"", b"{", b"\xff\xfe\x00", b"{'a': 1}", b'{"a": 1} more', b"9" * 5000, b"{}\0"])
def test_facts_that_are_no_json_are_refused(payload):
    with pytest.raises(FrameError, match="JOIN is not JSON: ") as error:
        Message(Kind.JOIN, payload).facts()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("payload", [b"[]", b"1", b'"text"', b"null", b"[{}]", b"true"])
def test_facts_that_are_no_object_are_refused(payload):
    with pytest.raises(FrameError, match=r"WELCOME holds .*; expected a JSON object"):
        Message(Kind.WELCOME, payload).facts()


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000, "[" * 200_000 + "]" * 200_000])
def test_facts_nested_deeply_are_refused(text):
    with pytest.raises(FrameError, match="STATE"):
        Message(Kind.STATE, text.encode()).facts()


def test_facts_that_are_too_long_are_not_parsed():
    with pytest.raises(FrameError, match="STATE has 16777217 bytes of JSON; expected at most 16777216"):
        Message(Kind.STATE, bytearray((16 << 20) + 1)).facts()


@given(any_message())
def test_every_message_prints_itself_in_one_line(message):
    assert message.kind.name in str(message)
    assert f"{message.length} bytes" in str(message)
    for text in (str(message), repr(message)):
        assert len(text.splitlines()) == 1
        assert len(text) < 400


def test_a_message_of_an_array_prints_itself_in_one_line():
    message = Message(Kind.FRESH, np.ones((100, 100), np.float32), shard=3, version=9)
    assert str(message) == "FRESH from 0 of run 0: shard 3 at version 9, sequence 0, map 0, 40000 bytes"
    assert len(repr(message).splitlines()) == 1

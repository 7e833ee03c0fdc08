"""Bundles of shards in COPY messages, and the answers to them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from adam_mp.memory.layout import Layout
from adam_mp.params.server.copy_bundles import ShardCopy, pack_copies, pack_verdicts, read_verdicts, unpack_copies
from adam_mp.transport.messages import FrameError, Kind, Message

LAYOUT = Layout.of({"a": (2, 16), "b": (3, 32), "c": (1, 16)})
WEIGHTS = np.arange(LAYOUT.size, dtype=np.float32)
COPIES = [
    ShardCopy(9, 2, 1 << 50, {5: 7, 1 << 63: 1 << 62}, WEIGHTS[LAYOUT.shards[2].place]),
    ShardCopy(1, 0, 0, {}, WEIGHTS[:0]),
    ShardCopy(3, 1, 4, {8: 1}, WEIGHTS[LAYOUT.shards[1].place]),
]


def message_of(copies):
    return Message(Kind.COPY, pack_copies(copies), sequence=len(copies))


def test_a_bundle_has_all_of_its_shards():
    weights = WEIGHTS.copy()
    message = message_of([dataclasses.replace(copy, weights=weights[: copy.weights.size]) for copy in COPIES])
    weights[...] = -1  # the payload is of the moment in which it was made
    assert message.length == sum(copy.bytes for copy in COPIES)
    for copy, read in zip(COPIES, unpack_copies(message, LAYOUT), strict=True):
        assert (read.epoch, read.shard, read.version, read.applied) == (
            copy.epoch,
            copy.shard,
            copy.version,
            copy.applied,
        )
        assert np.array_equal(read.weights, WEIGHTS[: copy.weights.size])
    assert unpack_copies(message_of([]), LAYOUT) == []


@pytest.mark.parametrize(
    "change",
    [
        {"sequence": 4},
        {"sequence": 2},
        {"sequence": 1 << 60},
        {"payload": b""},
        {"payload": pack_copies(COPIES)[:-4]},
        {"payload": pack_copies([dataclasses.replace(COPIES[0], shard=3), *COPIES[1:]])},
        {"payload": pack_copies([dataclasses.replace(COPIES[0], version=0), *COPIES[1:]])},
        {
            "payload": np.concatenate(
                [np.array([9, 0, 0, 1 << 63] * 3, np.uint64).view(np.uint8), WEIGHTS.view(np.uint8)]
            )
        },
    ],
)
def test_a_malformed_bundle_is_refused(change):
    with pytest.raises(FrameError):
        unpack_copies(dataclasses.replace(message_of(COPIES), **change), LAYOUT)


def test_answers_tell_the_fate_of_each_shard():
    rows = [(9, 2, 1 << 50, 9), (1, 0, 0, 1 << 40)]
    answer = Message(Kind.COPIED, pack_verdicts(rows), sequence=2)
    assert read_verdicts(answer) == rows
    for count in (0, 1, 3):
        with pytest.raises(FrameError):
            read_verdicts(dataclasses.replace(answer, sequence=count))

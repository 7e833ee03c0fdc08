"""All messages, in one page: a fixed header of 64 bytes and a payload of raw bytes.

    magic "AdMP" | version | kind | run | sender | map epoch | shard | sequence | shard version | length | encoding
    | group | crc32c

`run` is the run's id (0 before the sender knows it). `sender` is the number that the coordinator gave the sending
member. `map_epoch` is the version of the bucket map that the sender has; in messages about shards it is the map epoch
of the shard's group of buckets. `shard` is the number of a shard (in FACTORS the index of a tensor, in FETCH and
PICTURES the number of a session). `sequence` numbers the messages of a sender about a shard, so that the receiver
applies a message once even if it arrives twice. `shard version` counts the changes of the shard's weights. `group` is
the number of a group of buckets, in messages that are about one. In messages between the partitions of a model the
fields mean what `partitions.frames` says. The crc32c covers header and payload. Numbers are little-endian. Payloads of
control messages are JSON objects.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import struct
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from crc32c import crc32c

from adam_mp.errors import AdamError

MAGIC = b"AdMP"
# Of the messages; a receiver refuses others. In version 3 there were no groups of buckets. In version 2 answers of the
# coordinator had lists of pairs in place of JSON objects, and empty values. In version 1 small networks were not cut
# into smaller shards for several parameter servers.
VERSION = 4
_HEADER = struct.Struct("<4sHHQQIIQQQHHI")
HEADER_BYTES = _HEADER.size
LONGEST = 64 << 20  # bytes of a payload
_LONGEST_TEXT = 16 << 20  # bytes of a payload that is JSON
_CRC_AT = HEADER_BYTES - 4
_NO_CRC = bytes(4)
_LONGEST_SHOWN = 500  # characters
ENCODINGS = ("float32", "float16", "bfloat16")


class Kind(enum.IntEnum):
    """What a message is for. Kinds up to REFUSED carry a JSON object, the others raw arrays or nothing."""

    JOIN = 1  # a part of a run asks to be a member
    WELCOME = 2  # the coordinator's answer: member number, run, bucket map
    REPORT = 3  # a member says that it lives; a replica also says what it has trained, and asks for batches
    ORDERS = 4  # the coordinator's answer: batches granted, epoch, the newest bucket map
    LEAVE = 5  # a member leaves, or its supervisor knows that it is dead
    STATUS = 6  # any peer asks for the state of the run
    STATE = 7  # the answer to STATUS
    DESCRIBE = 8  # a replica describes its data and pictures to a data server, to open a session
    DESCRIPTION = 9  # the answer to DESCRIBE: the number of the session
    REFUSED = 10  # why the peer did not take a message

    FIRST = 16  # first weights of a shard; a parameter server takes them only if it has none
    DELTA = 17  # the parameter server adds the payload to a shard
    FACTORS = 18  # activations and errors of a dense layer, for a parameter server to multiply and add to its shards
    PULL = 19  # asks for a shard, unless the shard's version is still the one in the header
    FRESH = 20  # the answer: the shard's weights
    UNCHANGED = 21  # the answer: the replica's base, plus the delta that it pushed, is the shard
    EMPTY = 22  # the answer: the parameter server has no weights for this shard yet; send FIRST
    MOVED = 23  # the answer: the parameter server has another bucket map, or does not own this shard
    CONFIRM = 24  # a replica asks when some of its updates are stable: rows of map epoch, shard and sequence
    STABLE = 25  # the answer, once they are: all in-sync copies have them

    COPY = 26  # a primary sends copies of shards (see `params/server/copy_bundles.py`)
    COPIED = 27  # the answer: which of them are taken
    BEAT = 28  # a server tells another that it lives

    FETCH = 32  # a replica asks a data server for the pictures of some samples
    PICTURES = 33  # the answer to FETCH

    # Of a model whose partitions are on several machines (see `partitions`).
    GROUP = 48  # a courier says what its member has done, or how far the group is
    INPUT = 49  # the images of a batch, as far as the receiver's partition reads them
    WORK = 50  # the leader announces a work: a batch to train or to evaluate
    PART = 51  # what a node of one partition sends to another for a batch
    READ = 52  # the leader asks for some numbers of a partition's weights or optimizer state
    NUMBERS = 53  # the answer to READ
    WRITE = 54  # the leader sets some numbers of a partition's weights or optimizer state
    DO = 55  # the leader asks a partition to do something with its weights
    DONE = 56  # the answer to WRITE and DO


class FrameError(AdamError):
    """Received bytes are not a valid message."""


class WrongVersion(FrameError):  # noqa: N818, the name says what is wrong
    """The peer speaks another version of the messages."""


@dataclasses.dataclass(frozen=True)
class Message:
    """A message; its fields are those of the header.

    `payload` is any contiguous buffer, `map_epoch` the version of the sender's bucket map, `version` that of the
    shard's weights, `encoding` an index into ENCODINGS for payloads that are arrays.
    """

    kind: Kind
    payload: Any = dataclasses.field(default=b"", repr=False)
    run: int = 0
    sender: int = 0
    map_epoch: int = 0
    shard: int = 0
    sequence: int = 0
    version: int = 0
    encoding: int = 0
    group: int = 0

    @property
    def length(self) -> int:
        """Bytes of the payload."""
        return memoryview(self.payload).nbytes

    def array(self) -> np.ndarray:
        """Return a flat view of the payload: float32 or float16, or uint16 for bfloat16, as `encoding` says."""
        return np.frombuffer(self.payload, ("<f4", "<f2", "<u2")[self.encoding])

    def facts(self) -> dict[str, Any]:
        """Return the JSON object in the payload; raises FrameError if the payload is not one."""
        if self.length > _LONGEST_TEXT:
            raise FrameError(f"{self.kind.name} has {self.length} bytes of JSON; expected at most {_LONGEST_TEXT}")
        try:
            facts = json.loads(bytes(self.payload))
        except (ValueError, RecursionError) as error:
            raise FrameError(f"{self.kind.name} is not JSON: {error}") from None
        if not isinstance(facts, dict):
            raise FrameError(f"{self.kind.name} holds {type(facts).__name__}; expected a JSON object")
        return facts

    def __str__(self) -> str:
        return (
            f"{self.kind.name} from {self.sender} of run {self.run:x}: shard {self.shard} at version {self.version}, "
            f"sequence {self.sequence}, map {self.map_epoch}, {self.length} bytes"
        )


def confirm_payload(rows: Iterable[tuple[int, int, int]]) -> bytes:
    """Return rows of map epoch, shard and sequence as the payload of CONFIRM."""
    return np.array(list(rows), "<u8").tobytes()


def read_confirm(message: Message) -> list[tuple[int, int, int]]:
    """Return the rows in a CONFIRM; raises FrameError if it holds none."""
    if message.length % 24:
        raise FrameError(f"{message.kind.name} has {message.length} bytes, which is no whole number of rows")
    rows = np.frombuffer(message.payload, "<u8").reshape(-1, 3).tolist()
    return [(epoch, shard, sequence) for epoch, shard, sequence in rows]


def shown(text: object, longest: int = _LONGEST_SHOWN) -> str:
    """Return a text from a peer as one line of at most `longest` printable ASCII characters.

    Every text that came from the network passes here before it goes to a terminal: otherwise it could move the cursor,
    hide what the terminal shows, or fill the screen. White space becomes a blank, any other character a question mark.
    """
    letters = str(text)[:longest]
    return "".join(each if " " <= each <= "~" else " " if each.isspace() else "?" for each in letters)


def with_facts(kind: Kind, facts: Mapping[str, Any], **header: int) -> Message:
    """Return a message whose payload is the JSON object `facts`; `header` sets fields of the header."""
    return Message(kind, json.dumps(facts, separators=(",", ":")).encode(), **header)


def encode(message: Message) -> bytes:
    """Return the header of a message as bytes; the payload is sent behind it as it is.

    Raises FrameError if the payload is too long for any peer.
    """
    if message.length > LONGEST:
        raise FrameError(f"{message.kind.name} has {message.length} bytes; expected at most {LONGEST}")
    header = bytearray(
        _HEADER.pack(
            MAGIC, VERSION, message.kind, message.run, message.sender, message.map_epoch, message.shard,
            message.sequence, message.version, message.length, message.encoding, message.group, 0,
        )
    )  # fmt: skip
    header[_CRC_AT:] = _checksum(header, message.payload).to_bytes(4, "little")
    return bytes(header)


def decode(header: Any, payload: Any) -> Message:
    """Return the message in two received buffers; raises FrameError, which says what is wrong, if they hold none."""
    header = bytes(header)
    if len(header) != HEADER_BYTES:
        raise FrameError(f"header has {len(header)} bytes; expected {HEADER_BYTES}")
    fields = _HEADER.unpack(header)
    if fields[0] != MAGIC:
        raise FrameError(f"message begins with {fields[0]!r}; expected {MAGIC!r}")
    if fields[1] != VERSION:
        raise WrongVersion(f"peer speaks version {fields[1]} of the messages, this side version {VERSION}")
    length = memoryview(payload).nbytes
    if fields[9] != length:
        raise FrameError(f"message says {fields[9]} bytes, but {length} came")
    if length > LONGEST:
        raise FrameError(f"message has {length} bytes; expected at most {LONGEST}")
    if int.from_bytes(header[_CRC_AT:], "little") != _checksum(header, payload):
        raise FrameError("message does not match its checksum")
    try:
        kind = Kind(fields[2])
    except ValueError:
        raise FrameError(f"message is of unknown kind {fields[2]}") from None
    if fields[10] >= len(ENCODINGS):
        raise FrameError(f"message is in unknown encoding {fields[10]}")
    if length % (4 if fields[10] == 0 else 2) and kind in (Kind.FIRST, Kind.DELTA, Kind.FACTORS, Kind.FRESH):
        raise FrameError(f"{kind.name} has {length} bytes, which is no whole number of numbers")
    run, sender, map_epoch, shard, sequence, version = fields[3:9]
    return Message(kind, payload, run, sender, map_epoch, shard, sequence, version, fields[10], fields[11])


def _checksum(header: Any, payload: Any) -> int:
    start = crc32c(_NO_CRC, crc32c(bytes(header[:_CRC_AT])))
    return int(crc32c(payload, start))

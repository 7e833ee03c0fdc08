"""All messages, in one page: a fixed header of 64 bytes and a payload of raw bytes.

    magic "AdMP" | version | kind | run | sender | epoch | shard | sequence | shard version | length | encoding | crc32c

`run` is the run's identity (0 before it is known), `sender` the member that the coordinator numbered, `epoch` that of
the bucket map, `sequence` numbers a sender's messages about one shard, so that one that comes twice is applied once.
The crc32c covers header and payload. Numbers are little-endian. Payloads of control messages are JSON objects.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from crc32c import crc32c

from adam_mp.errors import AdamError

MAGIC = b"AdMP"
VERSION = 3  # 2: news had lists of pairs for a map, and empty values; 1: shards of up to 1 MB
_HEADER = struct.Struct("<4sHHQQIIQQQHHI")
HEADER_BYTES = _HEADER.size
LONGEST = 64 << 20  # bytes of a payload
_LONGEST_TEXT = 16 << 20  # bytes of a payload that is JSON
_CRC_AT = HEADER_BYTES - 4
_NO_CRC = bytes(4)
_LONGEST_SHOWN = 500  # letters
ENCODINGS = ("float32", "float16", "bfloat16")


class Kind(enum.IntEnum):
    """What a message is for. Those up to REFUSED carry JSON, the others raw arrays or nothing."""

    JOIN = 1  # a part of a run asks to be a member
    WELCOME = 2  # the coordinator's answer: member number, run, bucket map
    REPORT = 3  # a member lives; a replica tells what is trained and asks for batches
    ORDERS = 4  # the coordinator's answer: batches granted, epoch, the newest map
    LEAVE = 5  # a member goes, or is known to be dead
    STATUS = 6  # anyone asks how the run is
    STATE = 7  # the answer
    DESCRIBE = 8  # a replica asks a data server what it serves
    DESCRIPTION = 9  # the answer
    REFUSED = 10  # why a message was not taken

    FIRST = 16  # first weights of a shard, taken only where the server has none
    DELTA = 17  # to be added to a shard
    FACTORS = 18  # activations and errors of a dense layer, to be multiplied and added
    PULL = 19  # asks for a shard unless its version is the one given
    FRESH = 20  # the shard's weights
    UNCHANGED = 21  # the sender's copy, with what it pushed, is the shard
    EMPTY = 22  # the server has no weights for this shard yet: send FIRST
    MOVED = 23  # the bucket map is another one, or the shard is not this server's

    FETCH = 32  # a replica asks a data server for the pictures of some samples
    PICTURES = 33  # the answer


class FrameError(AdamError):
    """Received bytes are no message that can be used."""


class WrongVersion(FrameError):  # noqa: N818, it is what happened
    """The peer speaks another version of the messages."""


@dataclasses.dataclass(frozen=True)
class Message:
    """A message. `payload` is any contiguous buffer; `version` is that of a shard's weights."""

    kind: Kind
    payload: Any = dataclasses.field(default=b"", repr=False)
    run: int = 0
    sender: int = 0
    epoch: int = 0
    shard: int = 0
    sequence: int = 0
    version: int = 0
    encoding: int = 0

    @property
    def length(self) -> int:
        """Bytes of the payload."""
        return memoryview(self.payload).nbytes

    def array(self) -> np.ndarray:
        """Return the payload as flat float32 (or the 16-bit type of its encoding), a view."""
        return np.frombuffer(self.payload, ("<f4", "<f2", "<u2")[self.encoding])

    def facts(self) -> dict[str, Any]:
        """Return the JSON object in the payload; raises FrameError if it is none."""
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
            f"sequence {self.sequence}, map {self.epoch}, {self.length} bytes"
        )


def shown(text: object, longest: int = _LONGEST_SHOWN) -> str:
    """Return what a peer sent as a line may show it: one line of at most `longest` letters that every terminal has.

    All that came from the network and goes to a terminal passes here: else it could move the cursor, hide what stands
    there, or fill the screen. White space becomes a blank, any other letter beyond ASCII a question mark.
    """
    letters = str(text)[:longest]
    return "".join(each if " " <= each <= "~" else " " if each.isspace() else "?" for each in letters)


def with_facts(kind: Kind, facts: Mapping[str, Any], **header: int) -> Message:
    """Return a message whose payload is a JSON object."""
    return Message(kind, json.dumps(facts, separators=(",", ":")).encode(), **header)


def encode(message: Message) -> bytes:
    """Return the header of a message; its payload follows as it is. Raises FrameError if no peer would take it."""
    if message.length > LONGEST:
        raise FrameError(f"{message.kind.name} has {message.length} bytes; expected at most {LONGEST}")
    header = bytearray(
        _HEADER.pack(
            MAGIC, VERSION, message.kind, message.run, message.sender, message.epoch, message.shard, message.sequence,
            message.version, message.length, message.encoding, 0, 0,
        )
    )  # fmt: skip
    header[_CRC_AT:] = _checksum(header, message.payload).to_bytes(4, "little")
    return bytes(header)


def decode(header: Any, payload: Any) -> Message:
    """Return the message of two received buffers; raises FrameError, saying what is wrong, for any other bytes."""
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
    run, sender, epoch, shard, sequence, version = fields[3:9]
    return Message(kind, payload, run, sender, epoch, shard, sequence, version, fields[10])


def _checksum(header: Any, payload: Any) -> int:
    start = crc32c(_NO_CRC, crc32c(bytes(header[:_CRC_AT])))
    return int(crc32c(payload, start))

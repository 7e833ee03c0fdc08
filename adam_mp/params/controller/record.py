"""What etcd holds about a run: one record with its bucket map and the latest changes of roles, as JSON.

A server that changes the record swaps all of it for a new one. Etcd refuses that if another changed it meanwhile.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from adam_mp.errors import AdamError
from adam_mp.params.run.bucket_map import COMMITS, BucketMap
from adam_mp.params.run.run_facts import BUCKET_MAP, LARGEST, LATEST_MAP
from adam_mp.params.run.wishes import MOST_SERVERS
from adam_mp.transport.forms import ADDRESS, Choice, Inner, ListOf, Optional, Text, Whole, Wholes, entry, read, write

_KEPT = 32  # changes of roles that the record tells of
_LONGEST = 5000  # letters of a line


class RecordError(AdamError):
    """A key of the run holds what is no record of adam_mp."""


@dataclasses.dataclass(frozen=True)
class Change:
    """Roles changed in map `epoch`: a `line` for the user, and the identities of the servers that were `silent`."""

    epoch: int = entry(Whole(0, LATEST_MAP))
    line: str = entry(Text(_LONGEST))
    silent: Sequence[int] = entry(Wholes("servers", 0, LARGEST), ())


@dataclasses.dataclass(frozen=True)
class Record:
    """A run: its number, how many `servers` it has, on how many `copies` each bucket is, how they commit, its map."""

    run: int = entry(Whole(1, LARGEST))
    servers: int = entry(Whole(1, MOST_SERVERS))
    copies: int = entry(Whole(1, MOST_SERVERS))
    commit: str = entry(Choice(COMMITS))
    map: BucketMap | None = entry(Optional(BUCKET_MAP), None)
    changes: Sequence[Change] = entry(ListOf(Inner(Change), "changes"), ())

    def changed(self, bucket_map: BucketMap, lines: Sequence[str] = (), silent: Sequence[int] = ()) -> Record:
        """Return the record with a newer map, and with lines about the change."""
        new = [Change(bucket_map.epoch, line[:_LONGEST], sorted(silent)) for line in lines]
        return dataclasses.replace(self, map=bucket_map, changes=(*self.changes, *new)[-_KEPT:])


@dataclasses.dataclass(frozen=True)
class Elected:
    """Which server is the run's coordinator: its identity, and where members find it."""

    identity: int = entry(Whole(1, LARGEST))
    address: str = entry(ADDRESS)


def read_record(value: bytes) -> Record:
    """Return the record in the value of the key `run`; raises RecordError."""
    return read(Record, _json("run", value), RecordError)


def read_elected(value: bytes) -> Elected:
    """Return who is elected, by the value of the key `coordinator`; raises RecordError."""
    return read(Elected, _json("coordinator", value), RecordError)


def as_bytes(held: Record | Elected) -> bytes:
    """Return the value of a key."""
    return json.dumps(write(held), separators=(",", ":")).encode()


def _json(key: str, value: bytes) -> object:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise RecordError(f"the key {key} in etcd holds {value[:40]!r}, which is no JSON") from None

"""What a replica keeps of its exchange with the parameter servers, in shared memory so that it outlives its process.

Two flat spaces beside the weights: `base`, the servers' weights as they were last seen, and `sent`, the base with the
delta that was pushed. For each shard three words: its state, the sequence of its last push, the version of `base`. A
synchronizer that dies leaves them; its successor sends what was on its way once more, under the same sequence, and the
server knows it again. A shard that was being corrected (APPLYING) is taken whole from the server. A word tells whether
what lies in the outboxes is what the servers do not have yet. A word a server tells for how long it has been silent.

The bucket map is here too, as bytes: the supervisor notes each newer one, and the synchronizer, or its successor, finds
the newest. There are two places for it. The supervisor writes into the one that is not the newest, then counts the map
in the word `maps`. So a reader never sees half a map, whenever the writer dies; and a reader whose place was written
over meanwhile sees it by that word, and reads again.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from adam_mp.kernels.atomic import fetch_add, observe, publish
from adam_mp.memory.arena import Arena, ArenaHandle
from adam_mp.memory.layout import Layout
from adam_mp.memory.segment import Segment, SegmentHandle

UNSEEN, SEEN, PUSHED, APPLYING = range(4)  # states of a shard; UNSEEN: nothing was ever had from a server
_LINE = 8
_FIELDS = (
    "sequence", "round_begun", "round_done", "rounds", "wanted", "pushed_bytes", "pulled_bytes", "pushes", "pulls",
    "resent", "staleness", "round_ns", "overflows",
)  # fmt: skip
_INDEX = {name: index for index, name in enumerate((*_FIELDS, "agreed", "maps"))}
DISAGREED = -1  # the word `agreed`, while outboxes and weights do not tell of the same updates
_HEADER_WORDS = 2 * _LINE
_MAP_HEAD, _MAP_ENTRY = 128, 26 << 10  # bytes of a bucket map: of itself, and of a server in it


@dataclasses.dataclass(frozen=True)
class ExchangeStatistics:
    """Counters since the replica joined.

    A round is an exchange of all shards. Each has a number; one in which a synchronizer died is never done, and its
    successor's has the next. `round_begun` is the last that began, `round_done` the last after which the servers have
    all updates from before it, `wanted` the one that the supervisor waits for; `rounds` counts those that came to their
    end. Bytes are those of payloads. `staleness` sums up, over pulls, the updates of others that came with them.
    `round_ns` is the time of all rounds; `overflows` counts rounds in which activations were too many to be kept, or to
    be sent, and deltas went instead.
    """

    sequence: int
    round_begun: int
    round_done: int
    rounds: int
    wanted: int
    pushed_bytes: int
    pulled_bytes: int
    pushes: int
    pulls: int
    resent: int
    staleness: int
    round_ns: int
    overflows: int


@dataclasses.dataclass(frozen=True)
class ExchangeHandle:
    """What a child needs to attach."""

    arena: ArenaHandle
    words: SegmentHandle


class ExchangeMemory:
    """`base` and `sent` [layout.size], and the words. The synchronizer writes; the supervisor asks for rounds.

    `silences` [layout.servers] are the milliseconds for which each server of the map has owed an answer, while the
    synchronizer listened, and was not heard; 0 where it was heard last, or nothing was asked since.

    The word `agreed` is how many updates all outboxes had lost when they last agreed with the weights: while no more
    are lost, what lies in them is what a matrix's `local` has beyond its `base` (or `sent`, if that is pushed).
    The word `maps` is how many bucket maps the supervisor has noted.
    """

    def __init__(self, arena: Arena, words: Segment) -> None:
        self._arena, self._segment = arena, words
        self.layout = arena.layout
        self.base, self.sent = arena.spaces
        self._header = words.array(np.int64, (_HEADER_WORDS,), 0)
        shards = len(self.layout.shards)
        self.states = words.array(np.int64, (shards,), 8 * _HEADER_WORDS)
        self.sequences = words.array(np.int64, (shards,), 8 * (_HEADER_WORDS + shards))
        self.versions = words.array(np.int64, (shards,), 8 * (_HEADER_WORDS + 2 * shards))
        servers = self.layout.servers
        self.silences = words.array(np.int64, (servers,), 8 * (_HEADER_WORDS + 3 * shards))
        self._maps = words.array(np.uint8, (2, _map_bytes(servers)), 8 * (_HEADER_WORDS + 3 * shards + servers))

    @staticmethod
    def bytes_needed(layout: Layout) -> int:
        """Return the bytes it takes."""
        return Arena.bytes_needed(layout, 2) + _bytes_of_words(layout)

    @classmethod
    def create(cls, layout: Layout, folder: Path | None = None) -> ExchangeMemory:
        """Make it, owned by the caller. Raises SpaceError if there is no room."""
        arena = Arena.create("exchange", layout, 2, folder)
        try:
            return cls(arena, Segment.create("exchange words", _bytes_of_words(layout), folder))
        except BaseException:
            arena.close()
            raise

    @classmethod
    def attach(cls, handle: ExchangeHandle) -> ExchangeMemory:
        """Map what the supervisor made."""
        return cls(Arena.attach(handle.arena), Segment.attach(handle.words))

    @property
    def handle(self) -> ExchangeHandle:
        """What to send to a child, together with the descriptors."""
        return ExchangeHandle(self._arena.handle, self._segment.handle)

    @property
    def descriptors(self) -> list[int]:
        """The open files that children inherit."""
        return [self._arena.segment.handle.descriptor, self._segment.handle.descriptor]

    def read(self, name: str) -> int:
        """Return a counter."""
        return int(observe(self._header, _INDEX[name]))

    def add(self, name: str, amount: int = 1) -> int:
        """Add to a counter; return what it is now."""
        return int(fetch_add(self._header, _INDEX[name], amount)) + amount

    def note(self, name: str, value: int) -> None:
        """Set a counter, after all earlier writes."""
        publish(self._header, _INDEX[name], value)

    def note_map(self, text: bytes) -> None:
        """Note the newest bucket map. Supervisor only. Raises ValueError if it is too long for so many servers."""
        count = self.read("maps")
        place = self._maps[(count + 1) % 2]
        if len(text) > place.size - 8:
            raise ValueError(f"the bucket map has {len(text)} bytes; expected at most {place.size - 8}")
        place[:8].view(np.int64)[0] = len(text)
        place[8 : 8 + len(text)] = np.frombuffer(text, np.uint8)
        self.note("maps", count + 1)

    def read_map(self) -> tuple[int, bytes]:
        """Return how many maps were noted, and the newest, empty if there is none yet."""
        while True:
            count = self.read("maps")
            place = self._maps[count % 2]
            text = place[8 : 8 + int(place[:8].view(np.int64)[0])].tobytes()
            if self.read("maps") == count:
                return count, text if count else b""

    def next_round(self) -> int:
        """Return the number of the round that begins next, and has all that is in the weights by now."""
        return self.read("round_begun") + 1

    def want_round(self) -> int:
        """Ask for an exchange that begins from now on; return the number of the round that will have done it."""
        number = self.next_round()
        publish(self._header, _INDEX["wanted"], max(number, self.read("wanted")))
        return number

    def is_done(self, number: int) -> bool:
        """Tell whether the servers have all updates that were made before this round began."""
        return self.read("round_done") >= number

    def statistics(self) -> ExchangeStatistics:
        """Return the counters as of now."""
        return ExchangeStatistics(*self._header[: len(_FIELDS)].tolist())

    def close(self) -> None:
        """Give up this process's mapping."""
        del self.base, self.sent, self._header, self.states, self.sequences, self.versions, self.silences, self._maps
        self._arena.close()
        self._segment.close()


def _bytes_of_words(layout: Layout) -> int:
    words = _HEADER_WORDS + 3 * len(layout.shards) + layout.servers
    return 8 * words + 2 * _map_bytes(layout.servers)


def _map_bytes(servers: int) -> int:
    """Return the bytes of a place for the bucket map of so many servers."""
    return _MAP_HEAD + servers * _MAP_ENTRY

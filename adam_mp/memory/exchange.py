"""The state of a replica's exchange with the parameter servers, in shared memory so that a synchronizer may die.

Two flat spaces beside the weights: `base`, the weights as the replica last got them from the parameter servers, and
`sent`, the base with the delta that the replica pushed. Three words for each shard: its state, the sequence of its last
push, the version of `base`. When a synchronizer dies, its successor reads them. It pushes each PUSHED shard again,
under the same sequence, by which the parameter server recognizes a delta that it has applied. The weights of an
APPLYING shard were being corrected when the synchronizer died: the successor takes the whole shard from the parameter
server. The word `agreed` says whether the outboxes hold exactly the updates that the parameter servers do not have yet.
One more word for each parameter server says how long it has been silent.

In a run with copies of parameter servers there is a third space, `kept`: the update that the replica last pushed to a
shard, until it is stable. One more word for each shard has its sequence.

The bucket map is here too, as bytes: the supervisor notes each newer map, and the synchronizer, or its successor, reads
the newest. There are two places for maps. The supervisor writes into the one that does not have the newest map, then
counts the map in the word `maps`. So a reader never sees half a map, even if the supervisor dies while it writes. If
the supervisor writes over the place that a reader is reading, the word has changed afterwards, and the reader reads
again.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from adam_mp.kernels.atomic import fetch_add, observe, publish
from adam_mp.memory.arena import Arena, ArenaHandle
from adam_mp.memory.layout import Held
from adam_mp.memory.segment import Segment, SegmentHandle

UNSEEN, SEEN, PUSHED, APPLYING = range(4)  # states of a shard; UNSEEN: no parameter server has sent it yet
_LINE = 8
_FIELDS = (
    "sequence", "round_begun", "round_done", "rounds", "wanted", "pushed_bytes", "pulled_bytes", "pushes", "pulls",
    "resent", "staleness", "round_ns", "overflows",
)  # fmt: skip
_INDEX = {name: index for index, name in enumerate((*_FIELDS, "agreed", "maps", "others_done", "others_silent"))}
ALONE = 1 << 62  # `others_done` where no other machine exchanges with this one, so that none is waited for
DISAGREED = -1  # `agreed` while the outboxes do not hold exactly the updates that the parameter servers lack
_HEADER_WORDS = 3 * _LINE
_MAP_HEAD, _MAP_ENTRY = 256, 56 << 10  # most bytes of a bucket map: its fixed part, and its part for a parameter server


@dataclasses.dataclass(frozen=True)
class ExchangeStatistics:
    """Counters since the replica joined.

    An exchange round exchanges all shards, and has a number. A round in which the synchronizer died is never done; its
    successor begins the next. `round_begun` is the last round that began. `round_done` is the last round that is done:
    the parameter servers have all updates made before it began. The supervisor waits for the round `wanted`. `rounds`
    counts the rounds that ended. `pushed_bytes` and `pulled_bytes` are bytes of payloads; `resent` counts messages sent
    again.
    `staleness` is the sum, over pulls, of the other replicas' updates that came with them. `round_ns` is the time of
    all rounds. `overflows` counts rounds in which deltas went in place of activations, because the activations did not
    fit into the outboxes or into a message.
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

    held: Held
    arena: ArenaHandle
    words: SegmentHandle


class ExchangeMemory:
    """The flat spaces `base` and `sent`, float32 [held.size], and the words of a replica's exchange.

    `kept`, of the same size, is None in a run without copies.

    The synchronizer writes them; the supervisor only asks for rounds and notes maps.

    `states`, `sequences`, `versions` and `kept_sequences` are int64 [shards], of the shards `held` in their order; a
    kept sequence is 0 if no update is kept. `silences` int64 [held.servers] are milliseconds: how long each parameter
    server has owed an answer while the synchronizer listened; 0 if it owes none.

    The word `agreed` is how many updates the outboxes had dropped, in total, when the outboxes and the weights last
    agreed. While no more are dropped, the outboxes hold exactly the updates by which a matrix's weights differ from its
    `base` (from its `sent`, if the matrix is PUSHED). The word `maps` counts the bucket maps that the supervisor noted.

    On the leader's machine of a group over several, the supervisor notes of the other machines which round all of them
    have done (`others_done`; ALONE if there are none), and for how many milliseconds a server has been silent to one of
    them (`others_silent`).
    """

    def __init__(self, held: Held, arena: Arena, words: Segment) -> None:
        self.held, self._arena, self._segment = held, arena, words
        self.base, self.sent = arena.spaces[:2]
        self.kept = arena.spaces[2] if len(arena.spaces) > 2 else None
        self._header = words.array(np.int64, (_HEADER_WORDS,), 0)
        shards = len(held.shards)
        self.states = words.array(np.int64, (shards,), 8 * _HEADER_WORDS)
        self.sequences = words.array(np.int64, (shards,), 8 * (_HEADER_WORDS + shards))
        self.versions = words.array(np.int64, (shards,), 8 * (_HEADER_WORDS + 2 * shards))
        self.kept_sequences = words.array(np.int64, (shards,), 8 * (_HEADER_WORDS + 3 * shards))
        servers = held.servers
        self.silences = words.array(np.int64, (servers,), 8 * (_HEADER_WORDS + 4 * shards))
        self._maps = words.array(np.uint8, (2, _map_bytes(servers)), 8 * (_HEADER_WORDS + 4 * shards + servers))

    @staticmethod
    def bytes_needed(held: Held, keeps: bool = False) -> int:
        """Return the bytes that the memory of an exchange takes; `keeps` says that it has the space `kept`."""
        return Arena.bytes_needed(held.space, 2 + keeps) + _bytes_of_words(held)

    @classmethod
    def create(cls, held: Held, folder: Path | None = None, keeps: bool = False) -> ExchangeMemory:
        """Make the memory; the calling process owns it. Raises SpaceError if there is no room."""
        arena = Arena.create("exchange", held.space, 2 + keeps, folder)
        try:
            made = cls(held, arena, Segment.create("exchange words", _bytes_of_words(held), folder))
            made.note("others_done", ALONE)
            return made
        except BaseException:
            arena.close()
            raise

    @classmethod
    def attach(cls, handle: ExchangeHandle) -> ExchangeMemory:
        """Map the memory that the supervisor made; raises ProcessError if it differs from the handle."""
        return cls(handle.held, Arena.attach(handle.arena), Segment.attach(handle.words))

    @property
    def handle(self) -> ExchangeHandle:
        """What to send to a child, which must also inherit `descriptors`."""
        return ExchangeHandle(self.held, self._arena.handle, self._segment.handle)

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
        """Set a counter, after all earlier writes of this process."""
        publish(self._header, _INDEX[name], value)

    def note_map(self, text: bytes) -> None:
        """Note the newest bucket map, as bytes. Supervisor only. Raises ValueError if it is longer than its place."""
        count = self.read("maps")
        place = self._maps[(count + 1) % 2]
        if len(text) > place.size - 8:
            raise ValueError(f"the bucket map has {len(text)} bytes; expected at most {place.size - 8}")
        place[:8].view(np.int64)[0] = len(text)
        place[8 : 8 + len(text)] = np.frombuffer(text, np.uint8)
        self.note("maps", count + 1)

    def read_map(self) -> tuple[int, bytes]:
        """Return how many maps the supervisor has noted, and the newest, which is empty if there is none yet."""
        while True:
            count = self.read("maps")
            place = self._maps[count % 2]
            text = place[8 : 8 + int(place[:8].view(np.int64)[0])].tobytes()
            if self.read("maps") == count:
                return count, text if count else b""

    def begin_round(self, follows: bool) -> int:
        """Note that a round begins; return its number: that of the round wanted if this machine `follows` another."""
        if not follows:
            return self.add("round_begun")
        number = self.read("wanted")
        self.note("round_begun", number)
        return number

    def next_round(self) -> int:
        """Return the number of the next round to begin: it will send all updates that are in the weights now."""
        return self.read("round_begun") + 1

    def want_round(self) -> int:
        """Ask the synchronizer for a round that begins after this call; return the number of that round."""
        number = self.next_round()
        publish(self._header, _INDEX["wanted"], max(number, self.read("wanted")))
        return number

    def is_done(self, number: int) -> bool:
        """Tell whether the parameter servers have all updates that were made before round `number` began."""
        return self.read("round_done") >= number

    def statistics(self) -> ExchangeStatistics:
        """Return the counters as of now."""
        return ExchangeStatistics(*self._header[: len(_FIELDS)].tolist())

    def close(self) -> None:
        """Give up this process's mapping."""
        del self.base, self.sent, self.kept, self._header, self._maps
        del self.states, self.sequences, self.versions, self.kept_sequences, self.silences
        self._arena.close()
        self._segment.close()


def _bytes_of_words(held: Held) -> int:
    words = _HEADER_WORDS + 4 * len(held.shards) + held.servers
    return 8 * words + 2 * _map_bytes(held.servers)


def _map_bytes(servers: int) -> int:
    """Return the bytes of a place for the bucket map of `servers` parameter servers."""
    return _MAP_HEAD + servers * _MAP_ENTRY

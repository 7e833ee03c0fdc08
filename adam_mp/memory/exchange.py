"""What a replica keeps of its exchange with the parameter servers, in shared memory so that it outlives its process.

Two flat spaces beside the weights: `base`, the servers' weights as they were last seen, and `sent`, the base with the
delta that was pushed. For each shard three words: its state, the sequence of its last push, the version of `base`. A
synchronizer that dies leaves them; its successor sends what was on its way once more, under the same sequence, and the
server knows it again. A shard that was being corrected (APPLYING) is taken whole from the server. A word tells whether
what lies in the outboxes is what the servers do not have yet. A word a server tells for how long it has been silent.
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
_INDEX = {name: index for index, name in enumerate((*_FIELDS, "agreed", "map"))}
DISAGREED = -1  # the word `agreed`, while outboxes and weights do not tell of the same updates
_HEADER_WORDS = 2 * _LINE


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
    The word `map` is the epoch of the newest bucket map that the supervisor knows, 0 before it learns of a second one.
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
        self.silences = words.array(np.int64, (self.layout.servers,), 8 * (_HEADER_WORDS + 3 * shards))

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
        del self.base, self.sent, self._header, self.states, self.sequences, self.versions, self.silences
        self._arena.close()
        self._segment.close()


def _bytes_of_words(layout: Layout) -> int:
    return 8 * (_HEADER_WORDS + 3 * len(layout.shards) + layout.servers)

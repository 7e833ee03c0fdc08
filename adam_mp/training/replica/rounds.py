"""The rounds in which a replica exchanges its weights with the parameter servers, as its leases see them.

A replica on one machine has one synchronizer; `OwnRounds` asks that one. A group with a partition on each of several
machines has a synchronizer on each, for the weights that this partition updates; `GroupRounds` asks all of them. A
round of the group is done when all of them have done it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

from adam_mp.memory.exchange import ExchangeMemory, ExchangeStatistics
from adam_mp.params.replica.synchronizer import note_map
from adam_mp.params.run.bucket_map import BucketMap
from adam_mp.partitions.leader_side import Partitions
from adam_mp.partitions.statements import Exchanged, ToExchange


class Rounds(Protocol):
    """The supervisor's view of the exchange of its replica."""

    def step(self) -> None:
        """Keep in touch with the synchronizers of other machines; called at short intervals."""

    def note_map(self, bucket_map: BucketMap) -> None:
        """Tell all synchronizers the newest bucket map."""

    def next_round(self) -> int:
        """Return the number of the next round to begin: it will send all updates that are in the weights now."""

    def want_round(self) -> int:
        """Ask for a round that begins after this call; return its number."""

    def is_done(self, number: int) -> bool:
        """Tell whether the parameter servers have all updates that were made before round `number` began."""

    def settle(self) -> None:
        """Make the weights here those of all rounds that are done. Workers are idle, and no round is under way."""

    @property
    def servers(self) -> int:
        """With how many parameter servers the replica exchanges."""

    @property
    def pulse(self) -> tuple[int, ...]:
        """Numbers of which at least one changes whenever weights are exchanged."""

    @property
    def silences(self) -> list[int]:
        """For how many milliseconds each parameter server has owed an answer, 0 if it owes none."""

    def statistics(self) -> ExchangeStatistics:
        """Return the counters as of now; bytes and messages are those of all machines."""


class OwnRounds:
    """The rounds of the only synchronizer, whose memory is `words`."""

    def __init__(self, words: ExchangeMemory) -> None:
        self._words = words

    def step(self) -> None:
        """See `Rounds.step`."""

    def note_map(self, bucket_map: BucketMap) -> None:
        """See `Rounds.note_map`."""
        note_map(self._words, bucket_map)

    def next_round(self) -> int:
        """See `Rounds.next_round`."""
        return self._words.next_round()

    def want_round(self) -> int:
        """See `Rounds.want_round`."""
        return self._words.want_round()

    def is_done(self, number: int) -> bool:
        """See `Rounds.is_done`."""
        return self._words.is_done(number)

    def settle(self) -> None:
        """See `Rounds.settle`."""

    @property
    def servers(self) -> int:
        """See `Rounds.servers`."""
        return self._words.held.servers

    @property
    def pulse(self) -> tuple[int, ...]:
        """See `Rounds.pulse`."""
        return self._words.read("rounds"), self._words.read("sequence")

    @property
    def silences(self) -> list[int]:
        """See `Rounds.silences`."""
        silences: list[int] = self._words.silences.tolist()
        return silences

    def statistics(self) -> ExchangeStatistics:
        """See `Rounds.statistics`."""
        return self._words.statistics()


class GroupRounds:
    """The rounds of a group: those of the leader's synchronizer, whose memory is `words`, and of `partitions`.

    `run` and `identity` are the replica's. `level` makes the tensors that all partitions have in full the same on all
    machines: each partition exchanges the slice that it updates, and others get that with its next update only.
    """

    def __init__(
        self, words: ExchangeMemory, partitions: Partitions, run: int, identity: int, level: Callable[[], None]
    ) -> None:  # fmt: skip
        self._words, self._own, self._partitions = words, OwnRounds(words), partitions
        self._run, self._identity, self._level = run, identity, level
        self._map: BucketMap | None = None
        words.note("others_done", 0)

    def step(self) -> None:
        """See `Rounds.step`. A round that others begin after it has begun here has all updates that it has here."""
        if self._map is not None:
            begun = self._words.read("round_begun")
            self._partitions.exchange(ToExchange(self._run, self._identity, self._map, begun))
        self._words.note("others_done", self._others_done())
        others = (max(each.silences, default=0) for each in self._exchanged())
        self._words.note("others_silent", max(others, default=0))

    def _exchanged(self) -> list[Exchanged]:
        return [each for each in self._partitions.exchanged if each is not None]

    def _others_done(self) -> int:
        return min(0 if each is None else each.round for each in self._partitions.exchanged)

    def note_map(self, bucket_map: BucketMap) -> None:
        """See `Rounds.note_map`."""
        self._own.note_map(bucket_map)
        self._map = bucket_map

    def next_round(self) -> int:
        """See `Rounds.next_round`."""
        return self._own.next_round()

    def want_round(self) -> int:
        """See `Rounds.want_round`."""
        return self._own.want_round()

    def is_done(self, number: int) -> bool:
        """See `Rounds.is_done`."""
        return self._own.is_done(number) and self._others_done() >= number

    def settle(self) -> None:
        """See `Rounds.settle`."""
        self._level()

    @property
    def servers(self) -> int:
        """See `Rounds.servers`."""
        return self._own.servers

    @property
    def pulse(self) -> tuple[int, ...]:
        """See `Rounds.pulse`."""
        others = self._exchanged()
        return (*self._own.pulse, sum(each.rounds for each in others), sum(each.sequence for each in others))

    @property
    def silences(self) -> list[int]:
        """See `Rounds.silences`."""
        silences = self._own.silences
        others = [each.silences for each in self._exchanged() if len(each.silences) == len(silences)]
        return [max(some) for some in zip(silences, *others, strict=True)]

    def statistics(self) -> ExchangeStatistics:
        """See `Rounds.statistics`."""
        own, others = self._own.statistics(), self._exchanged()
        return dataclasses.replace(
            own,
            pushed_bytes=own.pushed_bytes + sum(each.pushed_bytes for each in others),
            pulled_bytes=own.pulled_bytes + sum(each.pulled_bytes for each in others),
            resent=own.resent + sum(each.resent for each in others),
        )

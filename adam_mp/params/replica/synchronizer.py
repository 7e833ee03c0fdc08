"""The synchronizer process: exchanges a replica's weights with the parameter servers, beside the training.

Nobody waits for the network: a round begins when `images` more images are trained, or when the supervisor wants one.
What is said in a round stands in `exchange`.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable

import numpy as np

from adam_mp.errors import TransportError
from adam_mp.memory.board import STOP, TRAIN
from adam_mp.memory.exchange import APPLYING, PUSHED, UNSEEN, ExchangeHandle, ExchangeMemory
from adam_mp.memory.run_memory import RunHandle, RunMemory
from adam_mp.memory.store import ParameterStore, StoreHandle
from adam_mp.params.replica.exchange import Exchange
from adam_mp.params.replica.factors import FactorShape, Inboxes
from adam_mp.params.run.bucket_map import BucketMap
from adam_mp.params.run.listening import Listening
from adam_mp.transport.keys import Keys
from adam_mp.transport.local import ChannelHandle
from adam_mp.transport.places import parse_place
from adam_mp.transport.zeromq import SocketDialer

_PAUSE = 0.002


@dataclasses.dataclass(frozen=True)
class SynchronizerSpec:
    """What a synchronizer is told: its number among the processes, shared memory, and when to exchange."""

    process: int
    memory: RunHandle
    store: StoreHandle
    exchange: ExchangeHandle
    keys: Keys | None
    run: int
    identity: int
    batch_size: int
    images: int
    wire: str
    factors: FactorShape | None
    outboxes: tuple[ChannelHandle, ...]
    patience: float  # seconds without an answer after which it gives up


class Synchronizer:
    """The process: follows the board's orders, and exchanges while they allow it.

    The bucket map is in shared memory. Where the supervisor notes another, everything that is not answered is asked
    again, on new connections, as a successor of this process would.
    """

    def __init__(self, spec: SynchronizerSpec) -> None:
        self.spec = spec
        self.memory = RunMemory.attach(spec.memory)
        self.store = ParameterStore.attach(spec.store)
        self.words = ExchangeMemory.attach(spec.exchange)
        self.counters = self.memory.board.counters[spec.process]
        self.inboxes = None if spec.factors is None else Inboxes(spec.outboxes, spec.factors)
        self.listening = Listening()
        self.heard = 0.0  # seconds of listening
        self.exchanged = self.store.read_updates()
        self.maps, text = self.words.read_map()
        self.connect(read_map(text))

    def connect(self, bucket_map: BucketMap) -> None:
        """Begin the exchange with these servers. Raises TransportError if they are more or fewer than before."""
        self.dialer = SocketDialer(self.spec.keys)
        peers = [parse_place(server.address, "the server's address") for server in bucket_map.servers]
        for peer in peers:
            self.dialer.dial(peer)
        self.exchange = Exchange(
            self.dialer, self.words, self.store.weights, list(peers), bucket_map, self.spec.run, self.spec.identity,
            self.spec.wire,
        )  # fmt: skip
        milliseconds = self.words.silences.tolist()  # as a predecessor left it
        silences = {peer: each / 1000 for peer, each in zip(peers, milliseconds, strict=True)}
        self.exchange.flights.silences.update(silences)

    def follow_map(self) -> bool:
        """Turn to the servers of a newer bucket map, if the supervisor has noted one; tell whether it has."""
        if self.words.read("maps") == self.maps:
            return False
        self.maps, text = self.words.read_map()
        self.dialer.close()
        self.connect(read_map(text))
        return True

    def run(self) -> None:
        """Take the servers' weights, then exchange until STOP. Raises TransportError if a server stays silent."""
        first = bool((self.words.states == UNSEEN).any())  # then workers wait for these weights, whatever the order
        self.round((lambda: True) if first else self.allowed)
        self.counters.publish("ready", 1)
        acknowledged = -1
        while True:
            sequence, order = self.memory.board.order()
            if order == STOP:
                return
            self.tell_silences()
            if sequence != acknowledged:
                self.counters.publish("acknowledged", sequence)
                acknowledged = sequence
            if self.follow_map() or self.due(order):
                self.round(self.allowed)
            else:
                time.sleep(_PAUSE)
                self.heard = self.listening.look(time.monotonic())

    def due(self, order: int) -> bool:
        """Whether a round should begin: enough is trained, or the supervisor wants one."""
        if self.wanted():
            return True
        trained = (self.store.read_updates() - self.exchanged) * self.spec.batch_size
        return order == TRAIN and trained >= self.spec.images

    def allowed(self) -> bool:
        """Whether the weights may be touched now; in the middle of a round, the order is acknowledged here."""
        sequence, order = self.memory.board.order()
        self.counters.publish("acknowledged", sequence)
        return order == TRAIN or self.wanted()

    def wanted(self) -> bool:
        """Whether the supervisor waits for a round."""
        return not self.words.is_done(self.words.read("wanted"))

    def round(self, allowed: Callable[[], bool]) -> None:
        """Exchange all shards; pauses while that is not allowed, and ends early on STOP.

        A predecessor that died may have left deltas on their way, and so does this process where it turns to other
        servers. The round then sends those again, without the updates made since, which go with the next round. So it
        is not told as done to those who wait for a round.
        """
        ended = None
        while ended is None:
            began = time.monotonic_ns()
            self.exchanged = self.store.read_updates()
            number = self.words.add("round_begun")
            complete = not np.isin(self.words.states, (PUSHED, APPLYING)).any()
            if self.inboxes is None:
                self.exchange.begin()
            else:
                self.exchange.begin_from(self.inboxes)
            ended = self.see_through(allowed)
        if not ended:
            return
        self.words.add("rounds")
        self.words.add("round_ns", time.monotonic_ns() - began)
        if complete:
            self.words.note("round_done", number)

    def see_through(self, allowed: Callable[[], bool]) -> bool | None:
        """Exchange until the round is over; False if it is to STOP, None if there are other servers to begin with."""
        answered = self.exchange.answered
        while not self.exchange.done:
            if self.memory.board.order()[1] == STOP:
                return False
            if self.follow_map():
                self.heard = self.listening.seconds
                return None
            if not allowed():
                time.sleep(_PAUSE)
                self.heard = self.listening.look(time.monotonic())
                continue
            now = time.monotonic()
            listened = self.listening.look(now)
            self.exchange.turn(now, _PAUSE)
            self.tell_silences()
            if self.exchange.answered != answered:
                answered, self.heard = self.exchange.answered, listened
                self.counters.add("heartbeat", 1)
            elif listened - self.heard > self.spec.patience:
                raise TransportError(self.silence())
        return True

    def tell_silences(self) -> None:
        """Tell the supervisor, in whole milliseconds, which servers are silent and for how long."""
        for number, seconds in enumerate(self.exchange.flights.silences.values()):
            self.words.silences[number] = round(1000 * seconds)

    def silence(self) -> str:
        """Say who does not answer, or not as it should."""
        told = "; ".join(
            f"{address}: {trouble or self.dialer.trouble(address)}"
            for address, trouble in self.exchange.unanswered().items()
        )
        return f"no use could be made of a parameter server for {self.spec.patience:g} s ({told})"


def note_map(words: ExchangeMemory, bucket_map: BucketMap) -> None:
    """Tell the synchronizer, the one of now and those after it, which servers there are."""
    words.note_map(json.dumps(bucket_map.as_dict()).encode())


def read_map(text: bytes) -> BucketMap:
    """Return the bucket map that `note_map` noted."""
    return BucketMap.from_dict(json.loads(text))


def synchronize(spec: SynchronizerSpec) -> None:
    """Run a synchronizer in this process."""
    Synchronizer(spec).run()

"""The synchronizer process: exchanges a replica's weights with the parameter servers, beside the training.

Workers train on during a round; only the end of an epoch waits for one (`exchange_ns` on the board). A round
begins when `images` more images are trained, or when the supervisor wants one. `exchange` has the messages of a round.

A group with a partition on each of several machines has a synchronizer on each, for the weights that this partition
updates; all have the replica's identity. Those of the other machines *follow* the leader's: their supervisors tell them
the number of each round that has begun on the leader's machine, and they begin one of that number. So a round of the
group is done when all of them have done it or a later one.
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

_SILENT = 1.0  # seconds without an answer of a server, after which workers may have to wait for it
_ROUNDS = 4  # rounds' images that workers train on the weights of a silent server, at most
_PAUSE = 0.002  # seconds between two looks at the board, the map and the messages


@dataclasses.dataclass(frozen=True)
class SynchronizerSpec:
    """What a synchronizer is told.

    `process` is its row on the board, `run` the run's number, `identity` the replica's. `images` trained images begin a
    round; `wire` is the encoding of deltas. `factors` and `outboxes` are None and () if no layer uses activations.
    """

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
    patience: float  # seconds without a usable answer after which a round gives up
    follows: bool = False  # whether rounds begin as those of the leader's machine do


class Synchronizer:
    """The process: follows the board's orders, and exchanges while they allow it.

    The bucket map is in shared memory. When the supervisor notes another map, or a server tells a newer one, the
    synchronizer sends all unanswered requests again, as a successor of this process would. If servers are at other
    addresses by the new map, it opens new connections.
    """

    def __init__(self, spec: SynchronizerSpec) -> None:
        self.spec = spec
        self.memory = RunMemory.attach(spec.memory)
        self.store = ParameterStore.attach(spec.store)
        self.words = ExchangeMemory.attach(spec.exchange)
        self.counters = self.memory.board.counters[spec.process]
        self.inboxes = None if spec.factors is None else Inboxes(spec.outboxes, spec.factors)
        self.listening = Listening()
        self.heard = 0.0  # when a useful answer came last, in seconds of listening
        self.exchanged = self.store.read_updates()
        self.between = (0, 0)  # images between the beginnings of the last three rounds
        self.rounds: list[tuple[int, int]] = []  # (number, updates at its beginning) that other machines have not done
        self.maps, text = self.words.read_map()
        self.dialer = SocketDialer(spec.keys)
        self.connect(read_map(text))

    def connect(self, bucket_map: BucketMap) -> None:
        """Begin the exchange with the servers of a map. Raises TransportError if their number has changed."""
        self.map = bucket_map
        peers = [parse_place(server.address, "the server's address") for server in bucket_map.servers]
        for peer in peers:
            self.dialer.dial(peer)
        self.exchange = Exchange(
            self.dialer, self.words, self.store.weights, list(peers), bucket_map, self.spec.run, self.spec.identity,
            self.spec.wire, self.dialer.reaches,
        )  # fmt: skip
        milliseconds = self.words.silences.tolist()  # go on from a predecessor's counts
        silences = {peer: each / 1000 for peer, each in zip(peers, milliseconds, strict=True)}
        self.exchange.flights.silences.update(silences)

    def follow_map(self) -> bool:
        """Begin the exchange by a newer bucket map, if the supervisor or a server has told one; return whether so."""
        newer, noted = self.exchange.moved, self.words.read("maps") != self.maps
        if noted:
            self.maps, text = self.words.read_map()
            told = read_map(text)
            if newer is None or told.epoch >= newer.epoch:
                newer = told
        if newer is None or (self.map.copied and newer.epoch <= self.map.epoch):
            return False
        if not newer.copied or newer.addresses != self.map.addresses:
            self.dialer.close()
            self.dialer = SocketDialer(self.spec.keys)
        self.connect(newer)
        return True

    def run(self) -> None:
        """Take the servers' weights, then exchange until the order is STOP.

        Raises TransportError if a round gets no usable answer for `patience` seconds.
        """
        first = bool((self.words.states == UNSEEN).any())  # workers wait for these weights: go on under any order
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
                self.heard = self.listening.step(time.monotonic())

    def due(self, order: int) -> bool:
        """Whether a round should begin: enough images are trained, or the supervisor wants one."""
        if self.wanted():
            return True
        return not self.spec.follows and order == TRAIN and self.trained() >= self.spec.images

    def trained(self) -> int:
        """Return the images that were trained since the last round began."""
        return (self.store.read_updates() - self.exchanged) * self.spec.batch_size

    def allowed(self) -> bool:
        """Acknowledge the present order; return whether the round may change the weights under it."""
        sequence, order = self.memory.board.order()
        self.counters.publish("acknowledged", sequence)
        return order == TRAIN or self.wanted()

    def wanted(self) -> bool:
        """Whether the supervisor waits for a round."""
        return not self.words.is_done(self.words.read("wanted"))

    def round(self, allowed: Callable[[], bool]) -> None:
        """Exchange all shards; pause while `allowed` returns False, end early on STOP, begin again for another map.

        If deltas were on their way already (from a predecessor that died, or to the servers of the former map), or not
        known to be stable, the round sends these again. Updates made since then go with the next round. So such a round
        is not noted as `round_done`, for which the supervisor waits.
        """
        ended = None
        while ended is None:
            began = time.monotonic_ns()
            self.between = (self.between[1], self.trained())
            self.exchanged = self.store.read_updates()
            number = self.words.begin_round(self.spec.follows)
            self.rounds.append((number, self.exchanged))
            complete = not (np.isin(self.words.states, (PUSHED, APPLYING)).any() or self.words.kept_sequences.any())
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
        """Exchange until the round is over (True), the order is STOP (False), or there is another map (None)."""
        answered = self.exchange.answered
        while not self.exchange.done:
            if self.memory.board.order()[1] == STOP:
                return False
            if self.follow_map():
                self.heard = self.listening.seconds
                return None
            if not allowed():
                time.sleep(_PAUSE)
                self.heard = self.listening.step(time.monotonic())
                continue
            now = time.monotonic()
            listened = self.listening.step(now)
            self.exchange.step(now, _PAUSE)
            self.tell_silences()
            if self.exchange.answered != answered:
                answered, self.heard = self.exchange.answered, listened
                self.counters.add("heartbeat", 1)
            elif listened - self.heard > self.spec.patience:
                raise TransportError(self.silence())
        return True

    def tell_silences(self) -> None:
        """Note, for the supervisor, how long each server has been silent, in whole milliseconds.

        Hold the workers up if one is silent and they have trained much since: each replica goes on alone on the shards
        of that server, and what all have done there is added up when it is back.
        """
        silences = self.exchange.flights.silences.values()
        for number, seconds in enumerate(silences):
            self.words.silences[number] = round(1000 * seconds)
        longest = max(*silences, self.words.read("others_silent") / 1000)
        usual = max(self.spec.images, min(self.between))  # the last round may have been a long one itself
        self.memory.board.held_up = self.trained_alone() > _ROUNDS * usual and longest > _SILENT

    def trained_alone(self) -> int:
        """Return the images that were trained since the last round began that all machines of the group have done."""
        done = self.words.read("others_done")
        self.rounds = [(number, updates) for number, updates in self.rounds if number > done]
        begun = self.rounds[0][1] if self.rounds else self.exchanged
        return (self.store.read_updates() - begun) * self.spec.batch_size

    def silence(self) -> str:
        """Say which servers do not answer, or give answers that cannot be used, and why."""
        told = "; ".join(
            f"{address}: {trouble or self.dialer.trouble(address)}"
            for address, trouble in self.exchange.unanswered().items()
        )
        return f"no usable answer from the parameter servers for {self.spec.patience:g} s ({told})"


def note_map(words: ExchangeMemory, bucket_map: BucketMap) -> None:
    """Note a bucket map in shared memory, for the synchronizer and its successors."""
    words.note_map(json.dumps(bucket_map.as_dict()).encode())


def read_map(text: bytes) -> BucketMap:
    """Return the bucket map that `note_map` noted."""
    return BucketMap.from_dict(json.loads(text))


def synchronize(spec: SynchronizerSpec) -> None:
    """Run a synchronizer in this process until the order is STOP."""
    Synchronizer(spec).run()

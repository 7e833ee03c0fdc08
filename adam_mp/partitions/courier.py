"""The courier: brings the memory of a group up to date with those of the other machines.

Members know nothing of it. They send, announce and note in their own memory, and ring the doorbell; what others have
sent and noted appears there.

    leader's machine                                             another machine
    announced, resumed, generation       ── GROUP, INPUT, WORK ▶ the same words; images in the lane's slot
    ended, acknowledged of each member   ◀ GROUP ──              of its own member
    messages of a lane                   ◀ PART ▶                of the same lane, between any two machines

Each courier dials all others, and sends by these connections alone. What a connection has taken may be lost if it ends.
So then, and when a receiver drops bytes that it cannot read, the courier begins a new generation: all members drop what
is on its way, and the leader announces it again. The words of GROUP only grow and are sent again and again.
"""

from __future__ import annotations

import dataclasses
import time

import numpy as np

from adam_mp.memory.board import STOP, Board
from adam_mp.memory.group import TRAIN, Group, GroupHandle
from adam_mp.memory.ring import Slot
from adam_mp.memory.run_memory import RunHandle, RunMemory
from adam_mp.network.part_layers import Message as Post
from adam_mp.network.spread import Interval
from adam_mp.partitions.frames import (
    AnnouncedWork,
    GroupState,
    MemberState,
    read_state,
    read_work,
    state_payload,
    work_payload,
)
from adam_mp.transport.endpoint import Sent
from adam_mp.transport.keys import Keys
from adam_mp.transport.messages import FrameError, Kind, Message
from adam_mp.transport.places import Place, parse_place
from adam_mp.transport.zeromq import SocketDialer, listen_when_free

_AGAIN = 0.2  # seconds after which the same state is sent again
_LOOK = 0.02  # seconds between two looks at the connections
_ASLEEP, _FULL = 0.05, 0.001  # seconds of sleep: without anything to do, and while a connection takes nothing more
_IMAGES = -1  # stands for the index of a message where images are meant
_RECEIVED = 64  # messages received in a row before this side sends
_PIECE = 16 << 20  # bytes of an array that one message has at most
_PICTURES = 1 << 20  # bytes of images in a message: few, because messages that members wait for come behind them


@dataclasses.dataclass(frozen=True)
class CourierSpec:
    """What the supervisor tells a courier: its row on the board (`process`), the memory, and where all couriers listen.

    `part` is the partition of this machine. `places` and `rows` are by partition: HOST:PORT, and the rows of the images
    that the partition reads.
    """

    process: int
    part: int
    memory: RunHandle
    group: GroupHandle
    run: int
    places: tuple[str, ...]
    rows: tuple[Interval, ...]
    keys: Keys | None


@dataclasses.dataclass
class _Peer:
    """Another machine: its partition, its place, the state it was told last and when, the next work to announce."""

    part: int
    place: Place
    told: bytes = b""
    told_at: float = 0.0
    next_work: int = 0
    sent_images: int = 0  # of that work
    sending: Sent | None = None  # the images that were sent last


class Courier:
    """The courier of the member `group.part`; `slots[ring][slot]` are the batches that this machine makes."""

    def __init__(self, spec: CourierSpec, group: Group, board: Board, slots: list[list[Slot]]) -> None:
        self._spec, self.group, self._board, self._slots = spec, group, board, slots
        self._part = spec.part
        self._listener = listen_when_free(parse_place(spec.places[self._part], "the courier's place"), spec.keys)
        self._dialer = SocketDialer(spec.keys, answered=False)
        self._peers = {
            part: _Peer(part, parse_place(place, "the courier's place"))
            for part, place in enumerate(spec.places)
            if part != self._part
        }
        for peer in self._peers.values():
            self._dialer.dial(peer.place)
        self._sent = [mail.sent() for mail in group.mails]
        self._own = [np.array([each.sender == self._part for each in mail.messages], bool) for mail in group.mails]
        self._leaving: list[Sent] = []  # payloads in shared memory that are still being sent
        self._begun: dict[tuple[int, int, int], int] = {}  # (lane, index, work) -> bytes of a message that are sent
        self._arriving: dict[tuple[int, int], tuple[int, int]] = {}  # (lane, index) -> work, and where it is to go on
        self._acknowledged = 0  # of this machine's member, as the leader was told last
        self._generation = group.generation  # of all that is sent in a step
        self._lost, self._looked, self.is_full = 0, 0.0, False

    @property
    def leads(self) -> bool:
        """Whether this machine has the leader."""
        return self._part == 0

    def step(self) -> bool:
        """Bring what has come and what is to go; return whether there was anything."""
        self._look_at_connections()
        received = self._receive_all()
        self.is_full = False
        self._leaving = [each for each in self._leaving if not each.done]
        self._generation = self.group.generation
        if not self._leaving:
            self.group.note_clear(self._generation)
        sent = self._send_posts()
        for peer in self._peers.values():
            if self.leads or peer.part == 0:
                sent = self._tell(peer) or sent
            if self.leads:
                sent = self._announce(peer) or sent
        return received or sent

    def rest(self) -> None:
        """Sleep until something comes, or is to go."""
        bell = self.group.bell
        files = [*([] if bell is None else [bell.descriptor]), *self._dialer.monitors]
        self._listener.wait(_FULL if self.is_full else _ASLEEP, files)
        if bell is not None:
            bell.hear()

    def close(self) -> None:
        """Close all connections."""
        self._dialer.close()
        self._listener.close()

    def _look_at_connections(self) -> None:
        """Begin a new generation if anything that was sent may be lost."""
        if (now := time.monotonic()) - self._looked < _LOOK:
            return
        self._looked, refused = now, False
        while (answer := self._dialer.receive(0)) is not None:
            refused = refused or answer[1].kind == Kind.REFUSED
        lost = self._dialer.statistics().lost + self._dialer.renewed
        if refused or lost > self._lost:
            self._lost = lost
            self.group.hear_of(self.group.generation + 1)

    # Sending.

    def _message(self, kind: Kind, payload: object, **fields: int) -> Message:
        return Message(
            kind, payload, run=self._spec.run, sender=self._part + 1, map_epoch=self._generation, **fields
        )  # fmt: skip

    def _send(self, peer: _Peer, message: Message) -> bool:
        """Send a message; return whether the connection took it."""
        sent = self._dialer.send(peer.place, message)
        if sent is None:
            self.is_full = True
            return False
        if not sent.done:
            self._leaving.append(sent)
        return True

    def _send_posts(self) -> bool:
        """Send the messages that the member has sent since; return whether there were any.

        Those of works that are void never leave: others may have begun to use their arrays for something else.
        """
        # Read the words first: members may resume at any moment, and what they send then must not count as void.
        sent = [mail.sent() for mail in self.group.mails]
        first = self.group.resumed_at(self._generation)
        moved = False
        if first is None:
            self._begun.clear()
        new = [
            (int(words[index]) - 1, lane, index)
            for lane, words in enumerate(sent)
            for index in np.flatnonzero((words != self._sent[lane]) & self._own[lane]).tolist()
        ]
        for work, lane, index in sorted(new):  # the oldest work is that for which members wait
            is_void = first is None or work < first
            if is_void or self._send_post(lane, self.group.mails[lane].messages[index], index, work):
                self._sent[lane][index] = work + 1
                moved = moved or not is_void
        return moved

    def _send_post(self, lane: int, post: Post, index: int, work: int) -> bool:
        array = self.group.mails[lane].array(post)
        values = array if post.of_batch else array[: self.group.work(work).images]
        whole = values.reshape(-1).view(np.uint8)
        key = lane, index, work
        begin = self._begun.get(key, 0)
        while begin < whole.nbytes:
            piece = whole[begin : begin + _PIECE]
            is_last = begin + piece.nbytes == whole.nbytes
            fields = {"sequence": work, "shard": index, "group": lane, "version": begin << 1 | is_last}
            if not self._send(self._peers[post.receiver], self._message(Kind.PART, piece, **fields)):
                self._begun[key] = begin
                return False
            begin += piece.nbytes
        self._begun.pop(key, None)
        return True

    def _state(self) -> MemberState | GroupState:
        group, generation = self.group, self._generation
        if self.leads:
            number = group.resumed_at(generation)
            return GroupState(generation, 0 if number is None else generation + 1, number or 0)
        if not self._leaving:  # else an old payload could be written over while it leaves
            self._acknowledged = group.acknowledged_by(self._part)
        return MemberState(generation, group.ended_by(self._part), self._acknowledged)

    def _tell(self, peer: _Peer) -> bool:
        """Tell a machine the state if it changed, or from time to time; return whether it changed and was told."""
        payload, now = state_payload(self._state()), time.monotonic()
        is_new = payload != peer.told
        if not is_new and now - peer.told_at < _AGAIN:
            return False
        if not self._send(peer, self._message(Kind.GROUP, payload)):
            return False
        peer.told, peer.told_at = payload, now
        return is_new

    def _announce(self, peer: _Peer) -> bool:
        """Announce works to a machine that knows the group's state; return whether there were any. Leader only."""
        group, state = self.group, self._state()
        if not isinstance(state, GroupState) or not state.resumed or peer.told != state_payload(state):
            return False
        moved = False
        if peer.next_work < state.number:
            peer.next_work, peer.sent_images = state.number, 0
        while peer.next_work < group.announced and self._announce_one(peer, peer.next_work):
            peer.next_work, peer.sent_images = peer.next_work + 1, 0
            moved = True
        return moved

    def _announce_one(self, peer: _Peer, number: int) -> bool:
        work = self.group.work(number)
        trains = work.kind == TRAIN
        lane = number % self.group.shape.lanes if trains else self.group.shape.lanes
        slot = self._slots[work.ring][work.slot] if trains else None
        images = self.group.pictures if slot is None else slot.images
        rows = self._spec.rows[peer.part]
        labels = np.zeros(0, np.int32) if slot is None else slot.labels[: work.images]
        most = max(1, _PICTURES // max(1, rows.size * images[0, 0].nbytes))
        while peer.sent_images < work.images:
            if peer.sending is not None and not peer.sending.done:  # images are needed later than all that members send
                self.is_full = True
                return False
            first = peer.sent_images
            last = min(work.images, first + most)
            piece = images[first:last, rows.begin : rows.end].copy()  # of this message: the slot may be written anew
            message = self._message(Kind.INPUT, piece, sequence=number, group=lane, version=first)
            peer.sending = self._dialer.send(peer.place, message)
            if peer.sending is None:
                self.is_full = True
                return False
            peer.sent_images = last
        share = 0.0 if slot is None else float(slot.mixed[0])
        payload = work_payload(AnnouncedWork(work, self._board.rate_share, share, labels))
        return self._send(peer, self._message(Kind.WORK, payload, sequence=number, group=lane))

    # Receiving.

    def _receive_all(self) -> bool:
        """Take what has come; return whether anything but states has."""
        moved = False
        for _ in range(_RECEIVED):
            received = self._listener.receive(0)
            if received is None:
                break
            message = received[1]
            peer = self._peers.get(message.sender - 1)
            if message.run != self._spec.run or peer is None:
                continue  # of an earlier run, whose partitions are just ending
            moved = (self._take(peer, message) and message.kind != Kind.GROUP) or moved
        return moved

    def _take(self, peer: _Peer, message: Message) -> bool:
        """Take a message; return False if it is void, or holds what no partition of this cut sends."""
        try:
            if message.kind == Kind.GROUP:
                self._take_state(peer, message)
                return True
            if message.map_epoch != self.group.generation:
                return False
            if message.kind == Kind.PART:
                return self._take_post(peer, message)
            if peer.part == 0 and message.kind == Kind.INPUT:
                return self._take_input(message)
            return peer.part == 0 and message.kind == Kind.WORK and self._take_work(message)
        except FrameError:
            return False

    def _take_state(self, peer: _Peer, message: Message) -> None:
        generation, second, third = read_state(message)
        self.group.hear_of(generation)
        if self.leads:
            self.group.note_ended(peer.part, second)
            self.group.note_acknowledged(peer.part, third)
        elif peer.part == 0 and second == self.group.generation + 1:
            self.group.note_resumed(second - 1, third)

    def _take_post(self, peer: _Peer, message: Message) -> bool:
        lane, index, group = message.group, message.shard, self.group
        if lane >= len(group.mails) or index >= len(group.mails[lane].messages):
            return False
        mail = group.mails[lane]
        post = mail.messages[index]
        if (post.sender, post.receiver) != (peer.part, self._part):
            return False
        whole = mail.array(post).reshape(-1).view(np.uint8)
        begin, is_last = message.version >> 1, message.version & 1
        if begin + message.length > whole.nbytes or self._has_gap(lane, index, message.sequence, begin, message.length):
            return False
        whole[begin : begin + message.length] = np.frombuffer(message.payload, np.uint8)
        if is_last:
            mail.bring(post, message.sequence)
        return True

    def _has_gap(self, lane: int, index: int, work: int, begin: int, length: int) -> bool:
        """Return whether a piece does not go on where the one before it ended; if so, begin a new generation.

        A connection can break, and be dialled anew, before the sender notices: then what it sends next comes alone.
        """
        if begin and self._arriving.get((lane, index)) != (work, begin):
            self.group.hear_of(self.group.generation + 1)
            return True
        self._arriving[lane, index] = work, begin + length
        return False

    def _take_input(self, message: Message) -> bool:
        group, lane, rows = self.group, message.group, self._spec.rows[self._part]
        if lane > group.shape.lanes:
            return False
        images = group.pictures if lane == group.shape.lanes else group.arrivals[lane].images
        numbers = rows.size * int(np.prod(images.shape[2:]))
        count, left = divmod(message.length, 4 * max(numbers, 1))
        first, last = message.version, message.version + count
        if left or last > len(images) or self._has_gap(lane, _IMAGES, message.sequence, first, count):
            return False
        values = np.frombuffer(message.payload, "<f4").reshape(count, rows.size, *images.shape[2:])
        images[first:last, rows.begin : rows.end] = values
        return True

    def _take_work(self, message: Message) -> bool:
        announced, lane, group = read_work(message), message.group, self.group
        work = announced.work._replace(ring=0, slot=lane)
        if not 0 <= work.images <= group.shape.batch or lane > group.shape.lanes:
            return False
        if work.images and self._has_gap(lane, _IMAGES, message.sequence, work.images, 0):
            return False
        if work.kind == TRAIN:
            if lane == group.shape.lanes or len(announced.labels) != work.images:
                return False
            slot = group.arrivals[lane]
            slot.labels[: work.images], slot.mixed[0] = announced.labels, announced.mixed
        self._board.rate_share = announced.rate_share
        group.put(message.sequence, work)
        return True


def carry(spec: CourierSpec) -> None:
    """Run a courier in this process, until the supervisor orders STOP."""
    memory = RunMemory.attach(spec.memory)
    group = Group.attach(spec.group, spec.part)
    counters = memory.board.counters[spec.process]
    slots = [ring.slots for ring in memory.rings_of(0)]
    courier, acknowledged = Courier(spec, group, memory.board, slots), -1
    try:
        counters.publish("ready", 1)
        while True:
            order = memory.board.order()
            if order.sequence != acknowledged:
                counters.publish("acknowledged", order.sequence)
                acknowledged = order.sequence
            if order.kind == STOP:
                return
            if courier.step():
                counters.add("heartbeat", 1)
            else:
                courier.rest()
    finally:
        courier.close()

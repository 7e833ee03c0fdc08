"""The leader's lines to the other partitions of its group, each on a machine of its own: one listener for all.

The partitions dial it, join, and report twice a second. Between two epochs the leader reads and writes their weights
and optimizer state by it. A request is sent again until its answer comes, under the same sequence; the partition does
it once. A partition that is silent for `_SILENT` seconds is lost, with the weights that it had: the caller begins again
from the last checkpoint. Before all partitions are there, nothing is lost by that, and another may take its place.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from adam_mp import __version__
from adam_mp.errors import StoppedError, TransportError, several
from adam_mp.params.run.listening import Listening
from adam_mp.params.run.membership import new_identity
from adam_mp.partitions.frames import Doing
from adam_mp.partitions.statements import (
    GOES_ON,
    IS_DONE,
    Exchanged,
    PartJoining,
    PartOrders,
    PartReport,
    PartWelcome,
    ToExchange,
)
from adam_mp.transport.forms import read, write
from adam_mp.transport.keys import Keys
from adam_mp.transport.messages import FrameError, Kind, Message, with_facts
from adam_mp.transport.places import Place
from adam_mp.transport.refusal import Refusal, RefusedError, refusal_message
from adam_mp.transport.zeromq import listen_when_free

_SILENT = 20.0  # seconds in which this process listened
_MAKING = 120.0  # seconds that a partition may be silent while it makes its memory
_STALE = 2.5  # seconds of silence after which another process may have the place of a partition
_AGAIN = 10.0  # seconds after which a request is sent again
_LOOK = 0.05
_PIECE = 1 << 20  # numbers in a message
_LEAVING = 3.0  # seconds in which partitions may hear how the run ended


class PartitionLostError(TransportError):
    """A partition is gone with its weights; the run can begin again from its last checkpoint."""


@dataclasses.dataclass
class _Line:
    """A partition that has joined: its connection, its life, what it said, when it was heard, how it is.

    A connection that broke and was dialled anew is another `peer`, while `life` is that of the process.
    """

    peer: bytes
    life: int
    joining: PartJoining
    heard: float
    ready: bool = False
    fault: str = ""
    exchanged: Exchanged | None = None
    has_left: bool = False
    contested: float | None = None  # when another process first asked for this place


class Partitions:
    """The partitions 2 to `parts` of a group, as the leader's supervisor has them. Used by one thread.

    `task` is what each needs to know of the run, `courier` where the leader's own courier listens, `spaces` the names
    of the flat spaces (`frames.space_names`). `more` is what a user adds to the command by which a partition joins.
    `meanwhile` is called at short intervals while this waits for an answer, which may take as long as a model is large.
    """

    def __init__(
        self, place: Place, keys: Keys | None, parts: int, task: Mapping[str, Any], courier: str,
        spaces: tuple[str, ...], more: str = "",
    ) -> None:  # fmt: skip
        self._listener = listen_when_free(place, keys)
        self.place, self.parts, self.run = place, parts, new_identity()
        self._task, self._courier, self._spaces, self._more = task, courier, spaces, more
        self._lines: dict[int, _Line] = {}
        self._orders = PartOrders()
        self._listening, self._sequence = Listening(), 0
        self._answers: dict[int, Message] = {}
        self._lost: dict[int, str] = {}  # partition -> the name of its process
        self.meanwhile: Callable[[], None] = lambda: None

    @property
    def places(self) -> tuple[str, ...]:
        """Where the couriers listen, by partition."""
        return (self._courier, *(self._lines[part].joining.courier for part in range(2, self.parts + 1)))

    def gather(self, seconds: float, stop: Callable[[], bool], say: Callable[[str], None]) -> None:
        """Wait until all partitions are there and ready; tell `say` who is missing.

        Raises TransportError after `seconds` without the arrival of one, StoppedError if `stop` returns True.
        """
        deadline, before = time.monotonic() + seconds, [0]
        while missing := self._absent() or self._unready():
            if stop():
                raise StoppedError("interrupted before all partitions had joined")
            if missing != before:
                deadline, before = time.monotonic() + seconds, missing
                if self._absent():
                    say(
                        f"waiting for {self._named(missing)}, for {seconds:.0f} s at most; {self._how_to_join(missing)}"
                    )
            if time.monotonic() > deadline:
                raise TransportError(
                    f"{self._named(missing)} did not come within {seconds:.0f} s; {self._how_to_join(missing)}"
                )
            self._look(_LOOK)
            self._check_faults()
            self._forget_lost()
        self._orders = dataclasses.replace(self._orders, places=self.places)

    def _named(self, parts: list[int]) -> str:
        names = ", ".join(f"{part}/{self.parts}" for part in parts)
        return f"partition{'s' if len(parts) > 1 else ''} {names}"

    def _how_to_join(self, parts: list[int]) -> str:
        which = parts[0] if len(parts) == 1 else "K"
        return f"on its machine: adam-mp train --join {self.place} --partition {which}/{self.parts}{self._more}"

    def _absent(self) -> list[int]:
        """Return the partitions that have not joined."""
        return [part for part in range(2, self.parts + 1) if part not in self._lines]

    def _unready(self) -> list[int]:
        """Return those that have joined, and have not made their memory yet."""
        return sorted(part for part, line in self._lines.items() if not line.ready)

    def step(self) -> None:
        """Answer what has come. Raises PartitionLostError if a partition is gone, or cannot go on."""
        self._look(0)
        self._check_all()

    def _check_faults(self) -> None:
        for part, line in self._lines.items():
            if line.fault:
                raise TransportError(f"partition {part}/{self.parts} ({line.joining.name}): {line.fault}")

    def _forget_lost(self) -> None:
        """While partitions gather, let others take the places of those that are gone."""
        for part, line in list(self._lines.items()):
            if part in self._lost or self._listening.seconds - line.heard > (_SILENT if line.ready else _MAKING):
                del self._lines[part]
        self._lost.clear()

    def _check_all(self) -> None:
        self._check_faults()
        for part, line in self._lines.items():
            silence = self._listening.seconds - line.heard
            if silence > _SILENT:
                self._lost[part] = line.joining.name
        for part, name in self._lost.items():
            raise PartitionLostError(
                f"partition {part}/{self.parts} ({name}) is gone, and the weights that it had; start it again, "
                f"{self._how_to_join([part])}"
            )

    # Weights and optimizer state, while all members are idle.

    def read(self, part: int, space: str, begin: int, end: int) -> np.ndarray:
        """Return numbers of the flat space of a partition, counted from 0. Raises PartitionLostError."""
        found: np.ndarray = np.empty(end - begin, np.float32)
        for first in range(begin, end, _PIECE):
            last = min(end, first + _PIECE)
            answer = self._ask(part, Kind.READ, b"", shard=self._spaces.index(space), version=first, map_epoch=last)
            if answer.kind != Kind.NUMBERS or answer.length != 4 * (last - first):
                raise TransportError(f"partition {part + 1}/{self.parts} sent {answer}; is it of another version?")
            found[first - begin : last - begin] = answer.array()
        return found

    def write(self, part: int, space: str, begin: int, values: np.ndarray) -> None:
        """Set numbers of the flat space of a partition, counted from 0. Raises PartitionLostError."""
        for first in range(0, len(values), _PIECE):
            piece = np.ascontiguousarray(values[first : first + _PIECE], "<f4")
            self._ask(part, Kind.WRITE, piece, shard=self._spaces.index(space), version=begin + first)

    def are_finite(self) -> bool:
        """Return whether all weights of all partitions are finite numbers."""
        return all(self._ask(part, Kind.DO, b"", shard=Doing.CHECK).version for part in range(1, self.parts))

    def average(self, share: float) -> None:
        """Have all partitions move the average of their weights by `share` towards the weights."""
        payload = np.array([share], "<f8").tobytes()
        for part in range(1, self.parts):
            self._ask(part, Kind.DO, payload, shard=Doing.AVERAGE)

    def note_updates(self, updates: int) -> None:
        """Tell all partitions how many updates the run has made: it was resumed, or has gone back."""
        payload = np.array([updates], "<i8").tobytes()
        for part in range(1, self.parts):
            self._ask(part, Kind.DO, payload, shard=Doing.RESUME)

    def _ask(self, part: int, kind: Kind, payload: Any, **fields: int) -> Message:
        """Send a request to the partition of this number, from 0; return its answer."""
        self._sequence += 1
        sequence, sent = self._sequence, float("-inf")
        message = Message(kind, payload, run=self.run, sender=1, sequence=sequence, **fields)
        while sequence not in self._answers:
            if time.monotonic() - sent > _AGAIN:
                line = self._lines.get(part + 1)
                if line is not None and self._listener.send(line.peer, message) is not None:
                    sent = time.monotonic()
            self._look(_LOOK)
            self._check_all()
            self.meanwhile()
        answer = self._answers.pop(sequence)
        self._answers.clear()
        return answer

    # The exchange with parameter servers.

    def exchange(self, told: ToExchange) -> None:
        """Tell all partitions how and when to exchange weights, if that is new. What gets lost comes with an answer."""
        if told == self._orders.exchange:
            return
        self._orders = dataclasses.replace(self._orders, exchange=told)
        for line in self._lines.values():
            self._send_orders(line, 0)

    @property
    def exchanged(self) -> list[Exchanged | None]:
        """What each partition has exchanged, as it said last; None before it has said so."""
        return [line.exchanged for line in self._lines.values()]

    # The end.

    def end(self, state: str, why: str) -> None:
        """Tell all partitions how the run has ended, and wait a little until they have left.

        ZeroMQ drops what a partition has received and not read when its connection ends: so this side must not end it.
        """
        if self._orders.state != GOES_ON:
            return
        self._orders = dataclasses.replace(self._orders, state=state, why=why)
        deadline = time.monotonic() + _LEAVING
        present = [line for part, line in self._lines.items() if part not in self._lost]
        while not all(line.has_left for line in present) and time.monotonic() < deadline:
            self._look(_LOOK)

    def close(self) -> None:
        """Close the listener."""
        self._listener.close()

    # Receiving.

    def _look(self, seconds: float) -> None:
        """Take all that has come; wait for it at most `seconds`."""
        self._listening.step(time.monotonic())
        while (received := self._listener.receive(seconds)) is not None:
            seconds, (peer, message) = 0, received
            try:
                self._take(peer, message)
            except RefusedError as error:
                refusal = Refusal(str(error), rejoin=error.rejoin)
                self._listener.send(peer, dataclasses.replace(refusal_message(refusal), sequence=message.sequence))

    def _take(self, peer: bytes, message: Message) -> None:
        if message.kind == Kind.JOIN:
            self._take_joining(peer, message)
            return
        line = self._lines.get(message.sender)
        if message.run != self.run or line is None or line.life != message.map_epoch:
            raise RefusedError("this run does not know the partition", rejoin=True)
        line.peer, line.heard = peer, self._listening.seconds
        if message.kind == Kind.REPORT:
            report = _read(PartReport, message)
            line.ready, line.fault = line.ready or report.ready, report.fault
            line.exchanged = report.exchanged
            self._send_orders(line, message.sequence)
        elif message.kind == Kind.LEAVE:
            if self._orders.state == GOES_ON:
                self._lost[message.sender] = line.joining.name
            line.has_left = True
        elif message.kind in (Kind.NUMBERS, Kind.DONE):
            self._answers[message.sequence] = message

    def _send_orders(self, line: _Line, sequence: int) -> None:
        """Send the orders; `sequence` is that of the report that they answer, 0 if they answer none."""
        fields = {"run": self.run, "sender": 1, "sequence": sequence}
        self._listener.send(line.peer, with_facts(Kind.ORDERS, write(self._orders), **fields))

    def _take_joining(self, peer: bytes, message: Message) -> None:
        joining = _read(PartJoining, message)
        part, wanted = joining.partition, f"{joining.partition}/{joining.partitions}"
        if joining.version != __version__:
            raise RefusedError(
                f"partition {wanted} is of adam_mp {joining.version}, the leader of {__version__}; install one version"
            )
        if joining.partitions != self.parts:
            raise RefusedError(
                f"partition {wanted} does not fit: the run has {several(self.parts, 'partition')}; give --partition "
                f"{joining.partition}/{self.parts}"
            )
        if part == 1:
            raise RefusedError(f"partition {wanted} is the leader itself; give another, 2/{self.parts} or so")
        line = self._lines.get(part)
        if line is not None and line.life != message.map_epoch:
            if not self._gives_way(part, line, wanted):
                return
            line = None
        if line is None and self._orders.state != GOES_ON:
            raise RefusedError("the run is ending", rejoin=self._orders.state != IS_DONE)
        if line is None:
            line = self._lines[part] = _Line(peer, message.map_epoch, joining, self._listening.seconds)
        line.peer = peer
        line.contested = None
        fields = {"run": self.run, "sender": 1, "sequence": message.sequence}
        welcome = write(PartWelcome(self.run, self._task))
        self._listener.send(peer, with_facts(Kind.WELCOME, welcome, **fields))

    def _gives_way(self, part: int, line: _Line, wanted: str) -> bool:
        """Return whether another process may have the place of `line` now.

        If the one that has it was heard since, it lives, and the other is refused. Until that is known, it gets no
        answer and asks again. If the one that has it is gone, and the run has begun, it has to begin again.
        """
        now = self._listening.seconds
        if line.contested is None:
            line.contested = now
        if line.heard > line.contested:
            raise RefusedError(f"partition {wanted} is taken by {line.joining.name}; give another")
        if now - line.heard < _STALE:
            return False
        if not self._orders.places:
            del self._lines[part]
            return True
        self._lost[part] = line.joining.name
        raise RefusedError(f"the run begins again without {line.joining.name}", rejoin=True)


def _read(kind: type[Any], message: Message) -> Any:
    try:
        return read(kind, message.facts(), RefusedError)
    except FrameError as error:
        raise RefusedError(str(error)) from None

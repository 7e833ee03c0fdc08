"""The leader's lines to the other partitions of its group, each on a machine of its own: one listener for all.

The partitions dial it, join, and report twice a second. Between two epochs the leader reads and writes their weights
and optimizer state by it. A request is sent again until its answer comes, under the same sequence; the partition does
it once. A partition that is silent for `_SILENT` seconds is lost, with the weights that it had: the caller begins again
from the last checkpoint.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from adam_mp import __version__
from adam_mp.errors import AdamError, StoppedError, TransportError, several
from adam_mp.params.run.listening import Listening
from adam_mp.params.run.membership import new_identity
from adam_mp.partitions.frames import Doing
from adam_mp.partitions.statements import (
    BEGINS_AGAIN,
    GOES_ON,
    IS_DONE,
    PartJoining,
    PartOrders,
    PartReport,
    PartWelcome,
)
from adam_mp.transport.forms import read, write
from adam_mp.transport.keys import Keys
from adam_mp.transport.messages import FrameError, Kind, Message, with_facts
from adam_mp.transport.places import Place
from adam_mp.transport.refusal import Refusal, RefusedError, refusal_message
from adam_mp.transport.zeromq import SocketListener

_SILENT = 20.0  # seconds in which this process listened
_STALE = 2.5  # seconds of silence after which another process may have the place of a partition
_AGAIN = 1.0  # seconds after which a request is sent again
_LOOK = 0.05
_PIECE = 4 << 20  # numbers in a message
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
    has_left: bool = False


class Partitions:
    """The partitions 2 to `parts` of a group, as the leader's supervisor has them. Used by one thread.

    `task` is what each needs to know of the run, `courier` where the leader's own courier listens, `spaces` the names
    of the flat spaces (`frames.space_names`).
    """

    def __init__(
        self, place: Place, keys: Keys | None, parts: int, task: Mapping[str, Any], courier: str,
        spaces: tuple[str, ...],
    ) -> None:  # fmt: skip
        self._listener = _listen(place, keys)
        self.place, self.parts, self.run = place, parts, new_identity()
        self._task, self._courier, self._spaces = task, courier, spaces
        self._lines: dict[int, _Line] = {}
        self._orders = PartOrders()
        self._listening, self._sequence = Listening(), 0
        self._answers: dict[int, Message] = {}
        self._lost: dict[int, str] = {}  # partition -> the name of its process

    @property
    def places(self) -> tuple[str, ...]:
        """Where the couriers listen, by partition."""
        return (self._courier, *(self._lines[part].joining.courier for part in range(2, self.parts + 1)))

    def gather(self, seconds: float, stop: Callable[[], bool], say: Callable[[str], None]) -> None:
        """Wait until all partitions are there and ready; tell `say` who is missing.

        Raises TransportError after `seconds` without the arrival of one, StoppedError if `stop` returns True.
        """
        deadline, before = time.monotonic() + seconds, None
        while missing := self._missing():
            if stop():
                raise StoppedError("interrupted before all partitions had joined; start it again to go on")
            if missing != before:
                deadline, before = time.monotonic() + seconds, missing
                say(f"waiting for {missing}, for {seconds:.0f} s at most; on its machine: {self._how_to_join()}")
            if time.monotonic() > deadline:
                raise TransportError(f"{missing} did not come within {seconds:.0f} s; start it: {self._how_to_join()}")
            self._look(_LOOK)
        self._orders = dataclasses.replace(self._orders, places=self.places)

    def _how_to_join(self) -> str:
        return f"adam-mp train --join {self.place} --partition K/{self.parts}"

    def _missing(self) -> str:
        """Say which partitions have not joined, or are not ready; "" if none."""
        absent = [part for part in range(2, self.parts + 1) if part not in self._lines]
        if absent:
            names = ", ".join(f"{part}/{self.parts}" for part in absent)
            return f"partition{'s' if len(absent) > 1 else ''} {names}"
        unready = [f"{part}/{self.parts}" for part, line in self._lines.items() if not line.ready]
        return f"the memory of {', '.join(sorted(unready))}" if unready else ""

    def step(self) -> None:
        """Answer what has come. Raises PartitionLostError if a partition is gone, or cannot go on."""
        self._look(0)
        self._check_all()

    def _check_all(self) -> None:
        for part, line in self._lines.items():
            if line.fault:
                raise TransportError(f"partition {part}/{self.parts} ({line.joining.name}): {line.fault}")
            silence = self._listening.seconds - line.heard
            if silence > _SILENT:
                self._lost[part] = line.joining.name
        for part, name in self._lost.items():
            raise PartitionLostError(
                f"partition {part}/{self.parts} ({name}) is gone, and the weights that it had; start it again: "
                f"adam-mp train --join {self.place} --partition {part}/{self.parts}"
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
        answer = self._answers.pop(sequence)
        self._answers.clear()
        return answer

    # The end.

    def end(self, state: str, why: str) -> None:
        """Tell all partitions how the run has ended, and wait a little until they have left.

        ZeroMQ drops what a partition has received and not read when its connection ends: so this side must not end it.
        """
        if self._orders.state != GOES_ON:
            return
        self._orders = dataclasses.replace(self._orders, state=state, why=why)
        deadline = time.monotonic() + _LEAVING
        while not all(line.has_left for line in self._lines.values()) and time.monotonic() < deadline:
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
            fields = {"run": self.run, "sender": 1, "sequence": message.sequence}
            self._listener.send(peer, with_facts(Kind.ORDERS, write(self._orders), **fields))
        elif message.kind == Kind.LEAVE:
            if self._orders.state == GOES_ON:
                self._lost[message.sender] = line.joining.name
            line.has_left = True
        elif message.kind in (Kind.NUMBERS, Kind.DONE):
            self._answers[message.sequence] = message

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
            if self._listening.seconds - line.heard < _STALE:
                raise RefusedError(f"partition {wanted} is taken by {line.joining.name}; give another", rejoin=True)
            self._lost[part] = line.joining.name
            raise RefusedError(f"the run begins again without {line.joining.name}", rejoin=True)
        if line is None and self._orders.state != GOES_ON:
            raise RefusedError("the run is ending", rejoin=self._orders.state != IS_DONE)
        if line is None:
            line = self._lines[part] = _Line(peer, message.map_epoch, joining, self._listening.seconds)
        line.peer = peer
        fields = {"run": self.run, "sender": 1, "sequence": message.sequence}
        welcome = write(PartWelcome(self.run, self._task))
        self._listener.send(peer, with_facts(Kind.WELCOME, welcome, **fields))


def _read(kind: type[Any], message: Message) -> Any:
    try:
        return read(kind, message.facts(), RefusedError)
    except FrameError as error:
        raise RefusedError(str(error)) from None


def _listen(place: Place, keys: Keys | None) -> SocketListener:
    """Listen; for some seconds, an earlier run of this process may still be ending there."""
    deadline = time.monotonic() + 5.0
    while True:
        try:
            return SocketListener(place, keys)
        except AdamError:
            if time.monotonic() > deadline:
                raise
        time.sleep(_LOOK)


__all__ = ["BEGINS_AGAIN", "PartitionLostError", "Partitions"]

"""Answers that wait until updates are stable: all in-sync copies have them.

A replica repeats a request without an answer each second. If it has not for `_FORGOTTEN` seconds, nobody waits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable

_FORGOTTEN = 5.0


@dataclasses.dataclass(frozen=True)
class Wait:
    """An answer about `groups` that waits for the updates `needs`, pairs of shard and sequence, of one sender.

    A sequence of 0 stands for the shard's first weights alone. `answer` sends the answer. `asked` is when the request
    last came.
    """

    groups: frozenset[int]
    sender: int
    needs: tuple[tuple[int, int], ...]
    answer: Callable[[], None] = dataclasses.field(compare=False)
    asked: float


class Waits:
    """All answers of a server that wait, each under a key by which a repeated request is known."""

    def __init__(self) -> None:
        self._waits: dict[Hashable, Wait] = {}

    @property
    def count(self) -> int:
        """How many answers wait."""
        return len(self._waits)

    def put(self, key: Hashable, wait: Wait) -> None:
        """Have an answer wait, in place of one with the same key."""
        self._waits[key] = wait

    def settle(self, is_stable: Callable[[Wait], bool]) -> None:
        """Send the answers whose updates are stable."""
        for key, wait in list(self._waits.items()):
            if is_stable(wait):
                del self._waits[key]
                wait.answer()

    def tidy(self, now: float) -> None:
        """Forget answers that nobody waits for any more."""
        self._keep(lambda wait: now - wait.asked < _FORGOTTEN)

    def forget(self, groups: frozenset[int]) -> None:
        """Forget answers about `groups`, of which this server is not primary any more."""
        self._keep(lambda wait: not wait.groups & groups)

    def _keep(self, is_kept: Callable[[Wait], bool]) -> None:
        self._waits = {key: wait for key, wait in self._waits.items() if is_kept(wait)}

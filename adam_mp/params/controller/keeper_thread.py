"""The thread beside a server's own that asks etcd: so no fault of etcd delays the server."""

from __future__ import annotations

import threading
import time

from adam_mp.errors import ProcessError
from adam_mp.params.controller.etcd import Etcd
from adam_mp.params.controller.keeper import Keeper

_TURN = 0.1  # seconds between two turns; a poke begins one at once
_CLOSING = 10.0  # seconds


class KeeperThread:
    """Calls `keeper.turn` at intervals, and at once when poked. It owns `etcd`, and closes it at its end."""

    def __init__(self, keeper: Keeper, etcd: Etcd) -> None:
        self.keeper, self._etcd = keeper, etcd
        self._wake, self._ends, self._forgets = threading.Event(), False, False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="controller", daemon=True)
        self._thread.start()

    def poke(self) -> None:
        """Have the thread take a turn at once."""
        self._wake.set()

    def check(self) -> None:
        """Raise ProcessError if the thread has ended by an error of its own."""
        if self._error is not None:
            raise ProcessError(f"the thread that asks etcd has ended: {self._error!r}") from self._error

    def close(self, forget: bool = False) -> None:
        """Resign and end the thread; `forget` removes the run's keys, if this server is its coordinator."""
        if self._ends:
            return
        self._forgets, self._ends = forget, True
        self._wake.set()
        self._thread.join(_CLOSING)

    def _run(self) -> None:
        try:
            while not self._ends:
                self._wake.wait(_TURN)
                self._wake.clear()
                if not self._ends:
                    self.keeper.turn(time.monotonic())
            self.keeper.end(self._forgets)
        except Exception as error:  # the server's thread raises it
            self._error = error
        finally:
            self._etcd.close()

"""Pictures that data servers on other machines make; while none of them answers, this process makes them.

The machine has the data set too, and the draws depend on seed, epoch and sample alone, so the pictures are the same,
whoever makes them. A batch is made by one side as a whole. While this process makes the pictures, the question that
nobody answered is asked again, so that the first answer tells that a server is there.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from adam_mp.data.pictures import Pictures, PictureSpec, open_pictures
from adam_mp.data.serving.remote import RemotePictures, RemoteSource
from adam_mp.memory.board import ELSEWHERE, HERE, Counters
from adam_mp.memory.run_memory import RunMemory


class PicturesOfServers:
    """Pictures of the samples of a run; see `ArrayPictures`.

    The counter `made_by` says who makes them now. Before it changes, `tell` is given a line that says the same.
    Raises TransportError at once where a server refuses.
    """

    reads_ahead = True

    def __init__(
        self, spec: PictureSpec, remote: RemoteSource, memory: RunMemory, counters: Counters,
        tell: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._spec, self._memory, self._counters, self._tell = spec, memory, counters, tell
        self._servers = RemotePictures(spec, remote, memory, counters)
        self._here: Pictures | None = None  # while this process makes the pictures
        if self._servers.silent:
            self._take_over()
        else:
            self._hand_over()

    def prepare(self, *batches: np.ndarray, key: int | None = None) -> None:
        """Ask for the pictures of these batches, or have read what they need; forget what was prepared for others."""
        if self._here is not None and self._servers.look(batches[-1:], key):
            self._hand_over()
        if self._here is None:
            self._servers.prepare(*batches, key=key)
        else:
            self._here.prepare(*batches, key=key)

    def fill(self, samples: np.ndarray, images: np.ndarray, labels: np.ndarray, key: int | None) -> int:
        """Write the pictures and labels of `samples`, those that can be had, in order; return how many.

        `key` stands for (seed, epoch); with None nothing is drawn.
        """
        if self._here is None:
            kept = self._servers.fill(samples, images, labels, key)
            if kept is not None:
                return kept
        return self._take_over().fill(samples, images, labels, key)

    def _take_over(self) -> Pictures:
        if self._here is None:
            self._here = open_pictures(self._spec, self._memory, self._counters)
            self._tell(self._servers.describe_silence())
            self._counters.publish("made_by", HERE)
        return self._here

    def _hand_over(self) -> None:
        self._here = None
        self._tell(f"data server {self._servers.address} answers and makes the pictures")
        self._counters.publish("made_by", ELSEWHERE)

    def close(self) -> None:
        """Hang up."""
        self._servers.close()

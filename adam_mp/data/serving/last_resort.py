"""Pictures that data servers on other machines make; while none of them answers, this data server makes them.

This machine has the data set too, and the random numbers of augmentation depend on seed, epoch and sample alone, so the
pictures are the same whichever side makes them. One side makes all pictures of a batch. While this data server makes
the pictures, it sends the unanswered request again and again: the first answer shows that a remote data server is back.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from adam_mp.data.pictures import Pictures, PictureSpec, open_pictures
from adam_mp.data.serving.remote import RemotePictures, RemoteSource
from adam_mp.memory.board import ELSEWHERE, HERE, Counters
from adam_mp.memory.run_memory import RunMemory


class PicturesOfServers:
    """Makes the pictures of a run, or has them made; its methods are those of `ArrayPictures`.

    The counter `made_by` says which side makes them now. Before it changes, `tell` gets a line for the user that says
    so. Every method raises TransportError at once if a remote data server refuses a request.
    """

    reads_ahead = True

    def __init__(
        self, spec: PictureSpec, remote: RemoteSource, memory: RunMemory, counters: Counters,
        tell: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._spec, self._memory, self._counters, self._tell = spec, memory, counters, tell
        self._servers = RemotePictures(spec, remote, memory, counters)
        self._here: Pictures | None = None  # makes the pictures in this process; None while other machines do
        if self._servers.silent:
            self._take_over()
        else:
            self._hand_over()

    def prepare(self, *batches: np.ndarray, key: int | None = None) -> None:
        """Ask for the pictures of these batches, or read their files ahead; forget other batches prepared before."""
        if self._here is not None and self._servers.look(batches[-1:], key):
            self._hand_over()
        if self._here is None:
            self._servers.prepare(*batches, key=key)
        else:
            self._here.prepare(*batches, key=key)

    def fill(self, samples: np.ndarray, images: np.ndarray, labels: np.ndarray, key: int | None) -> int:
        """Write the pictures and labels of those of `samples` that are not bad, in order; return how many.

        `images`, `labels` and `key` are as in `ArrayPictures.fill`.
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
        """Close the connections to the data servers."""
        self._servers.close()

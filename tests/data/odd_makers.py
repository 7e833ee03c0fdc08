"""What picture makers of the tests run: processes that are slow, wrong, or dead."""

from __future__ import annotations

import os
import time

from adam_mp.data.serving import picture_maker
from adam_mp.data.serving.picture_maker import MakerSpec, PictureMaker, make_pictures


def _make_as(kind: type[PictureMaker], spec: MakerSpec) -> None:
    picture_maker.PictureMaker = kind
    make_pictures(spec)


class Slow(PictureMaker):
    """Takes `seconds` over its first answer, and counts its answers."""

    seconds, made = 1.5, 0

    def make(self, *arguments):
        self._counters.add("heartbeat", 1)
        self.made += 1
        if self.made == 1:
            time.sleep(self.seconds)
        return super().make(*arguments)


class Slower(Slow):
    seconds = 0.3


class Nonsense(PictureMaker):
    def make(self, *arguments):
        return super().make(*arguments) - 4


class Broken(PictureMaker):
    def make(self, *arguments):
        raise ValueError("a\n\x1bfault")


def make_slowly(spec: MakerSpec) -> None:
    """Take longer over the first answer than replicas wait before they ask again."""
    _make_as(Slow, spec)


def make_less_slowly(spec: MakerSpec) -> None:
    _make_as(Slower, spec)


def make_nonsense(spec: MakerSpec) -> None:
    _make_as(Nonsense, spec)


def make_faults(spec: MakerSpec) -> None:
    _make_as(Broken, spec)


def die(_spec: MakerSpec) -> None:
    os._exit(3)

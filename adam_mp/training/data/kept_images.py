"""Images that a survey decoded, kept for the run that is planned: who owns them until the run's memory does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from adam_mp.memory.cache import ImageCache


class KeptImages:
    """The owner of a survey's cache. Leaving it, as a context manager, frees a cache that no run took over."""

    def __init__(self) -> None:
        self.cache: ImageCache | None = None

    def __enter__(self) -> KeptImages:
        return self

    def __exit__(self, *_: Any) -> None:
        if self.cache is not None:
            self.cache.close()
            self.cache = None

    def make(self, size: int, image_bytes: float, folder: Path | None, spare: int) -> ImageCache:
        """Make the cache, for a survey to fill; see `ImageCache.create`. One is made at most."""
        assert self.cache is None
        nothing: np.ndarray = np.zeros(0, np.int64)  # surveyors have an index of their own
        self.cache = ImageCache.create(size, image_bytes, nothing, folder, spare)
        return self.cache

    def drop(self) -> bool:
        """Free the cache; tell whether there was one."""
        there = self.cache is not None
        self.__exit__()
        return there

    def take(self) -> ImageCache | None:
        """Return the cache, which is the caller's from now on; None if there is none any more."""
        cache, self.cache = self.cache, None
        return cache

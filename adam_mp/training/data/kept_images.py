"""The owner of the images that a survey decoded, from the survey until the run's memory takes them over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from adam_mp.memory.cache import ImageCache


class KeptImages:
    """Owns a survey's cache. Use as a context manager: leaving it frees the cache, unless a run took it over."""

    def __init__(self) -> None:
        self.cache: ImageCache | None = None

    def __enter__(self) -> KeptImages:
        return self

    def __exit__(self, *_: Any) -> None:
        if self.cache is not None:
            self.cache.close()
            self.cache = None

    def make(self, size: int, image_bytes: float, folder: Path | None, spare: int) -> ImageCache:
        """Make the cache for the survey to fill; see `ImageCache.create`. To be called once at most."""
        assert self.cache is None
        no_index: np.ndarray = np.zeros(0, np.int64)  # the surveyors have an index of their own
        self.cache = ImageCache.create(size, image_bytes, no_index, folder, spare)
        return self.cache

    def drop(self) -> bool:
        """Free the cache; tell whether there was one."""
        existed = self.cache is not None
        self.__exit__()
        return existed

    def take(self) -> ImageCache | None:
        """Return the cache, which the caller owns from now on; None if there is none, or it was dropped or taken."""
        cache, self.cache = self.cache, None
        return cache

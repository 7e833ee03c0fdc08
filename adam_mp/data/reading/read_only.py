"""Images that may not be written, as the kernels take them."""

from __future__ import annotations

import types

import numpy as np


def for_kernels(array: np.ndarray) -> np.ndarray:
    """Return an array that kernels only read, as one that may be written: the same, or another view of its memory.

    A read-only array, as of a file's bytes or of Pillow, is of another type to numba. For that type no kernel is
    compiled beforehand: numba would compile it in the middle of a run, for ten seconds.
    """
    if array.flags.writeable:
        return array
    known = array.__array_interface__
    view = types.SimpleNamespace(__array_interface__={**known, "data": (known["data"][0], False)}, holds=array)
    return np.asarray(view)

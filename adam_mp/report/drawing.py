"""Figures of matplotlib, which is imported only when one is drawn: that takes half a second."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from adam_mp.machine import private_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PLACES = ("MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")  # where the user wants matplotlib's files


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches.

    matplotlib keeps its list of fonts in the user's home. Where there is none, it would warn, and search for fonts in
    each run anew; so it is given a folder among the temporary files.
    """
    home = os.path.expanduser("~")
    if not any(os.environ.get(name) for name in _PLACES) and not (os.path.isabs(home) and os.access(home, os.W_OK)):
        folder = private_folder("matplotlib")
        if folder is not None:
            os.environ["MPLCONFIGDIR"] = str(folder)
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")

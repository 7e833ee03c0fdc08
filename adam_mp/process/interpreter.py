"""How this process starts another Python: the new one looks for modules where this one does, and nowhere else.

`python -c` looks into the present folder first. A `json.py` of the user's that lies there would be run in each child,
although the command itself, `adam-mp`, does not look there. So the first statement of each program that a process of
adam_mp starts sets `sys.path` to that of its parent. That statement imports nothing but `sys`, which is no file.
"""

from __future__ import annotations

import contextlib
import os
import sys

# What a program that is given to `command` begins with.
OWN_PATH = "import sys; sys.path[:] = sys.argv[3 : 3 + int(sys.argv[2])]"


def own_path() -> list[str]:
    """Return the folders in which this process looks for modules, each by a whole path."""
    path = []
    for entry in sys.path:
        with contextlib.suppress(OSError):  # the present folder is gone
            path.append(os.path.abspath(entry))
    return path


def command(program: str, argument: str = "") -> list[str]:
    """Return the command line of a Python that runs `program`, which begins with OWN_PATH.

    The program finds `argument` in sys.argv[1]. Further arguments may follow.
    """
    path = own_path()
    return [sys.executable, "-c", program, argument, str(len(path)), *path]

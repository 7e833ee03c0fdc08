"""What each process of a run is doing: the Python stacks of all its threads, on demand."""

from __future__ import annotations

import faulthandler
import os
import time
from collections.abc import Mapping

import psutil

from adam_mp.process.child import Child, anonymous_file
from adam_mp.process.entry import STACKS_SIGNAL

# Seconds within which all should answer: a crew alone, and a crew with `others`, which first ask their own crews.
_DEADLINE, _DEADLINE_OF_OTHERS = 1.0, 2.5
_LOOK, _QUIET = 0.02, 0.06  # seconds between two looks at the answers; seconds without new output after the last answer


def all_stacks(crew: Mapping[str, Child], others: Mapping[str, Child]) -> str:
    """Return the stacks of this process, its `crew` and `others`, as a text.

    `others` are children that may have crews of their own. A process that does not answer is listed with its state.
    """
    children = {**crew, **others}
    asked = {name: child.ask(STACKS_SIGNAL) for name, child in children.items()}
    deadline = time.monotonic() + (_DEADLINE_OF_OTHERS if others else _DEADLINE)
    answers = dict.fromkeys(asked, "")
    quiet_since = time.monotonic()
    while time.monotonic() < deadline and (not all(answers.values()) or time.monotonic() - quiet_since < _QUIET):
        time.sleep(_LOOK)
        for name, begin in asked.items():
            answer = children[name].said_since(begin)
            if answer != answers[name]:
                answers[name], quiet_since = answer, time.monotonic()
    parts = [f"supervisor ({os.getpid()})\n{_own_stacks()}"]
    for name, answer in answers.items():
        child = children[name]
        parts.append(f"{name} ({child.pid})\n{answer.strip() or _state(child.pid)}")
    return "\n\n".join(parts)


def _own_stacks() -> str:
    with anonymous_file() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read().decode(errors="replace").strip()


def _state(process: int) -> str:
    """Say what the operating system knows of a process that does not answer."""
    try:
        return f"  does not answer: {psutil.Process(process).status()}"
    except psutil.Error:
        return "  is gone"

"""What child processes of the tests do."""

from __future__ import annotations

import importlib
import os
import time


def write(path: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"{os.environ['OPENBLAS_NUM_THREADS']} {sorted(os.sched_getaffinity(0))[0]}")


def measure(task: tuple[bytes, str]) -> None:
    with open(task[1], "w", encoding="utf-8") as file:
        file.write(str(len(task[0])))


def fail(text: str) -> None:
    raise ValueError(text)


def leave(code: int) -> None:
    os._exit(code)


def abort(module: str) -> None:
    importlib.import_module(module)  # whose extension modules Python lists
    os.abort()


def sleep(path: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(str(os.getpid()))
    time.sleep(60)

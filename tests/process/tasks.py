"""What child processes of the tests do."""

from __future__ import annotations

import atexit
import importlib
import json
import os
import random
import signal
import sys
import threading
import time
import uuid
from pathlib import Path

from adam_mp.process import fork_server
from adam_mp.process.folder_lock import FolderHeldError


def write(path: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"{os.environ['OPENBLAS_NUM_THREADS']} {sorted(os.sched_getaffinity(0))[0]}")


def measure(task: tuple[bytes, str]) -> None:
    with open(task[1], "w", encoding="utf-8") as file:
        file.write(str(len(task[0])))


def fail(text: str) -> None:
    raise ValueError(text)


def refuse(text: str) -> None:
    raise ConnectionRefusedError(text)


def find_held(folder: str) -> None:
    raise FolderHeldError(Path(folder), "process 1")


def end(text: str) -> None:
    sys.exit(text)


def print_in_vain(word: str) -> None:
    """Print a lot to streams that are full, as a data set object of the user may do."""
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, 1)
    os.dup2(full, 2)
    for stream in (sys.stdout, sys.stderr):
        print(word * 10_000, file=stream, flush=True)
        stream.write("left in a buffer")


def leave(code: int) -> None:
    os._exit(code)


def abort(module: str) -> None:
    importlib.import_module(module)  # whose extension modules Python lists
    os.abort()


def leave_traces(path: str) -> None:
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115, not flushed before the end
    print("said")
    atexit.register(lambda: open(path, "w").close())


def sleep(path: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(str(os.getpid()))
    time.sleep(60)


def tell_files(path: str) -> None:
    """Write what the standard streams are, and the names of the memory files beside them."""
    links = {number: os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")
             if os.path.exists(f"/proc/self/fd/{number}")}  # fmt: skip
    names = {number: link[7:-10] for number, link in links.items() if link.startswith("/memfd:file")}
    streams = ["pipe" if links[number].startswith("pipe") else "file" for number in "012"]
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"streams": streams, "files": names}, file)


def draw(path: str) -> None:
    import numpy as np

    with open(path, "w", encoding="utf-8") as file:
        file.write(f"{random.random()} {np.random.random()} {np.random.default_rng().random()} {uuid.uuid4()}")


def do_nothing(_: object) -> None:
    pass


remembered: list[str] = []


def remember() -> None:
    remembered.append("x")


def recall(path: str) -> None:
    append(path * bool(remembered) or "/nowhere/at/all")


def append(path: str) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write("x")


def start_a_thread() -> None:
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()


def sigstop_after_a_fork() -> None:
    _signal_after_a_fork(signal.SIGSTOP)


def sigkill_after_a_fork() -> None:
    _signal_after_a_fork(signal.SIGKILL)


def _signal_after_a_fork(number: int) -> None:
    """Let this fork server get a signal as soon as it has forked."""
    fork = fork_server.fork_sibling

    def fork_and_end() -> int:
        process = fork()
        if process:
            os.kill(os.getpid(), number)
        return process

    fork_server.fork_sibling = fork_and_end


def be_silent() -> None:
    """Let neither this fork server nor its children say a process id."""
    say = fork_server._say
    fork_server._say = lambda line, message: say(line, message) if "trouble" in message else None


def say_and_die(text):
    print(text, file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def say_and_leave(text):
    print(text, file=sys.stderr, flush=True)
    os._exit(3)

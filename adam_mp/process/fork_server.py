"""The fork server: a small process of a run that has imported what children need, and forks them when it is asked.

It has one thread and does nothing between two requests, so that a fork of it is sound: no other thread can hold a lock.
Children share its memory until they write to it. It is asked through a socket that the supervisor holds: at its end of
file it ends, and the kernel ends it with the supervisor in any case. Its own end costs its children nothing: they are
the supervisor's (`sibling`).

    supervisor                            fork server                      child
      REQUEST number, name, files ──────────▶ clone ───────────────────────▶ own session, name, files
      ◀───── number, process id ─────────────┤                               │
      ◀───── number, process id, began ──────────────────────────────────────┤
      GO into the child's input ─────────────────────────────────────────────▶ runs its task

Both say the process id, so that one of them may be stopped or killed in between. Without GO a child runs nothing: one
that the supervisor does not know of, or has given up, reads the end of its input and ends.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import sys
from typing import Any, NamedTuple

from adam_mp.process.entry import end_with_parent, run_task
from adam_mp.process.sibling import Title, fork_sibling, sibling_trouble

NAME = "fork server"
ROOM = " " * 48  # for the names of children, beside its own
NOBODY = -1  # in place of a process id
LONGEST_REQUEST = 1 << 16  # bytes
MOST_FILES = 200  # of a request; the kernel passes 253 at once


class Request(NamedTuple):
    """A child to be forked: the request's number, its name, its sys.path, and the open files that it is to have.

    `files` are numbers here, `places` those that the child is to have them under.
    """

    number: int
    name: str
    path: list[str]
    files: list[int]
    places: list[int]


def main() -> None:
    """Serve until the supervisor closes the socket; in a child, run its task."""
    gc.disable()  # in children it is on again
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    supervisor, descriptor, preload = json.loads(sys.argv[2])
    end_with_parent(supervisor)
    line = socket.socket(fileno=descriptor)
    for entry in preload:
        _load(entry)
    title = Title.find(ROOM, NAME)
    gc.freeze()  # so that the collector of a child leaves shared pages alone
    trouble = sibling_trouble() or ("its command line cannot be written over" if title is None else None)
    _say(line, {"trouble": trouble})
    request = None if title is None or trouble else _serve(line)
    if request is None or title is None:
        return
    task = _become(request, line, title)
    run_task(task, waits=True)


def _load(entry: str) -> None:
    """Import a module; of "module:function", call the function."""
    module, _, function = entry.partition(":")
    loaded = importlib.import_module(module)
    if function:
        getattr(loaded, function)()


def _serve(line: socket.socket) -> Request | None:
    """Fork whom the supervisor asks for, until it is gone; return in it alone, or in a child, with its request."""
    while True:
        content, files, _, _ = socket.recv_fds(line, LONGEST_REQUEST, MOST_FILES)
        if not content:
            return None
        number, name, path, places = json.loads(content)
        request = Request(number, name, path, files, places)
        whole = len(files) == len(places) + 3  # fewer where this process may not open as many
        try:
            process = fork_sibling() if whole and sibling_trouble() is None else NOBODY
        except OSError:
            process = NOBODY
        if process == 0:
            return request
        for file in files:
            os.close(file)
        _say(line, {"number": request.number, "process": process, "began": False})


def _say(line: socket.socket, message: dict[str, Any]) -> None:
    try:
        line.send(json.dumps(message).encode(), socket.MSG_NOSIGNAL)
    except OSError:
        pass  # the supervisor is gone, or has given this process up; what it reads next tells


def _become(request: Request, line: socket.socket, title: Title) -> int:
    """Make this process, just forked, a child as any other; return the open file with its task."""
    os.setsid()
    title.write(request.name)
    _say(line, {"number": request.number, "process": os.getpid(), "began": True})
    line.close()
    task = place_files(request.files, [0, 1, *request.places])
    os.dup2(1, 2)
    sys.path[:] = request.path
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()  # Python's own generator does so by itself
    gc.enable()
    return task


def place_files(files: list[int], places: list[int]) -> int:
    """Move open files to the numbers `places`, for one fewer than there are; return the number of the last."""
    now = list(files)
    for index, place in enumerate(places):
        if now[index] == place:
            continue
        if place in now[index + 1 :]:  # a file that is to go elsewhere makes room
            now[now.index(place, index + 1)] = os.dup(place)
        os.dup2(now[index], place)
        os.close(now[index])
    return now[-1]

"""The fork server: a small process of a run that imports what children need, and forks a child at each request.

It has one thread and does nothing between two requests, so forking it is safe: no other thread can hold a lock.
Children share its memory until they write to it. Requests come through a socket from the supervisor. The fork server
ends when the supervisor closes that socket, and the kernel ends it when the supervisor ends. Its children go on when it
ends, because the kernel takes them for the supervisor's children (`sibling`).

    supervisor                            fork server                      child
      REQUEST number, name, files ──────────▶ clone ───────────────────────▶ own session, name, files
      ◀───── number, process id ─────────────┤                               │
      ◀───── number, process id, began ──────────────────────────────────────┤
      GO into the child's input ─────────────────────────────────────────────▶ runs its task

Fork server and child both send the process id, so the supervisor learns of the child even if one of the two is stopped
or killed in between. Without GO a child runs nothing. If the supervisor does not know of a child, or has given it up,
the supervisor closes the child's input; the child reads its end and ends.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import socket
import sys
from typing import Any, NamedTuple

from adam_mp.process.entry import end_with_parent, leave_signals_to_the_supervisor, run_task
from adam_mp.process.sibling import Title, fork_sibling, sibling_trouble

NAME = "fork server"
ROOM = " " * 48  # a blank argument of its command line: room for longer names of children (`sibling.Title`)
NOBODY = -1  # in place of a process id: the fork failed
LONGEST_REQUEST = 1 << 16  # bytes
MOST_FILES = 200  # open files that a request passes; the kernel passes at most 253 at once


class Request(NamedTuple):
    """A request to fork a child: the request's number, and the child's name, sys.path and open files.

    `files` are the descriptors that the fork server received: the child's input, its output, the files that it gets
    under the descriptors `places`, and its task.
    """

    number: int
    name: str
    path: list[str]
    files: list[int]
    places: list[int]


def main() -> None:
    """Serve requests until the supervisor closes the socket; in a forked child, run the child's task."""
    gc.disable()  # `_become` enables it again in each child
    leave_signals_to_the_supervisor()
    supervisor, descriptor, preload = json.loads(sys.argv[1])
    end_with_parent(supervisor)
    connection = socket.socket(fileno=descriptor)
    for entry in preload:
        _load(entry)
    title = Title.find(ROOM, NAME)
    gc.freeze()  # so that the garbage collector of a child does not write to the pages that it shares
    trouble = sibling_trouble() or ("its command line cannot be written over" if title is None else None)
    _say(connection, {"trouble": trouble})
    request = None if title is None or trouble else _serve(connection)
    if request is None or title is None:
        return
    task = _become(request, connection, title)
    run_task(task, waits=True)


def _load(entry: str) -> None:
    """Import a module; for "module:function", also call the function."""
    module, _, function = entry.partition(":")
    loaded = importlib.import_module(module)
    if function:
        getattr(loaded, function)()


def _serve(connection: socket.socket) -> Request | None:
    """Fork a child at each request. Return the request in the child; return None here when the supervisor is gone."""
    while True:
        content, files, _, _ = socket.recv_fds(connection, LONGEST_REQUEST, MOST_FILES)
        if not content:
            return None
        number, name, path, places = json.loads(content)
        request = Request(number, name, path, files, places)
        whole = len(files) == len(places) + 3  # fewer files arrive if this process may not open as many
        try:
            process = fork_sibling() if whole and sibling_trouble() is None else NOBODY
        except OSError:
            process = NOBODY
        if process == 0:
            return request
        for file in files:
            os.close(file)
        _say(connection, {"number": request.number, "process": process, "began": False})


def _say(connection: socket.socket, message: dict[str, Any]) -> None:
    try:
        connection.send(json.dumps(message).encode(), socket.MSG_NOSIGNAL)
    except OSError:
        pass  # the supervisor is gone or has given this process up; its next read finds that out


def _become(request: Request, connection: socket.socket, title: Title) -> int:
    """Give this process, which was just forked, the session, name, files and path of a child.

    Returns the descriptor of the file with its task.
    """
    os.setsid()
    title.write(request.name)
    _say(connection, {"number": request.number, "process": os.getpid(), "began": True})
    connection.close()
    task = place_files(request.files, [0, 1, *request.places])
    os.dup2(1, 2)
    sys.path[:] = request.path
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()  # Python seeds its own generator after a fork
    gc.enable()
    return task


def place_files(files: list[int], places: list[int]) -> int:
    """Move the open files to the descriptors `places`, one fewer than files; return the last file's descriptor."""
    now = list(files)
    for index, place in enumerate(places):
        if now[index] == place:
            continue
        if place in now[index + 1 :]:  # a later file has this descriptor: move that file away first
            now[now.index(place, index + 1)] = os.dup(place)
        os.dup2(now[index], place)
        os.close(now[index])
    return now[-1]

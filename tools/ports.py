"""Ports of loopback that stay free until their caller listens on them: for tests, and for members of etcd.

Who listens on port 0 gets a port from the kernel's own range. A port of that range which was free a moment ago may so
be taken by any process that starts meanwhile. The ports given here lie outside of it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from pathlib import Path

_FIRST, _END = 20_000, 32_768
_KERNELS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_asked = itertools.count()


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on, and that this process was not given before."""
    low, high = (int(word) for word in _KERNELS.read_text().split())
    candidates = [port for port in range(_FIRST, _END) if not low <= port <= high] or range(_FIRST, _END)
    for number in itertools.islice(_asked, len(candidates)):
        port = candidates[(os.getpid() * 97 + number) % len(candidates)]
        with contextlib.closing(socket.socket()) as door:
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                door.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no port of 127.0.0.1 between {_FIRST} and {_END} is free")

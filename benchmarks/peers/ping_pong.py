"""The least that push and pull can cost: a blocking socket each side, the bytes, and the update, one after the other.

python -m benchmarks.peers.ping_pong SHARD_BYTES    answers one connection until it ends; prints its port first
"""

from __future__ import annotations

import socket
import sys

import numpy as np


def receive_into(connection: socket.socket, buffer: np.ndarray) -> bool:
    """Fill `buffer`, uint8; False if the peer has gone."""
    view, at = memoryview(buffer), 0
    while at < len(view):
        count = connection.recv_into(view[at:])
        if not count:
            return False
        at += count
    return True


def serve(size: int) -> None:
    """Add what comes to the weights, and send them back."""
    weights, delta = np.zeros(size // 4, np.float32), np.zeros(size, np.uint8)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        connection, _ = listener.accept()
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while receive_into(connection, delta):
                weights += delta.view(np.float32)
                connection.sendall(weights)


if __name__ == "__main__":
    serve(int(sys.argv[1]))

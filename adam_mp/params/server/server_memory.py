"""How much memory a parameter server needs, by what it holds."""

from __future__ import annotations

from adam_mp.params.server.answers import BUFFERS

TURN = 16  # messages that a turn of the server's loop takes at most
TURN_BYTES = 24 << 20  # payload bytes after which a turn takes no further message
WAITING = 2  # copies of shards that wait for the disk at most


def server_memory(shards: int, largest: int, snapshots: bool) -> dict[str, int]:
    """Return the bytes that a server needs, by purpose. `shards` are the bytes of all its shards, `largest` of one."""
    need = {
        "shards": shards,
        "answers": BUFFERS * largest,
        "messages": TURN_BYTES + largest + TURN * largest,  # as received, and 16-bit ones again as float32
    }
    if snapshots:
        need["copies for the snapshot"] = (WAITING + 2) * largest  # and one being written, one being handed over
    return need

"""What a parameter server holds at once, and what that takes of memory."""

from __future__ import annotations

from adam_mp.params.server.answers import BUFFERS

TURN = 16  # messages, and payload bytes, that a turn takes at most
TURN_BYTES = 24 << 20
WAITING = 2  # copies of shards that wait for the disk


def server_memory(shards: int, largest: int, snapshots: bool) -> dict[str, int]:
    """Return bytes by what they are for: of a server whose shards have so many, the `largest` of them that many."""
    need = {
        "shards": shards,
        "answers": BUFFERS * largest,
        "messages": TURN_BYTES + largest + TURN * largest,  # as they came, and widened to float32
    }
    if snapshots:
        need["copies for the snapshot"] = (WAITING + 2) * largest  # one is being written, one is handed over
    return need

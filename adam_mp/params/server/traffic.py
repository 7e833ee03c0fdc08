"""The statistics of a parameter server that `status` shows: its shards, updates and traffic."""

from __future__ import annotations

import dataclasses
from typing import Any

from adam_mp.params.server.shard_table import ShardTable
from adam_mp.transport.endpoint import Endpoint


class Traffic:
    """Makes statistics from counters; rates are those since the last call of `figures`."""

    def __init__(self) -> None:
        self._then, self._updates, self._bytes = 0.0, 0, 0

    def figures(self, now: float, endpoint: Endpoint, table: ShardTable | None) -> dict[str, Any]:
        """Return the statistics as of `now`; `table` is None while the server has no shards."""
        carried = endpoint.statistics()
        updates = table.updates if table is not None else 0
        size = carried.bytes_sent + carried.bytes_received
        seconds, began = max(now - self._then, 1e-9), self._then > 0
        statistics: dict[str, Any] = {
            "shards": len(table.entries) if table is not None else 0,
            "bytes": table.bytes if table is not None else 0,
            "applied": updates,
            "updates_per_second": round((updates - self._updates) / seconds, 1) if began else 0.0,
            "bytes_per_second": round((size - self._bytes) / seconds) if began else 0,
            "bytes_in": carried.bytes_received,
            "bytes_out": carried.bytes_sent,
            "dropped": carried.dropped,
            "connections_failed": carried.failed,
            "connections_lost": carried.lost,
        }
        if table is not None:
            statistics.update(dataclasses.asdict(table.statistics()))
        self._then, self._updates, self._bytes = now, updates, size
        return statistics

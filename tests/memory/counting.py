"""Run in a child process: count many updates of a store."""

from __future__ import annotations

from adam_mp.memory.store import ParameterStore, StoreHandle

UPDATES = 20_000


def count(handle: StoreHandle) -> None:
    store = ParameterStore.attach(handle)
    for _ in range(UPDATES):
        store.count_update()

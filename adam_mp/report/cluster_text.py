"""The state of a run of many machines in words, as `adam-mp status` shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adam_mp.errors import several
from adam_mp.memory.segment import megabytes
from adam_mp.report.text import count, duration, percent, table
from adam_mp.transport.messages import shown

_LONGEST = 120  # characters of a cell


def cluster_text(state: Mapping[str, Any]) -> str:
    """Return the lines to show for a coordinator's state (`Coordinator.state`).

    They are the run, a table of members, and in a run with copies a table of bucket groups.
    """
    lines = [shown(f"run {state['run']}, {state['phase']}" + _epoch(state))]
    rows: list[tuple[str, ...]] = [("member", "role", "up", "heard", "work", "staleness", "in", "out", "queue")]
    rows += [_row(member) for member in state["members"]]
    rows += [_missing_row(member) for member in state["missing"]]
    rows = [tuple(shown(cell, _LONGEST) for cell in row) for row in rows]
    lines.append(table(rows))
    if (state.get("map") or {}).get("groups"):
        lines.append(table([tuple(shown(cell, _LONGEST) for cell in row) for row in _group_rows(state)]))
    return "\n".join(lines)


def _group_rows(state: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the rows of the bucket groups: who is primary, who has copies, and how far behind these are."""
    servers = [address for _, address, *_ in state["map"]["servers"]]
    behind = {(group, place): shards for group, place, shards in state["behind"]}
    rows: list[tuple[str, ...]] = [("group", "primary", "copies in sync", "being made")]
    for number, (_, primary, in_sync, joining, *_rest) in enumerate(state["map"]["groups"]):

        def copies(places: Sequence[int], number: int = number) -> str:
            return ", ".join(servers[place] + _behind(behind.get((number, place), 0)) for place in places)

        rows.append((str(number), servers[primary], copies(in_sync), copies(joining)))
    return rows


def _behind(shards: int) -> str:
    return f" ({several(shards, 'shard')} behind)" if shards else ""


def _epoch(state: Mapping[str, Any]) -> str:
    if not state["images"]:
        return ""
    if state["phase"] == "done":
        return f": {several(state['epochs'], 'epoch')}"
    share = percent(state["trained"] / state["images"])
    return (
        f": epoch {state['epoch'] + 1} of {state['epochs']}, "
        f"{state['trained']:,} of {state['images']:,} images trained ({share}), {state['leased']:,} leased"
    )


def _heard(member: Mapping[str, Any]) -> str:
    return f"{member['silent_seconds']:.1f} s ago" + (", silent" if member["silent"] else "")


def _missing_row(member: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the row of a former member that has a place in the run and may come back."""
    missing = f"missing for {duration(member['silent_seconds'])}"
    return (member["name"], member["role"], "", "", missing, "", "", "", "")


def _row(member: Mapping[str, Any]) -> tuple[str, ...]:
    if member["role"] == "params":
        rate = member.get("updates_per_second", 0)
        work = (
            f"{several(member.get('shards', 0), 'shard')}, {megabytes(member.get('bytes', 0))}, {count(rate)} updates/s"
        )
        work += "".join(
            f", {several(member[name], 'connection')} {what}"
            for name, what in (("connections_failed", "failed"), ("connections_lost", "lost"))
            if member.get(name)
        )
    else:
        rate = member.get("images", 0) / max(member["seconds"], 1e-9)
        work = f"{several(member.get('workers', 0), 'worker')}, {several(member.get('images', 0), 'image')}, "
        work += f"{count(rate)} images/s"
        waits = {what: member.get(f"waited_for_{what}", 0) for what in ("data", "leases", "exchange", "others")}
        work += "".join(f", waited {percent(share)} for {what}" for what, share in waits.items() if share >= 0.01)
    staleness = member.get("staleness")
    name = member["name"] + (" *" if member.get("leader") else "")
    return (
        name,
        member["role"],
        duration(member["seconds"]),
        _heard(member),
        work,
        "" if staleness is None else f"{staleness:.2f}",
        megabytes(member.get("bytes_in", 0)),
        megabytes(member.get("bytes_out", 0)),
        str(member.get("queue", 0)),
    )

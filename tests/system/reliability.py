"""docs/reliability.md, from what the fault matrix found: python -m tests.system.reliability RESULTS."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
RESULTS = "ADAM_MP_RELIABILITY"  # environment: the file to which outcomes are appended
HEAD = """# Reliability

Each line says what tests did to runs, what must hold then, and how often it held. `make reliability` writes it: from
`tests/system/test_faults.py` and `tests/system/test_limits.py` with real processes on one machine, from
`tests/system/test_packets.py` and `tests/system/test_group_faults.py` with real processes in network namespaces, and,
where the line says that it is simulated, from `tests/params/test_copies.py`, with servers, replicas and the coordinator
on a simulated network.

| what was done | what must hold | tried | held |
|---|---|---|---|
"""


@dataclasses.dataclass(frozen=True)
class Row:
    """What is done, and what must hold."""

    done: str
    holds: str


@contextlib.contextmanager
def recorded(row: Row) -> Iterator[None]:
    """Note whether the body, which tries a row, ended without an error."""
    held = False
    try:
        yield
        held = True
    finally:
        path = os.environ.get(RESULTS)
        if path:
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps({**dataclasses.asdict(row), "held": held}) + "\n")


def page(results: list[dict[str, object]]) -> str:
    """Return the page for outcomes, which come in any order."""
    rows: dict[tuple[str, str], list[bool]] = {}
    for each in results:
        rows.setdefault((str(each["done"]), str(each["holds"])), []).append(bool(each["held"]))
    lines = [f"| {done} | {holds} | {len(held)} | {sum(held)} |\n" for (done, holds), held in sorted(rows.items())]
    tried = sum(map(len, rows.values()))
    held = sum(map(sum, rows.values()))
    return HEAD + "".join(lines) + f"\n{tried} trials of {len(rows)} rows; {held} held.\n"


if __name__ == "__main__":
    results = [json.loads(line) for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()]
    PAGE.write_text(page(results), encoding="utf-8")

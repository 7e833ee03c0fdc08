"""From pytest-benchmark's JSON to docs/benchmarks/suites.md: python -m benchmarks.suites RESULT.json"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks import page

_TITLES = {
    "test_kernels": "Kernels", "test_step": "Training step, update included", "test_data": "Data serving",
    "test_memory": "Shared memory", "test_run": "Whole runs",
}  # fmt: skip


def main() -> None:
    """Write the page."""
    results = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["benchmarks"]
    groups: dict[str, list[Any]] = defaultdict(list)
    for result in results:
        groups[Path(result["fullname"].split("::")[0]).stem].append(result)
    sections = [f"## {_TITLES[name]}\n\n{_table(groups[name])}" for name in _TITLES if name in groups]
    page.write_page(
        "suites.md",
        "# Suites\n\n`make bench` writes this page. Medians with the quartiles' distance, one process and one thread "
        f"unless said.\n\n{page.machine_line()}\n\n" + "\n\n".join(sections),
    )


def _table(results: list[Any]) -> str:
    timed = any(result["stats"]["rounds"] > 1 for result in results)
    names = list(dict.fromkeys(name for result in results for name in result["extra_info"]))
    rows = []
    for result in results:
        figures = [_figure(result["extra_info"].get(name, "")) for name in names]
        stats = result["stats"]
        time = [_time(stats["median"]), f"{stats['iqr'] / stats['median']:.1%}"] if timed else []
        rows.append([result["name"].removeprefix("test_"), *time, *figures])
    return page.table(["benchmark", *(["median", "spread"] if timed else []), *names], rows)


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"
    return str(value)


def _time(seconds: float) -> str:
    for unit, factor in (("s", 1), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


if __name__ == "__main__":
    main()

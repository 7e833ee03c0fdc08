"""What the pages under docs/benchmarks have in common: where they lie, the machine, tables."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adam_mp.kernels.vector import VECTOR_BYTES
from adam_mp.machine import cpu_name, l2_bytes, usable_cores

FOLDER = Path(__file__).parent.parent / "docs" / "benchmarks"
_PACKAGES = ("adam_mp", "numpy", "numba", "torch", "scikit-learn")


def machine_line() -> str:
    """Say on what and when something was measured."""
    versions = []
    for name in _PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"no {name}")
    return (
        f"{cpu_name()}, {usable_cores()} cores, L2 {l2_bytes() >> 10} KB, {8 * VECTOR_BYTES}-bit vectors; "
        f"Python {platform.python_version()}, {', '.join(versions)}; {datetime.date.today():%Y-%m-%d}."
    )


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def write_page(name: str, text: str) -> None:
    """Write docs/benchmarks/NAME."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / name).write_text(text.rstrip() + "\n", encoding="utf-8")


def write_data(name: str, data: Any) -> None:
    """Write the figures a page was made of, as JSON beside it."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / name).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def read_data(name: str) -> Any:
    """Return what `write_data` wrote."""
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))

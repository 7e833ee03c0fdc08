"""Tables of goals beside what is measured, as pages of docs/benchmarks."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator, Mapping

from benchmarks import page
from benchmarks.timing import spread

HEADER = ("what", "against", "goal", "measured (quartiles)", "met", "figures")


@dataclasses.dataclass(frozen=True)
class Row:
    """One goal. `reach` is the value to get to; `low` and `high` are quartiles of `value`. None: not measured here."""

    what: str
    against: str
    reach: str
    value: float | None
    low: float | None = None
    high: float | None = None
    met: bool | None = None
    figures: str = ""

    def cells(self) -> list[str]:
        """The row of the page."""
        unit = "%" if self.reach.endswith("%") else self.reach.lstrip("<0123456789. ")
        unit = f" {unit}" if len(unit) > 1 else unit
        if self.value is None:
            return [self.what, self.against, self.reach, "not measured", "", self.figures]
        quartiles = "" if self.low is None or self.high is None else f" ({self.low:.2f} to {self.high:.2f})"
        verdict = {True: "yes", False: "**no**", None: ""}[self.met]
        return [self.what, self.against, self.reach, f"{self.value:.2f}{unit}{quartiles}", verdict, self.figures]


def ratio_row(what: str, against: str, goal: float, ratios: list[float], figures: str) -> Row:
    """A row whose value is a ratio: the median of `ratios`, ascending, is to be at least `goal` (0: only shown)."""
    low, middle, high = spread(ratios)
    reach = f"{goal:g}x" if goal else ""
    return Row(what, against, reach, middle, low, high, middle >= goal if goal else None, figures)


def run_groups(
    description: str | None, groups: Mapping[str, Callable[[], Iterator[Row]]], name: str, title: str,
    closing: Callable[[], str] | None = None,
) -> None:  # fmt: skip
    """Measure the groups of rows that the command line chooses; where it is all, write docs/benchmarks/NAME.md.

    The page ends with what `closing` returns.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=groups, help="print this group of rows and write nothing")
    chosen = parser.parse_args().only
    rows = []
    for group, measure in groups.items():
        if chosen in (None, group):
            for row in measure():
                print("  ".join(row.cells()), flush=True)
                rows.append(row)
    if chosen is None:
        page.write_data(f"{name}.json", [dataclasses.asdict(row) for row in rows])
        missed = [row.what for row in rows if row.met is False]
        verdict = f"Missed: {'; '.join(missed)}." if missed else "Every goal that was measured is met."
        page.write_page(
            f"{name}.md",
            f"# {title}\n\n"
            "`make bench` writes this page. One thread a process; sides take turns in one run; medians, with the "
            f"quartiles of what is compared.\n\n{page.machine_line()}\n\n"
            f"{page.table(HEADER, [row.cells() for row in rows])}\n\n{verdict}\n"
            + ("" if closing is None else f"\n{closing()}"),
        )

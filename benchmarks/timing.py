"""Fair timing: sides take turns in one process, so that a slow spell of the machine meets all of them."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Seconds of each side, a list as long as there were rounds."""

    seconds: Mapping[str, list[float]]

    def median(self, side: str) -> float:
        """The median of a side's seconds."""
        return statistics.median(self.seconds[side])

    def ratios(self, slow: str, fast: str) -> list[float]:
        """How many times faster `fast` was than `slow`, round by round, ascending."""
        return sorted(a / b for a, b in zip(self.seconds[slow], self.seconds[fast], strict=True))

    def fastest(self, *sides: str) -> str:
        """The side with the smallest median."""
        return min(sides, key=self.median)


def spread(ratios: list[float]) -> tuple[float, float, float]:
    """Return the first quartile, the median and the third quartile."""
    if len(ratios) < 2:
        return ratios[0], ratios[0], ratios[0]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return low, middle, high


def alternate(sides: Mapping[str, Callable[[], object]], seconds: float = 6.0, rounds: int = 15) -> Comparison:
    """Run the sides in turn, at most `rounds` times and about `seconds` in all, each turn long enough to be timed."""
    repeats = {}
    for name, action in sides.items():
        action()
        action()
        start = time.perf_counter()
        action()
        once = max(time.perf_counter() - start, 1e-6)
        repeats[name] = max(1, round(seconds / (rounds * len(sides)) / once))
    taken: dict[str, list[float]] = {name: [] for name in sides}
    began = time.perf_counter()
    for done in range(rounds):
        for name, action in sides.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                action()
            taken[name].append((time.perf_counter() - start) / repeats[name])
        if done >= 4 and time.perf_counter() - began > 2 * seconds:
            break
    return Comparison(taken)

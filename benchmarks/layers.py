"""Norms, depthwise convolutions, global pooling and sums, forward and backward, beside PyTorch's.

python -m benchmarks.layers            print the rows
python -m benchmarks.layers --write    and write docs/benchmarks/layers.md

Ours is timed where it stands in a network: a step of the network runs, and the kernels of the layer are timed in it. So
it finds in the caches what the layers beside it leave there, as it does in training. PyTorch's module is timed alone,
again and again on the same arrays. Both sides take turns, on one core.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from adam_mp.machine import ONE_THREAD

os.environ.update(ONE_THREAD)  # before numpy loads its BLAS

import numpy as np

from adam_mp.compute.context import TrainingContext
from adam_mp.compute.measurement import choose_kernels
from adam_mp.compute.operation import Call
from adam_mp.network.initialization import initial_weights
from adam_mp.network.joins import Part, Residual
from adam_mp.network.layer import Shape
from adam_mp.network.layers import Conv, Dense, GlobalAveragePool, ReLU, Softmax
from adam_mp.network.network import Network
from adam_mp.network.norms import BatchNorm
from benchmarks import page
from benchmarks.timing import spread

_GOAL, _ROUNDS, _CLASSES = 1.5, 15, 10
_NORM = ("add_moments", "norm_scales", "scale_channels", "add_error_sums", "norm_slopes", "norm_backward")
_WINDOWS = ("same_sums", "same_products")
_POOL = ("global_average_forward", "global_average_backward")
_ADD = ("add_forward", "pass_error_twice", "add_to")


@dataclasses.dataclass(frozen=True)
class Case:
    """A layer between others, with values of `shape`'s sides and of `channels`. `kernels` are its own."""

    words: str
    layers: tuple[Part, ...]
    kernels: tuple[str, ...]
    shape: Shape
    channels: int
    batch: int

    def has(self, call: Call) -> bool:
        """Tell whether a kernel call is one of the layer."""
        return call[0].__name__ in self.kernels


def _cases() -> list[Case]:
    cases = []
    for side, channels, batch in ((32, 64, 64), (16, 128, 64), (8, 256, 64), (56, 64, 8), (14, 384, 16)):
        one, last = Conv(channels, 1, bias=False), Conv(channels, 1)
        alone = Conv(channels, 3, padding=1, bias=False, groups=channels)
        for words, layers, kernels in (
            ("batch norm", (one, BatchNorm(), last), _NORM),
            ("batch norm, ReLU", (one, BatchNorm(), ReLU(), last), _NORM),
            ("depthwise 3x3", (one, alone, last), _WINDOWS),
            ("global average pooling", (one,), _POOL),
            ("add", (one, Residual([last]), last), _ADD),
            ("add, ReLU", (one, Residual([last]), ReLU(), last), _ADD),
        ):
            cases.append(Case(words, layers, kernels, (side, side, 16), channels, batch))
    return sorted(cases, key=lambda case: case.words)


class Ours:
    """A step of the network in which a case's layer stands; `run` returns the seconds that the layer took."""

    def __init__(self, case: Case) -> None:
        layers = [*case.layers, GlobalAveragePool(), Dense(), Softmax()]
        network = Network.build(layers, case.shape, _CLASSES)
        generator = np.random.default_rng(1)
        images = generator.standard_normal((case.batch, *case.shape), dtype=np.float32)
        labels = generator.integers(_CLASSES, size=case.batch, dtype=np.int32)
        self._context = TrainingContext(
            network, initial_weights(network, 1), case.batch, choices=choose_kernels(network, case.batch)
        )
        program = self._context.program(images, labels)
        self._calls = [(call, case.has(call)) for call in (*program.forward, *program.backward)]

    def run(self) -> float:
        """Do a step."""
        seconds = 0.0
        for (function, arguments), is_own in self._calls:
            if is_own:
                began = time.perf_counter()
                function(*arguments)
                seconds += time.perf_counter() - began
            else:
                function(*arguments)
        return seconds

    @property
    def names(self) -> list[str]:
        """The kernels that are timed."""
        return sorted({function.__name__ for (function, _), is_own in self._calls if is_own})


def peer(case: Case, channels_last: bool) -> Callable[[], float]:
    """Return a function that does PyTorch's forward and backward pass, and returns the seconds it took."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    channels = case.channels
    layout = torch.channels_last if channels_last else torch.contiguous_format
    modules: dict[str, list[nn.Module]] = {
        "batch norm": [nn.BatchNorm2d(channels)],
        "batch norm, ReLU": [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)],
        "depthwise 3x3": [nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)],
        "global average pooling": [nn.AdaptiveAvgPool2d(1), nn.Flatten()],
    }
    module: Any = nn.Sequential(*modules.get(case.words, ())).to(memory_format=layout)

    def made() -> torch.Tensor:
        values = torch.randn(case.batch, channels, *case.shape[:2]).contiguous(memory_format=layout)
        return values.requires_grad_()

    x, other = made(), made()

    def forward() -> torch.Tensor:
        if case.words in modules:
            return module(x)  # type: ignore[no-any-return]
        return torch.relu_(x + other) if "ReLU" in case.words else x + other

    error = torch.randn_like(forward().detach())

    def run() -> float:
        for value in (x, other, *module.parameters()):
            value.grad = None
        began = time.perf_counter()
        if case.words in modules:
            forward().backward(error)
        else:  # the error goes to both inputs as it is; in a network, that of the branch is added to one of them
            first, second = torch.autograd.grad(forward(), (x, other), error)
            torch.add(first, second)
        return time.perf_counter() - began

    return run


def compare(case: Case) -> list[str]:
    """Time a case; return the cells of its row."""
    ours = Ours(case)
    if not ours.names:
        raise LookupError(f"{case.words}: no kernel of {', '.join(case.kernels)} runs")
    sides: dict[str, Callable[[], float]] = {
        "ours": ours.run, "first": peer(case, channels_last=False), "last": peer(case, channels_last=True)
    }  # fmt: skip
    for run in sides.values():
        run(), run()
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(_ROUNDS):
        for name, run in sides.items():
            taken[name].append(min(run(), run()))
    fast = min(("first", "last"), key=lambda name: float(np.median(taken[name])))
    ratios = sorted(theirs / own for theirs, own in zip(taken[fast], taken["ours"], strict=True))
    low, middle, high = spread(ratios)
    height, width, _ = case.shape
    micro = [1e6 * float(np.median(taken[name])) / case.batch for name in ("ours", fast)]
    return [
        case.words, f"{height}x{width}x{case.channels}, {case.batch}", f"{micro[0]:.1f}",
        f"{micro[1]:.1f} (channels {fast})", f"{middle:.2f} ({low:.2f} to {high:.2f})",
        "met" if middle >= _GOAL else "**missed**",
    ]  # fmt: skip


def write(rows: Sequence[Sequence[str]]) -> None:
    """Write the page."""
    header = ["layer", "values, images", "ours, µs an image", "PyTorch, µs an image", "PyTorch / ours", f"goal {_GOAL}"]
    page.write_page(
        "layers.md",
        "# Layers of newer networks beside PyTorch's\n\n`python -m benchmarks.layers --write` writes this page. Each "
        "row is the forward and the backward pass of one layer on one core: ours where it stands in a network, between "
        "1x1 convolutions, PyTorch's module alone in the faster of its two memory formats. Medians, and quartiles of "
        f"the ratios.\n\n{page.machine_line()}\n\n{page.table(header, rows)}\n\n"
        "A batch norm alone reads or writes its values six times where they are in no cache near the core: statistics "
        "of the values are taken while the convolution before it has them there, and sums of the errors likewise. "
        "PyTorch does it eight times, so 1.33x is what can be expected. The ReLU behind it costs nothing more here.\n",
    )


def main() -> None:
    """Time all cases."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", help="cases whose words have this in them")
    parser.add_argument("--write", action="store_true")
    values = parser.parse_args()
    if importlib.util.find_spec("torch") is None:
        print("PyTorch is not installed, so nothing is compared; install it with: make peers")
        return
    rows = []
    for case in _cases():
        if values.only is None or values.only in case.words:
            cells = compare(case)
            print("  ".join(cells), flush=True)
            rows.append(cells)
    if values.write:
        write(rows)


if __name__ == "__main__":
    main()

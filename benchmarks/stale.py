"""What staleness does to momentum: gradients at weights of some updates ago, injected in one process.

python -m benchmarks.stale                                  everything
python -m benchmarks.stale --stale 7 --seeds 1 --shares 1   one staleness, one seed, the default rates

With a staleness of s, s + 1 workers take turns: each reads the weights, the s others update them, then it applies its
gradient. So each update is stale by exactly s, on whatever number of cores. The rules as they are in adam_mp stand
beside others that were tried. All of a rule's rates are those of its default, times a share.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from adam_mp.compute.context import TrainingContext
from adam_mp.compute.optimizer import UpdateNumbers, make_optimizer
from adam_mp.compute.shares import shares_of, stretches_of
from adam_mp.data.reading.loading import load_data
from adam_mp.data.reading.samples import Samples
from adam_mp.memory.layout import Layout
from adam_mp.memory.store import ParameterStore
from adam_mp.network.initialization import draw_weights
from adam_mp.training.settings.schedule import Rates, Schedule, default_rate, share_of_rate
from benchmarks import page
from benchmarks.step import zoo_network

_MODEL, _BATCH, _EVALUATED = "lenet", 16, 500
_LOST = 10.0  # times the loss of guessing, over the last hundred batches: the run has diverged


class Way(NamedTuple):
    """A rule, whether each worker has its own velocity, and whether `momentum` looks ahead past the others'."""

    rule: str
    own: bool = False
    ahead: bool = False


WAYS = {
    "sgd": Way("sgd"),
    "momentum, one velocity": Way("momentum"),
    "momentum, a velocity each": Way("momentum", own=True),
    "momentum, a velocity each, ahead (adam_mp)": Way("momentum", own=True, ahead=True),
    "nesterov, one velocity": Way("nesterov"),
    "nesterov, a velocity each (adam_mp)": Way("nesterov", own=True),
}


class Pictures(NamedTuple):
    """Normalised images, float32 [n, 28, 28, 1], and their labels, int32 [n]."""

    images: np.ndarray
    labels: np.ndarray


def read_digits() -> tuple[Pictures, Pictures]:
    """Return MNIST, to train and to test."""
    digits = load_data()
    assert isinstance(digits.train, Samples)
    assert isinstance(digits.test, Samples)
    mean, deviation = float(digits.train.images.mean()), float(digits.train.images.std())
    train, test = (
        Pictures(
            ((part.images.astype(np.float32) - mean) / deviation).reshape(len(part.images), 28, 28, 1),
            part.labels.astype(np.int32),
        )
        for part in (digits.train, digits.test)
    )
    return train, test


@dataclasses.dataclass(frozen=True)
class Case:
    """A way to update, the staleness, and the share of the rule's default learning rate."""

    way: str
    stale: int
    share: float = 1.0

    def run(self, train: Pictures, test: Pictures, epochs: int, seed: int) -> float | None:
        """Train once; return the test accuracy in percent, None if it diverges."""
        way, network, turns = WAYS[self.way], zoo_network(_MODEL), self.stale + 1
        optimizer = make_optimizer(way.rule, {"weight_decay": 1e-4, "momentum": 0.9})
        workers = turns if way.own else 1
        layout = Layout.of(network.parameters)
        store = ParameterStore.create(layout, optimizer.states, None, optimizer.own_states, workers)
        draw_weights(network, seed, store.tensors)
        read, images, labels = store.weights.copy(), np.empty_like(train.images[:_BATCH]), train.labels[:_BATCH].copy()
        context = TrainingContext(network, layout.views(read), _BATCH)
        program = context.program(images, labels)
        numbers = UpdateNumbers(optimizer, workers if way.ahead else 1)
        stretches = stretches_of(layout, shares_of(network.parameters, decay_all=False))
        updates = [
            optimizer.bind(store.weights, context.gradient, store.states_of(worker), numbers.array, stretches)
            for worker in range(workers)
        ]
        seen = [store.weights.copy() for _ in range(turns)]  # the weights as each worker has read them
        steps, generator, loss = len(train.labels) // _BATCH, np.random.default_rng(seed), 0.0
        rates = Rates(Schedule(f"{self.share} * {default_rate(way.rule, False)}", epochs, steps))
        for epoch in range(epochs):
            order = generator.permutation(len(train.labels))
            for batch in range(steps):
                step, chosen = epoch * steps + batch, order[batch * _BATCH : (batch + 1) * _BATCH]
                worker = step % turns
                read[:], images[:], labels[:] = seen[worker], train.images[chosen], train.labels[chosen]
                program.run_forward()
                now = float(program.totals[0]) / _BATCH
                loss += (now - loss) / 100
                if not loss < _LOST * math.log(network.classes):
                    return None
                program.run_backward()
                numbers.set_rate(rates.value(epoch, step) * share_of_rate(now, network.classes))
                updates[worker % workers]()
                seen[worker][:] = store.weights
        right = _count_right(TrainingContext(network, store.tensors, _EVALUATED, backward=False), test)
        store.close()
        return 100 * right / len(test.labels)


def _count_right(context: TrainingContext, test: Pictures) -> float:
    right = 0.0
    for start in range(0, len(test.labels), _EVALUATED):
        part = slice(start, start + _EVALUATED)
        program = context.program(test.images[part], test.labels[part], training=False)
        program.run_forward()
        right += float(program.totals[1])
    return right


def accuracy_text(accuracies: Sequence[float | None]) -> str:
    """Return mean and standard deviation of the runs that came to their end, and how many diverged."""
    ended = [each for each in accuracies if each is not None]
    if not ended:
        return "diverged"
    spread = f" ± {statistics.stdev(ended):.2f}" if len(ended) > 1 else ""
    diverged = f" ({len(accuracies) - len(ended)} diverged)" if len(ended) < len(accuracies) else ""
    return f"{statistics.mean(ended):.2f}{spread}{diverged}"


def write(found: dict[Case, list[float | None]], epochs: int, seeds: int) -> None:
    """Write the page: a table for each share of the rate."""
    stales = list(dict.fromkeys(case.stale for case in found))
    text = (
        "# Stale momentum\n\n`python -m benchmarks.stale` writes this page. MNIST, all 60,000 training images, "
        f"{_MODEL}, batches of {_BATCH}, no augmentation, {epochs} epochs, momentum 0.9, seeds 1 to {seeds}: test "
        "accuracy in percent after the last epoch, mean and standard deviation. Each update is stale by exactly as "
        "many updates as the column says, injected in one process. The rates are the rules' defaults, 0.07 for sgd "
        "and 0.007 for the others, times the share.\n\n" + page.machine_line() + "\n"
    )
    for share in dict.fromkeys(case.share for case in found):
        rows = [
            [
                way,
                *(accuracy_text(found[case]) if (case := Case(way, stale, share)) in found else "" for stale in stales),
            ]
            for way in WAYS
        ]
        header = ["rule", *(f"staleness {stale}" for stale in stales)]
        text += f"\n## Rates: {share:g} of the default\n\n{page.table(header, rows)}\n"
    page.write_page("stale.md", text)
    page.write_data("stale.json", [{**dataclasses.asdict(case), "accuracies": each} for case, each in found.items()])


def main() -> None:
    """Measure what the command line asks for, print it, and write the page with `--write`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stale", type=int, nargs="+", default=[0, 7, 64])
    parser.add_argument("--shares", type=float, nargs="+", default=[1.0, 0.25])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks/stale.md")
    values = parser.parse_args()
    train, test = read_digits()
    found: dict[Case, list[float | None]] = {}
    for seed in range(1, values.seeds + 1):
        for share in values.shares:
            for stale in values.stale:
                for name, way in WAYS.items():
                    if way.own and not stale:
                        continue  # one worker: as with one velocity
                    case = Case(name, stale, share)
                    found.setdefault(case, []).append(case.run(train, test, values.epochs, seed))
                    print(f"{name}, staleness {stale}, share {share:g}, seed {seed}: {found[case][-1]}", flush=True)
                    if values.write:
                        write(found, values.epochs, seed)


if __name__ == "__main__":
    main()

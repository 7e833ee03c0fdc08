"""curves.png: loss, accuracy and throughput over the epochs of a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from adam_mp.report.metrics import read_metrics
from adam_mp.training.events import RunEnded
from adam_mp.training.run_folder import CURVES_FILE


class CurvesFile:
    """Listens to a run and draws its curves when it ends, if it has finished an epoch."""

    def __call__(self, event: Any) -> None:
        """Draw, if the run has ended."""
        if isinstance(event, RunEnded):
            try:
                draw_curves(Path(event.summary.run_dir), event.summary.test_accuracy)
            except OSError as error:
                print(f"adam_mp: cannot write {CURVES_FILE}: {error.strerror}", file=sys.stderr)


def draw_curves(folder: Path, test_accuracy: float | None) -> None:
    """Draw the curves of a run folder into its curves.png."""
    rows = read_metrics(folder)
    if not rows:
        return
    from matplotlib.figure import Figure  # takes half a second to import, and only this needs it

    epochs = [row["epoch"] for row in rows]
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    loss, accuracy, speed = figure.subplots(1, 3)
    loss.plot(epochs, [row["loss"] for row in rows], "o-", label="training")
    validated = [row for row in rows if row["validation_loss"] is not None]  # one replica of many validates
    if validated:
        at = [row["epoch"] for row in validated]
        loss.plot(at, [row["validation_loss"] for row in validated], "o-", label="validation")
        accuracy.plot(at, [100 * row["validation_accuracy"] for row in validated], "o-", color="C1", label="validation")
    if test_accuracy is not None:
        accuracy.axhline(100 * test_accuracy, color="C2", linestyle="--", label=f"test {100 * test_accuracy:.2f}%")
    speed.plot(epochs, [row["images_per_second"] for row in rows], "o-", color="C3")
    loss.set_yscale("log")
    speed.set_ylim(bottom=0)
    for axes, label in ((loss, "loss (nats an image)"), (accuracy, "accuracy (%)"), (speed, "images per second")):
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    figure.savefig(folder / CURVES_FILE, dpi=110)

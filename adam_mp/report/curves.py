"""curves.png: loss, accuracy and images per second over the epochs of a run, and the staleness of its updates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adam_mp.errors import refusal
from adam_mp.memory.staleness import LABELS
from adam_mp.process.output import notice
from adam_mp.report.drawing import new_figure
from adam_mp.report.metrics import read_metrics
from adam_mp.training.folder.run_folder import CURVES_FILE
from adam_mp.training.settings.events import RunEnded


class CurvesFile:
    """Listens to a run, and draws its curves when it ends, if the run has finished an epoch."""

    def __call__(self, event: Any) -> None:
        """Draw the curves if `event` is the end of the run; what hinders it is reported."""
        if isinstance(event, RunEnded):
            try:
                draw_curves(Path(event.summary.run_dir), event.summary.test_accuracy)
            except OSError as error:
                notice(f"cannot write {CURVES_FILE}: {refusal(error)}")
            except Exception as error:  # a library that draws may be missing or fail, and the run is done
                notice(f"cannot draw {CURVES_FILE}: {refusal(error)}")


def draw_curves(folder: Path, test_accuracy: float | None) -> None:
    """Draw the curves of a run folder into its curves.png."""
    rows = read_metrics(folder)
    if not rows:
        return
    epochs = [row["epoch"] for row in rows]
    figure = new_figure(16, 3.6)
    loss, accuracy, speed, staleness = figure.subplots(1, 4)
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
    _draw_staleness(staleness, rows)
    figure.savefig(folder / CURVES_FILE, dpi=110)


def _draw_staleness(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Draw a bar for each column of the histogram of staleness, in percent of all updates of the run."""
    counts = [sum(row["staleness"].get(label, 0) for row in rows) for label in LABELS]
    shown = max((place for place, count in enumerate(counts) if count), default=0) + 1
    total = max(sum(counts), 1)
    axes.bar(LABELS[:shown], [100 * count / total for count in counts[:shown]], color="C4")
    axes.set_xlabel("staleness (updates by others)")
    axes.set_ylabel("share of the updates (%)")
    axes.tick_params(axis="x", labelrotation=60 if shown > 8 else 0)
    axes.grid(alpha=0.3, axis="y")

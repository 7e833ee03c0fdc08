"""A run on a terminal: a progress bar (tqdm) for each epoch. Without a terminal: plain lines, seconds apart."""

from __future__ import annotations

import shutil
import time
from typing import Any, TextIO

from tqdm import tqdm

from adam_mp.errors import spoken
from adam_mp.process.output import Output, notice
from adam_mp.report.text import count, data_text, duration, epoch_line, percent, plan_text, summary_text
from adam_mp.training.settings.events import (
    DataSurveyed,
    DataUnderstood,
    EpochEnded,
    EpochProgress,
    KernelCompiled,
    Notice,
    RunEnded,
    RunPlanned,
)

_PLAIN_SECONDS = 10.0  # between two progress lines without a terminal
_COMPILING_SECONDS = 2.0  # the same while kernels compile, which is the first that a new user sees
_BAR = "{desc} {percentage:3.0f}%|{bar:10}| {n_fmt}/{total_fmt}{postfix}"


class ProgressDisplay:
    """Listens to a run and shows it: plan and summary on `out`, notices on standard error.

    The progress and the line of each epoch go to `bars`: as a bar, or as plain lines if `bars` is no terminal.

    Both may be any object with `write`, or None. What they do not take is dropped.
    """

    def __init__(self, out: Output | TextIO | None, bars: Output | TextIO | None) -> None:
        self._out, self._bars = Output.of(out), Output.of(bars)
        self._on_terminal = self._bars.isatty()
        self._bar: Any = None
        self._epochs = 0
        self._said = time.monotonic()
        self._accuracy: float | None = None

    def __call__(self, event: Any) -> None:
        """Show one event."""
        match event:
            case KernelCompiled():
                self._counted(event, "compiling kernels, once", "kernel", _COMPILING_SECONDS)
            case DataSurveyed():
                self._counted(event, "looking at the images", "image", _PLAIN_SECONDS)
            case DataUnderstood():
                self._out.say(data_text(event))
                for note in event.notes:
                    self._notice(spoken(note))
            case RunPlanned():
                self._epochs = event.settings.epochs
                self._out.say(plan_text(event))
            case EpochProgress():
                self._progress(event)
            case EpochEnded():
                self._ended(event)
            case Notice():
                self._notice(event.text, event.below)
            case RunEnded():
                self._close_bar()
                self._out.say(summary_text(event.summary))

    def _counted(self, event: KernelCompiled | DataSurveyed, what: str, unit: str, seconds: float) -> None:
        """Show the progress of `what`, which happens before the run; plain lines come `seconds` apart."""
        if self._on_terminal:
            if self._bar is None:
                self._bar = tqdm(total=event.total, desc=what, unit=unit, file=self._bars)
            self._bar.update(event.done - self._bar.n)
            if event.done == event.total:
                self._close_bar()
        elif time.monotonic() - self._said > seconds:
            self._said = time.monotonic()
            self._bars.say(f"{what}: {event.done} of {event.total}")

    def _progress(self, event: EpochProgress) -> None:
        if self._on_terminal:
            if self._bar is None:
                self._bar = tqdm(
                    total=event.images, desc=f"epoch {event.epoch}/{event.epochs}", unit="images", file=self._bars,
                    bar_format=_BAR, ncols=shutil.get_terminal_size().columns, mininterval=0,
                )  # fmt: skip
            self._bar.set_postfix_str(self._figures(event), refresh=False)
            self._bar.update(event.done - self._bar.n)
        elif time.monotonic() - self._said > _PLAIN_SECONDS:
            self._said = time.monotonic()
            self._bars.say(
                f"epoch {event.epoch}/{event.epochs}  {event.done:,} of {event.images:,}, {self._figures(event)}"
            )

    def _figures(self, event: EpochProgress) -> str:
        accuracy = "" if self._accuracy is None else f", validation {percent(self._accuracy)}"
        left = "" if event.seconds_left is None else f", {duration(event.seconds_left)} left"
        return (
            f"{event.images_per_second:,.0f} images/s, {count(event.connections_per_second)} connections/s, "
            f"loss {event.loss:.3f}{accuracy}, waited {percent(event.wait_fraction)}{left}"
        )

    def _ended(self, event: EpochEnded) -> None:
        self._accuracy = event.validation_accuracy
        self._said = time.monotonic()
        if self._bar is not None:
            self._bar.leave = False  # the epoch's line replaces the bar; unlike a bar, a long line is not cut
            self._close_bar()
        self._bars.say(epoch_line(event, self._epochs))

    def _notice(self, text: str, below: str = "") -> None:
        if self._bar is not None:
            self._bar.clear()
        notice(text, below)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def notices_only(event: Any) -> None:
    """A quiet display: shows only notices, and notes about the data, which tell of problems, on standard error."""
    if isinstance(event, Notice):
        notice(event.text, event.below)
    elif isinstance(event, DataUnderstood):
        for note in event.notes:
            notice(spoken(note))

"""The survey of a run's training images: its processes are started, watched and ended here, before the run starts."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable

import numpy as np

from adam_mp.data.normalization import Normalization, measure_normalization
from adam_mp.data.reading.dataset import DataSet
from adam_mp.data.reading.samples import Samples
from adam_mp.data.reading.sources import SourceSpec
from adam_mp.data.survey import (
    MOST_IMAGES,
    Survey,
    SurveyMemory,
    SurveySpec,
    source_numbers,
    survey,
    survey_arrays,
    surveyed_samples,
    surveyed_table,
)
from adam_mp.errors import DataError, ProcessError, StalledError, refusal, several
from adam_mp.memory.cache import CacheHandle
from adam_mp.memory.segment import Segment
from adam_mp.process.child import Child, start_child
from adam_mp.process.early_deaths import EarlyDeaths
from adam_mp.training.settings.events import DataSurveyed

_IMAGES_A_PROCESS = 100  # a further process pays only from so many images on: starting takes as long as decoding them
_FEW = 64  # images to survey if the normalisation is known: enough to measure what decoding costs
_RESTARTS = 5  # of surveyors that died, but not of an image
_TICK, _REPORT = 0.01, 0.2  # seconds between two looks, and between two events


def survey_data(
    data: DataSet, training: np.ndarray, source: SourceSpec | None, keep: float, known: Normalization | None,
    processes: int, seed: int, stall_seconds: float, tell: Callable[[DataSurveyed], None],
    cache: CacheHandle | None = None,
) -> Survey:  # fmt: skip
    """Measure the normalisation, unless it is `known`, and what decoding costs; put decoded images into `cache`.

    Raises DataError if no image can be read, StalledError if none is read for `stall_seconds`, ProcessError.
    """
    if isinstance(data.train, Samples):
        return survey_arrays(data.train, training, known or measure_normalization(data.train, training))
    assert source is not None
    samples = surveyed_samples(training, _FEW if known else MOST_IMAGES, seed)
    processes = max(1, min(processes, math.ceil(len(samples) / _IMAGES_A_PROCESS)))
    image = data.image_shape
    segment = Segment.create("survey", SurveyMemory.bytes_needed(len(samples), processes, image))
    numbers, table = source_numbers(data, samples), surveyed_table(data, samples)
    specs = [
        SurveySpec(number, processes, segment.handle, image, keep, numbers, source, table, cache)
        for number in range(processes)
    ]
    memory = SurveyMemory(segment, len(samples), processes, image)
    try:
        _Surveyors(memory, specs, stall_seconds, tell).run()
        found, faults = memory.result(samples, data.train.labels[samples]), memory.faults
    finally:
        memory.close()
    if found is None:
        count = several(len(samples), "image")
        raise DataError(f"none of {count} of {data.name} can be read; {data.worst_of(samples, faults)}")
    return found if known is None else dataclasses.replace(found, normalization=known)


class _Surveyors:
    """The processes of a survey, the surveyors. When `run` returns or raises, all of them have ended."""

    def __init__(
        self, memory: SurveyMemory, specs: list[SurveySpec], stall_seconds: float, tell: Callable[[DataSurveyed], None]
    ) -> None:
        self.memory, self.specs, self.stall_seconds, self.tell = memory, specs, stall_seconds, tell
        self.children: dict[int, Child] = {}
        self.deaths = EarlyDeaths(_RESTARTS)  # counts all surveyors together

    def run(self) -> None:
        total = len(self.memory.status)
        moved = reported = time.monotonic()
        done = 0
        try:
            for spec in self.specs:
                self._start(spec)
            while self.children:
                self._step()
                now, before = time.monotonic(), done
                done = self.memory.done
                if done != before:
                    moved = now
                elif now - moved > self.stall_seconds:
                    raise StalledError(f"no image was read for {self.stall_seconds:.0f} s, {done} of {total} done")
                if now - reported > _REPORT:
                    reported = now
                    self.tell(DataSurveyed(done, total))
                time.sleep(_TICK)
            self.tell(DataSurveyed(total, total))
        finally:
            for child in self.children.values():
                child.kill()
                child.close()

    def _start(self, spec: SurveySpec) -> None:
        files = [segment.descriptor for segment in (spec.segment, spec.cache and spec.cache.segment) if segment]
        try:
            self.children[spec.process] = start_child(f"surveyor {spec.process}", survey, spec, files, None)
        except OSError as error:
            raise ProcessError(f"cannot start surveyor {spec.process}: {refusal(error)}") from None

    def _step(self) -> None:
        """Close the surveyors that are done, and replace those that died."""
        for number, child in list(self.children.items()):
            if child.exit_code is None:
                continue
            del self.children[number]
            how, failed, lived = child.describe_end(), child.exit_code != 0, time.monotonic() - child.started
            child.close()
            if not failed:
                continue
            if not self.memory.mark_crashed(number):  # it was not decoding: no image is to blame
                self.deaths.note(lived)
                if self.deaths.too_many:
                    raise ProcessError(f"the images cannot be surveyed: surveyor {number} {how}")
            self._start(self.specs[number])

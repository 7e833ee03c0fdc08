"""The survey of a run's training images: its processes are started, watched and ended here, before the run starts."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable

import numpy as np

from adam_mp.data.normalization import Normalization, measure_normalization
from adam_mp.data.reading.account import some
from adam_mp.data.reading.dataset import DataSet
from adam_mp.data.reading.faults import REMEDIES, Fault
from adam_mp.data.reading.samples import Samples
from adam_mp.data.reading.sources import SourceSpec
from adam_mp.data.serving.blame import CRASHES
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
from adam_mp.memory.cache import ImageCache, shrink_after_death
from adam_mp.memory.segment import Segment
from adam_mp.process.child import Child, start_child
from adam_mp.process.early_deaths import EarlyDeaths
from adam_mp.training.settings.events import DataSurveyed, Listener, Notice

_IMAGES_A_PROCESS = 100  # a further process pays only from so many images on: starting takes as long as decoding them
_FEW = 64  # images to survey if the normalisation is known: enough to measure what decoding costs
_RESTARTS = 5  # of surveyors that died, but not of an image
_TICK, _REPORT = 0.01, 0.2  # seconds between two looks, and between two events


def survey_data(
    data: DataSet, training: np.ndarray, source: SourceSpec | None, keep: float, known: Normalization | None,
    processes: int, seed: int, stall_seconds: float, tell: Listener,
    cache: ImageCache | None = None,
) -> Survey:  # fmt: skip
    """Measure the normalisation, unless it is `known`, and what decoding costs; put decoded images into `cache`.

    Raises DataError if no image can be read, StalledError if none is read for `stall_seconds`,
    ProcessError if surveyors cannot be started or keep dying.
    """
    if isinstance(data.train, Samples):
        return survey_arrays(data.train, training, known or measure_normalization(data.train, training))
    assert source is not None
    samples = surveyed_samples(training, _FEW if known else MOST_IMAGES, seed)
    processes = max(1, min(processes, math.ceil(len(samples) / _IMAGES_A_PROCESS)))
    image = data.image_shape
    segment = Segment.create("survey", SurveyMemory.bytes_needed(len(samples), processes, image))
    numbers, table = source_numbers(data, samples), surveyed_table(data, samples)
    handle = None if cache is None else cache.handle
    specs = [
        SurveySpec(number, processes, segment.handle, image, keep, numbers, source, table, handle)
        for number in range(processes)
    ]
    memory = SurveyMemory(segment, len(samples), processes, image)
    try:
        _Surveyors(memory, specs, stall_seconds, tell, cache).run()
        found, faults = memory.result(samples, data.train.labels[samples]), memory.faults
    finally:
        memory.close()
    if found is None:
        count = several(len(samples), "image")
        raise DataError(f"none of {count} of {data.name} can be read; {data.worst_of(samples, faults)}")
    _check_classes(data, training, samples, faults, tell)
    _tell_other_labels(data, samples, faults, tell)
    return found if known is None else dataclasses.replace(found, normalization=known)


def _check_classes(
    data: DataSet, training: np.ndarray, samples: np.ndarray, faults: np.ndarray, tell: Listener
) -> None:  # fmt: skip
    """Tell of classes of which no surveyed image can be read; raises DataError if not two classes are left.

    A run whose images are all of one class would be perfectly accurate.
    """
    labels = data.train.labels[samples]
    seen = np.bincount(labels, minlength=data.classes)
    lost = np.flatnonzero((seen > 0) & (np.bincount(labels[faults == Fault.GOOD], minlength=data.classes) == 0))
    if not lost.size:
        return
    bad = np.isin(labels, lost)
    names = some(data.class_names[number] if data.class_names else number for number in lost.tolist())
    said = (
        f"none of {several(int(bad.sum()), 'image')} of the class {names} can be read; "
        f"{data.worst_of(samples[bad], faults[bad])}"
    )
    everything = len(samples) == len(training)
    if np.count_nonzero(seen) - len(lost) < 2 and (everything or len(samples) >= MOST_IMAGES):
        raise DataError(f"{data.name} has images of one class alone that can be read: {said}")
    tell(Notice(said if everything else f"{said}; {several(len(samples), 'image')} were looked at"))


def _tell_other_labels(data: DataSet, samples: np.ndarray, faults: np.ndarray, tell: Listener) -> None:
    """Tell of items that have another label than their object lists: they are left out."""
    other = faults == Fault.OTHER_LABEL
    if other.any():
        tell(Notice(
            f"{several(int(other.sum()), 'item')} of {len(samples):,} that were looked at are left out: "
            f"{data.bad_sample(int(samples[other][0]), Fault.OTHER_LABEL, False).path} has another label than its "
            f"object lists; {REMEDIES[Fault.OTHER_LABEL]}"
        ))  # fmt: skip


class _Surveyors:
    """The processes of a survey, the surveyors. When `run` returns or raises, all of them have ended."""

    def __init__(
        self, memory: SurveyMemory, specs: list[SurveySpec], stall_seconds: float, tell: Callable[[DataSurveyed], None],
        cache: ImageCache | None,
    ) -> None:  # fmt: skip
        self.memory, self.specs, self.stall_seconds, self.tell = memory, specs, stall_seconds, tell
        self._cache = cache
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
            fault, lines = child.own_fault(), child.last_lines()
            made_room = shrink_after_death(self._cache, child.wanted_memory) if failed else ""
            left_out = self.memory.bury(number, child.exit_code in CRASHES)
            child.close()
            if not failed:
                continue
            if not made_room and not left_out:
                self.deaths.note(lived, words=fault)
                if self.deaths.too_many:
                    shown = f"; its last lines:{lines}" if self.deaths.hopeless else ""
                    raise ProcessError(f"the images cannot be surveyed: surveyor {number} {how}{shown}")
            self._start(self.specs[number])

"""A look at some of the training images before a run: their means, deviations and colours, sizes, and cost to decode.

Images are decoded by processes of their own, so that one that breaks the decoder breaks nothing else. They write what
they find into shared memory, a row an image; the sums do not depend on how many processes there were.
"""

from __future__ import annotations

import dataclasses
import time

import numpy as np

from adam_mp.data.normalization import Normalization, colour_row, combine_rows, row_length
from adam_mp.data.pictures import picture_from
from adam_mp.data.reading.dataset import DataSet
from adam_mp.data.reading.faults import Fault, SampleError
from adam_mp.data.reading.items import Items
from adam_mp.data.reading.records import Records, RecordTable
from adam_mp.data.reading.samples import Samples
from adam_mp.data.reading.sources import SourceSpec, open_source
from adam_mp.kernels.atomic import observe, publish
from adam_mp.memory.cache import CacheHandle, ImageCache
from adam_mp.memory.segment import Segment, SegmentHandle

MOST_IMAGES = 5000  # means of so many are off by a hundredth of a deviation
EXAMPLES = 32
_GOOD = int(Fault.GOOD) + 1  # statuses are one more than the fault, 0 where nobody looked yet
_READ_AHEAD = 16


@dataclasses.dataclass(frozen=True)
class Survey:
    """What was found: `examples` float32 [k, h, w, c] are pictures, not normalised, of `labels` int32 [k].

    `decode_seconds` is what one image takes one process, `stored_pixels` the mean of height * width as stored; both 0
    for arrays, which are neither decoded nor cached. Images of `kept`, numbers of samples, lie at `places` of the cache
    that the survey was given.
    """

    normalization: Normalization
    examples: np.ndarray
    labels: np.ndarray
    decode_seconds: float = 0.0
    stored_pixels: float = 0.0
    kept: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    places: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))


@dataclasses.dataclass(frozen=True)
class SurveySpec:
    """What a surveying process is told: which number of how many it is, where results go, and how to decode.

    `numbers` are the samples by the source's numbers, `table` the records of them alone, where they are records;
    `cache` takes decoded images, if there is one.
    """

    process: int
    processes: int
    segment: SegmentHandle
    image: tuple[int, int, int]
    keep: float
    numbers: np.ndarray
    source: SourceSpec
    table: RecordTable | None
    cache: CacheHandle | None


class SurveyMemory:
    """`status` int64 [n], `decoding` int64 [processes], `rows` float64 [n, ...], `examples` float32 [k, h, w, c].

    `places` int64 [n] tells where in the cache the images are that are kept, 0 for the others.
    """

    def __init__(self, segment: Segment, count: int, processes: int, image: tuple[int, int, int]) -> None:
        self.segment = segment
        length = row_length(image[2]) + 1  # and the nanoseconds it took
        self.status = segment.array(np.int64, (count,), 0)
        self.decoding = segment.array(np.int64, (processes,), 8 * count)
        self.places = segment.array(np.int64, (count,), 8 * (count + processes))
        self.rows = segment.array(np.float64, (count, length), 8 * (2 * count + processes))
        self.examples = segment.array(
            np.float32, (min(count, EXAMPLES), *image), 8 * (2 * count + processes + count * length)
        )

    @staticmethod
    def bytes_needed(count: int, processes: int, image: tuple[int, int, int]) -> int:
        """Return the bytes of a survey's memory."""
        words = 2 * count + processes + count * (row_length(image[2]) + 1)
        return 8 * words + 4 * min(count, EXAMPLES) * int(np.prod(image))

    @property
    def done(self) -> int:
        """Images looked at so far."""
        return int(np.count_nonzero(self.status))

    def mark_crashed(self, process: int) -> bool:
        """Blame the image that a dead process was decoding; False if it decoded none."""
        word = int(observe(self.decoding, process))
        if word:
            self.status[word - 1] = Fault.CRASHED + 1
            publish(self.decoding, process, 0)
        return word > 0

    def result(self, samples: np.ndarray, labels: np.ndarray) -> Survey | None:
        """Return what was found, of `samples` [n] with these `labels` [n]; None if no image was good."""
        good = self.status == _GOOD
        if not good.any():
            return None
        rows = self.rows[good]
        shown = good[: len(self.examples)]
        if not shown.any():
            shown = np.ones(len(self.examples), bool)  # blank ones serve to time with
        return Survey(
            combine_rows(rows[:, :-1], self.examples.shape[3]), self.examples[shown].copy(),
            labels[: len(self.examples)][shown], float(rows[:, -1].mean()) * 1e-9, float(rows[:, 0].mean()),
            samples[self.places > 0], self.places[self.places > 0],
        )  # fmt: skip

    def close(self) -> None:
        """Give up this process's mapping."""
        del self.status, self.decoding, self.places, self.rows, self.examples
        self.segment.close()


def survey(spec: SurveySpec) -> None:
    """Look at this process's share of the images that nobody looked at yet."""
    memory = SurveyMemory(Segment.attach(spec.segment), len(spec.numbers), spec.processes, spec.image)
    source = open_source(spec.source, spec.table)
    cache = None if spec.cache is None else ImageCache.attach(spec.cache, memory.places)
    mine = [place for place in range(spec.process, len(spec.numbers), spec.processes) if not memory.status[place]]
    for done, place in enumerate(mine):
        source.prepare(spec.numbers[mine[done : done + _READ_AHEAD]].tolist())
        publish(memory.decoding, spec.process, place + 1)
        began = time.perf_counter_ns()
        try:
            image = source.pixels(int(spec.numbers[place]))
        except SampleError as error:
            status = error.fault + 1
        else:
            took = time.perf_counter_ns() - began
            memory.rows[place] = [*colour_row(image), took]
            if place < len(memory.examples):
                memory.examples[place] = picture_from(image, spec.image, spec.keep)
            if cache is not None:
                cache.add(place, image)
            status = _GOOD
        publish(memory.decoding, spec.process, 0)
        publish(memory.status, place, status)


def survey_arrays(samples: Samples, training: np.ndarray, normalization: Normalization) -> Survey:
    """The survey of images that stand in memory: examples of them, and what was measured on all."""
    few = training[:EXAMPLES]
    return Survey(normalization, samples.images[few].astype(np.float32), samples.labels[few])


def surveyed_samples(training: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Return at most `most` of the `training` samples, drawn from the seed."""
    order = np.random.Generator(np.random.PCG64([seed, 0x5E4E])).permutation(training)
    return order[:most]


def surveyed_table(data: DataSet, samples: np.ndarray) -> RecordTable | None:
    """Return the records of these training samples, None where samples are no records."""
    return data.train.table.selected(samples) if isinstance(data.train, Records) else None


def source_numbers(data: DataSet, samples: np.ndarray) -> np.ndarray:
    """Return by which numbers the source of a survey knows these training samples."""
    return samples if isinstance(data.train, Items) else np.arange(len(samples))

"""The survey: some training images, measured before a run: means, deviations and colours, sizes, cost to decode.

Surveying processes decode the images, so that an image that crashes the decoder kills one of them and not the
supervisor. They write what they measure into shared memory, a row for each image, so that the result does not depend on
the number of processes.
"""

from __future__ import annotations

import dataclasses
import math
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

MOST_IMAGES = 5000  # a mean over so many images is off by about a hundredth of the deviation
_EXAMPLES, _MOST_EXAMPLES, _EXAMPLE_BYTES = 32, 256, 4 << 20  # images whose pictures are kept: more of small ones
_GOOD = int(Fault.GOOD) + 1  # a status is the fault plus one; 0 says that the image was not looked at yet
_READ_AHEAD = 16  # images


def examples_of(image: tuple[int, ...]) -> int:
    """Return of how many images of a shape the survey keeps the pictures."""
    return max(_EXAMPLES, min(_MOST_EXAMPLES, _EXAMPLE_BYTES // (4 * math.prod(image))))


@dataclasses.dataclass(frozen=True)
class Survey:
    """What a survey found.

    `examples` float32 [k, h, w, c] are pictures that are not normalised, `labels` int32 [k] their labels.
    `decode_seconds` is the mean time to decode an image, `stored_pixels` the mean of height * width of the decoded
    images; both are 0 for arrays, which are neither decoded nor cached. `kept` are the sample numbers of images that
    the survey put into the cache, `places` where they are in it.
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
    """What a surveying process is told.

    It is number `process` of `processes`, and writes what it measures into `segment`. `image` is the shape (height,
    width, channels) of pictures, `keep` see `PictureSpec`. `numbers` are the samples to survey, as `source` numbers
    them; `table` has their records, and is None for items. `cache` gets the decoded images, if there is one.
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
    """The shared memory of a survey of n images.

    `status` int64 [n] is 0 until an image was looked at, then its fault plus one. `decoding` int64 [processes] is one
    more than the index of the image that each process decodes now, or 0. `rows` float64 [n, ...] are the images'
    `colour_row`s, each with the nanoseconds that decoding took. `examples` float32 [k, h, w, c] are pictures of the
    first k images. `places` int64 [n] says where in the cache each image is, 0 if it is not.
    """

    def __init__(self, segment: Segment, count: int, processes: int, image: tuple[int, int, int]) -> None:
        self.segment = segment
        length = row_length(image[2]) + 1  # and the nanoseconds that decoding took
        self.status = segment.array(np.int64, (count,), 0)
        self.decoding = segment.array(np.int64, (processes,), 8 * count)
        self.places = segment.array(np.int64, (count,), 8 * (count + processes))
        self.rows = segment.array(np.float64, (count, length), 8 * (2 * count + processes))
        self.examples = segment.array(
            np.float32, (min(count, examples_of(image)), *image), 8 * (2 * count + processes + count * length)
        )

    @staticmethod
    def bytes_needed(count: int, processes: int, image: tuple[int, int, int]) -> int:
        """Return the bytes of a survey's memory."""
        words = 2 * count + processes + count * (row_length(image[2]) + 1)
        return 8 * words + 4 * min(count, examples_of(image)) * int(np.prod(image))

    @property
    def done(self) -> int:
        """How many images were looked at so far."""
        return int(np.count_nonzero(self.status))

    @property
    def faults(self) -> np.ndarray:
        """A copy of the images' faults, int64 [n]; every image must have been looked at."""
        return self.status - 1

    def bury(self, process: int, to_blame: bool) -> bool:
        """Note that `process` has died; tell whether the image that it was decoding is left out, as CRASHED.

        That image is left out if it is `to_blame`; otherwise the successor decodes it again.
        """
        word = int(observe(self.decoding, process))
        publish(self.decoding, process, 0)
        if word and to_blame:
            self.status[word - 1] = Fault.CRASHED + 1
        return word > 0 and to_blame

    def result(self, samples: np.ndarray, labels: np.ndarray) -> Survey | None:
        """Return the survey of `samples` [n], which have these `labels` [n]; None if no image was good."""
        good = self.status == _GOOD
        if not good.any():
            return None
        rows = self.rows[good]
        shown = good[: len(self.examples)]
        if not shown.any():
            shown = np.ones(len(self.examples), bool)  # all are blank then, which is enough to time a training step
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
    """Look at this process's share of the images that no process has looked at yet; what a surveying process runs."""
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
    """Return the survey of images that are arrays.

    `training` are the sample numbers to train on; the examples are spread evenly among them. `normalization` was
    measured on all of them, or comes from the checkpoint of a resumed run.
    """
    count = min(len(training), examples_of(samples.images.shape[1:]))
    few = training[np.arange(count) * len(training) // count]
    return Survey(normalization, samples.images[few].astype(np.float32), samples.labels[few])


def surveyed_samples(training: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Return at most `most` of the sample numbers `training`, drawn from the seed."""
    order = np.random.Generator(np.random.PCG64([seed, 0x5E4E])).permutation(training)
    return order[:most]


def surveyed_table(data: DataSet, samples: np.ndarray) -> RecordTable | None:
    """Return the records of these training samples; None if the samples are not records."""
    return data.train.table.selected(samples) if isinstance(data.train, Records) else None


def source_numbers(data: DataSet, samples: np.ndarray) -> np.ndarray:
    """Return the numbers that the source of a survey uses for these training samples.

    A source of records has only the surveyed records (`surveyed_table`); a source of items has all items.
    """
    return samples if isinstance(data.train, Items) else np.arange(len(samples))

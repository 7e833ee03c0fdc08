"""The data part of a plan: the samples of each part, and how they are decoded, normalised, augmented and cached."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adam_mp.compute.scale import ValueScale, almost_black
from adam_mp.data.augmentation import Augmentation, mirrored_names, parse_augmentation
from adam_mp.data.normalization import Normalization, even_background
from adam_mp.data.pictures import PictureSpec, picture_from
from adam_mp.data.reading.account import some
from adam_mp.data.reading.dataset import DataSet, split, split_by_class
from adam_mp.data.reading.faults import SampleError
from adam_mp.data.reading.items import Items
from adam_mp.data.reading.loading import load_data
from adam_mp.data.reading.options import LoadOptions
from adam_mp.data.reading.picture_form import parse_image_size
from adam_mp.data.reading.records import Records, RecordTable
from adam_mp.data.reading.samples import Samples
from adam_mp.data.reading.sources import Source, SourceSpec, open_source, pickle_items
from adam_mp.data.survey import Survey
from adam_mp.errors import DataError, SettingsError, several
from adam_mp.memory.cache import LEFT_FREE, CacheHandle, ImageCache, expected_bytes
from adam_mp.memory.run_memory import Field
from adam_mp.memory.segment import free_space
from adam_mp.training.data.kept_images import KeptImages
from adam_mp.training.data.surveying import survey_data
from adam_mp.training.settings.cache_size import parse_cache
from adam_mp.training.settings.events import Listener, Notice
from adam_mp.training.settings.settings import FIELDS, TrainSettings

BY_CLASS, DRAWN = "by class", "drawn"  # ways to divide the training images, see `divide`
_READING = {
    "follow_links": "follow_links",
    "pixel_limit": "pixel_limit",
    "turned": "ignore_orientation",
    "white": "white",
}  # field of LoadOptions -> setting
_FEW = 16  # images of another part that are looked at
_SAME = 3  # images of a class that are not the same by chance
_LOOKED_AT = 1000  # images
_KEPT = 7 / 8  # share of an image's side that evaluation looks at if training crops: the edges are seen in crops alone


@dataclasses.dataclass(frozen=True)
class Division:
    """The numbers of the samples to train on and to validate on, and the way in which they were divided."""

    training: np.ndarray
    validation: np.ndarray
    way: str = BY_CLASS


@dataclasses.dataclass(frozen=True)
class DataPlan:
    """The numbers (int64) of the samples to train, validate and test on, and how samples become pictures.

    `keep` is the share of an image's side, in the middle, that evaluation looks at. `source` says how images are
    decoded, None if they are arrays; `table` has the records of all parts, None if samples are no records.
    `cache_bytes` is what decoded images may take; `kept_images` owns the survey's cache until a run takes it over.
    `division` is the way in which the training images were divided.
    """

    dataset: DataSet
    training: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    augmentation: Augmentation
    keep: float
    source: SourceSpec | None
    table: RecordTable | None
    survey: Survey
    cache_bytes: int
    kept_images: KeptImages | None = None
    division: str = BY_CLASS

    @property
    def normalization(self) -> Normalization:
        """The mean, deviation and colours by which stored values are normalised."""
        return self.survey.normalization

    @property
    def examples(self) -> np.ndarray:
        """The normalised pictures, float32 [k, h, w, c], of a few training images."""
        mean, deviation, _ = self.normalization.arrays()
        return np.ascontiguousarray((self.survey.examples - mean) / deviation)

    @property
    def even_background(self) -> bool:
        """Whether the training images have one kind of background; if not, light and dark may be what tells classes."""
        train = self.dataset.train
        step = max(1, len(self.training) // _LOOKED_AT)
        images = train.images[self.training[::step]] if isinstance(train, Samples) else self.survey.examples
        return self.dataset.image_shape[2] != 1 or even_background(images, self.normalization.fill)

    @property
    def fields(self) -> dict[str, Field]:
        """Name -> (type, shape) of the arrays that the data set has in the run's memory."""
        dataset = self.dataset
        count = dataset.count
        fields: dict[str, Field] = {
            "labels": ("<i4", (count,)), "validation": ("<i8", self.validation.shape), "test": ("<i8", self.test.shape),
        }  # fmt: skip
        if self.source is None:
            return {**fields, "images": (dataset.stored_type, (count, *dataset.image_shape))}
        fields.update({"bad": ("|u1", (count,)), "cache_places": ("<i8", (count,))})
        if self.table is not None:
            fields.update({name: (array.dtype.str, array.shape) for name, array in self.table.arrays().items()})
        return fields

    def fill(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Write the data set into its arrays in the run's memory."""
        dataset = self.dataset
        arrays["labels"][...] = dataset.labels
        arrays["validation"][...], arrays["test"][...] = self.validation, self.test
        if self.source is None:
            first = 0
            for part in dataset.parts:
                assert isinstance(part, Samples)
                arrays["images"][first : first + len(part)] = part.images
                first += len(part)
        elif self.table is not None:
            for name, array in self.table.arrays().items():
                arrays[name][...] = array

    def open_cache(self, places: np.ndarray, folder: Path | None, spare: int) -> ImageCache:
        """Return the cache of decoded images, owned by the caller: the survey's, or an empty one if there is none.

        `places` is the cache's index in the run's memory. The cache leaves `spare` bytes of memory free.
        """
        assert self.source is not None
        cache = self.kept_images.take() if self.kept_images is not None else None
        if cache is None:
            image_bytes = self.survey.stored_pixels * self.source.channels
            return ImageCache.create(self.cache_bytes, image_bytes, places, folder, spare)
        places[self.survey.kept] = self.survey.places
        cache.adopt(places, spare)
        return cache

    def pictures(self, cache: CacheHandle | None) -> PictureSpec:
        """Return what the run's processes need to make pictures."""
        return PictureSpec(self.normalization, self.augmentation, self.keep, self.source, cache)


def reading_options(settings: TrainSettings, white_measured: bool) -> LoadOptions:
    """Return how a run with these settings reads images in files; `white_measured` says that nobody chose its white."""
    return LoadOptions(
        image_size=None if settings.image_size is None else str(settings.image_size),
        follow_links=settings.follow_links, pixel_limit=settings.pixel_limit,
        turned=not settings.ignore_orientation, white=None if settings.white is None else float(settings.white),
        clipped=not white_measured,
    )  # fmt: skip


def load_dataset(settings: TrainSettings, white_measured: bool = False) -> DataSet:
    """Load the data set that the settings name; raises SettingsError, or DataError (with `strict` for any bad file).

    `white_measured` says that the `white` of a resumed run was measured when it began.
    """
    options = reading_options(settings, white_measured)
    size, dataset = options.image_size, load_data(settings.data, options)
    if isinstance(settings.data, DataSet):
        _check_read_so(dataset, options)
    if size is not None and dataset.image_shape[:2] != parse_image_size(size):
        height, width, _ = dataset.image_shape
        raise SettingsError(
            f"--image-size is {size}, but {dataset.name} has arrays of {height}x{width}; it is for images in files"
        )
    if settings.strict and dataset.rejected:
        bad = dataset.rejected[0]
        raise DataError(
            f"{bad.path}: {bad.reason} (the first of {len(dataset.rejected)}; without --strict it is left out)"
        )
    return dataset


def _check_read_so(dataset: DataSet, options: LoadOptions) -> None:
    """Raise SettingsError if a data set that the caller has loaded was read in another way than settings ask for."""
    if not isinstance(dataset.train, Records):
        return
    usual, read = LoadOptions(), dataset.options
    for name, setting in _READING.items():
        value = getattr(options, name)
        if value not in (getattr(usual, name), getattr(read, name)):
            said = not value if name == "turned" else value
            raise SettingsError(
                f"{setting} is {said}, but {dataset.name} was loaded before, with {name} {getattr(read, name)}; write "
                f"adam_mp.load_data(source, adam_mp.LoadOptions({name}={value}))"
            )


def tell_notes(dataset: DataSet, listener: Listener) -> None:
    """Tell `listener` what is odd about a data set, for commands that do not show all that was understood of it."""
    for line in (*dataset.account.notes, *dataset.notices):
        listener(Notice(line))


def settle_validation(
    settings: TrainSettings, explicit: Mapping[str, Any], dataset: DataSet, say: Callable[[str], None]
) -> TrainSettings:
    """Return the settings; with `validation` 0, after a line to `say`, where the default would hold out no image.

    A share that the user gave (`explicit`) stays, and `divide` refuses it if it is too small.
    """
    share = settings.validation
    nobody_chose = "validation" not in explicit and share == FIELDS["validation"].default
    if dataset.validation is not None or not nobody_chose or round(len(dataset.train) * share) > 0:
        return settings
    say(
        f"only {several(len(dataset.train), 'image')} to train on: none is held out to validate on; "
        "--validation gives a share"
    )
    return dataclasses.replace(settings, validation=0.0)


def divide(dataset: DataSet, settings: TrainSettings, way: str = BY_CLASS) -> Division:
    """Divide the samples into those to train on and those to validate on; raises SettingsError.

    Data with a validation part are divided already. Runs of earlier versions drew from all images alike (DRAWN); when
    they are resumed, their images are divided so again.
    """
    if dataset.validation is not None:
        return Division(dataset.numbers(dataset.train), dataset.numbers(dataset.validation), way)
    if way == DRAWN:
        return Division(*split(len(dataset.train), settings.validation, settings.seed), way)
    return Division(*split_by_class(dataset.train.labels, settings.validation, settings.seed), way)


def plan_data(
    dataset: DataSet, settings: TrainSettings, known: Normalization | None, cores: int, listener: Listener,
    kept: KeptImages | None = None, spare: int = LEFT_FREE, division: Division | None = None,
) -> DataPlan:  # fmt: skip
    """Decide everything about the data; `known` is the normalisation of a run that is resumed, None for a new run.

    The survey puts the images that it decodes into `kept`, if it is given, and leaves `spare` bytes of memory free.
    `division` is what `divide` returned, if it was called before.
    """
    division = division or divide(dataset, settings)
    training, validation = division.training, division.validation
    augmentation = parse_augmentation(settings.augment, dataset.image_shape)
    if augmentation["reflect"] > 0 and (sides := mirrored_names(dataset.class_names)) is not None:
        listener(Notice(
            f"mirror images of the class {sides[0]} are trained as {sides[0]}, and may look like {sides[1]}: to mirror "
            f"none, give --augment {augmentation.without('reflect')}"
        ))  # fmt: skip
    keep = _KEPT if augmentation["crop"] > 0 else 1.0
    source, cache_bytes, cache = make_source(dataset, keep), 0, None
    if source is not None:
        folder = None if settings.memory_dir is None else Path(settings.memory_dir)
        allowed = 0 if dataset.draws else parse_cache(settings.cache, free_space(folder))
        if kept is not None:
            assert source.least is not None
            pixels = 2 * math.prod(source.least)  # few images have more once decoded
            room = max(0, (free_space(folder) - spare) // 2)  # half: the run takes its memory while this cache is there
            size = min(allowed, room, expected_bytes(dataset.count, pixels, source.channels))
            cache = kept.make(size, pixels * source.channels, folder, spare)
    survey = survey_data(
        dataset, training, source, keep, known, cores, settings.seed, settings.stall_seconds, listener,
        cache,
    )  # fmt: skip
    if len(shown := survey.examples) > 1 and (shown == shown[0]).all():
        listener(Notice(f"{several(len(shown), 'image')} of {dataset.name} that were looked at are all the same"))
    elif dataset.image_shape[:2] != (1, 1) and (blank := _blank_classes(shown, survey.labels)):
        names = some(dataset.class_names[label] if dataset.class_names else label for label in blank)
        listener(Notice(f"all images of the class {names} of {dataset.name} that were looked at are the same"))
    table = join_records(dataset)
    if source is not None and len(shown) and known is None:
        _check_parts(dataset, open_source(source, table), keep, float(shown.max()))
    if source is not None:
        cache_bytes = min(allowed, expected_bytes(dataset.count, survey.stored_pixels, source.channels))
        if cache is not None:
            cache.resize(cache_bytes)
    return DataPlan(
        dataset, training, validation, dataset.numbers(dataset.test), augmentation, keep, source, table,
        survey, cache_bytes, kept, division.way,
    )  # fmt: skip


def _check_parts(dataset: DataSet, source: Source, keep: float, largest: float) -> None:
    """Raise DataError if files of another part have values of 0 and 1 alone, and those to train on go to `largest`."""
    for part, what in ((dataset.validation, "to validate on"), (dataset.test, "to test on")):
        if not isinstance(part, Records):
            continue
        numbers = dataset.numbers(part)
        pictures = readable_pictures(source, numbers[:: max(1, len(numbers) // _FEW)].tolist(), dataset, keep)
        if (
            len(pictures) > 1
            and (why := almost_black(np.stack(pictures), ValueScale("uint8", 0.0, largest))) is not None
        ):
            raise DataError(f"images {what} of {dataset.name}: of those looked at, {why}")


def readable_pictures(source: Source, samples: Iterable[int], dataset: DataSet, keep: float) -> list[np.ndarray]:
    """Return the pictures [h, w, c] of those samples that can be read. Others are counted when they are used."""
    found = []
    for sample in samples:
        with contextlib.suppress(SampleError):
            found.append(picture_from(source.pixels(sample), dataset.image_shape, keep))
    return found


def _blank_classes(shown: np.ndarray, labels: np.ndarray) -> list[int]:
    """Return the classes of which several images [k, h, w, c] are the same, as blank ones are."""
    found = [(label, shown[labels == label]) for label in np.unique(labels).tolist()]
    return [label for label, images in found if len(images) >= _SAME and (images == images[0]).all()]


def make_source(dataset: DataSet, keep: float) -> SourceSpec | None:
    """Return how images are decoded: so large that `keep` of a side has the network's size. None for arrays."""
    if isinstance(dataset.train, Samples):
        return None
    height, width, channels = dataset.image_shape
    height, width = math.ceil(height / keep), math.ceil(width / keep)
    items = [part for part in dataset.parts if isinstance(part, Items)]
    return SourceSpec(channels, (height, width), dataset.options, pickle_items(items) if items else b"")


def join_records(dataset: DataSet) -> RecordTable | None:
    """Return the records of all parts, None if samples are no records."""
    tables = [part.table for part in dataset.parts if isinstance(part, Records)]
    return RecordTable.joined(tables) if tables else None

"""Evaluation of a trained model on all cores, outside of a training run."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from adam_mp.compute.context import TrainingContext
from adam_mp.compute.model import Model
from adam_mp.compute.optimizer import make_optimizer
from adam_mp.compute.scale import perhaps_other_scale
from adam_mp.compute.views import ONE, parse_views
from adam_mp.data.augmentation import Augmentation
from adam_mp.data.normalization import Normalization, is_blank, mostly_inverted
from adam_mp.data.reading.account import left_out, some
from adam_mp.data.reading.dataset import DataSet, match_classes
from adam_mp.data.reading.loading import load_data
from adam_mp.data.reading.options import LoadOptions
from adam_mp.data.reading.samples import Samples
from adam_mp.data.reading.sources import open_source
from adam_mp.data.survey import Survey
from adam_mp.errors import DataError, several
from adam_mp.machine import usable_cores
from adam_mp.process.forking import fork_server
from adam_mp.process.interruption import Interruption
from adam_mp.training.crew.session import Session
from adam_mp.training.data.data_plan import DRAWN, DataPlan, divide, join_records, make_source, readable_pictures
from adam_mp.training.plan.run_plan import RunPlan
from adam_mp.training.plan.same_data import data_difference, same_training_images
from adam_mp.training.plan.split import Costs, Split
from adam_mp.training.preloading import OF_A_RUN
from adam_mp.training.settings.events import Listener, notices_to
from adam_mp.training.settings.schedule import Schedule
from adam_mp.training.settings.settings import TrainSettings

_BATCH = 64
_PICTURES = (1, 3)  # channels of pictures
_REASONS = 8  # for which files were left out, that a line names
_SCALED, _SHOWN = 1000, 8  # images whose scale is compared with that of the model's: in memory, and in files


@dataclasses.dataclass(frozen=True)
class EvaluationResult:
    """Accuracy and mean loss of a model on the test images; `images` counts those that could not be read too.

    `seconds` are those of the whole evaluation, reading the data included. `classes` has the number of images of each
    of the model's classes, by its name, or its number if it has none.
    """

    accuracy: float
    loss: float
    images: int
    seconds: float
    workers: int
    classes: dict[str, int] = dataclasses.field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain values."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class TrainedOn:
    """What is known of the data that a model was trained on, and how its run divided them.

    `identity` is that of the run's newest checkpoint, empty if there is none. `same_place` tells whether they were read
    from where the data to evaluate on lie. `validation` and `seed` see `divide`.
    """

    identity: Mapping[str, Any]
    same_place: bool
    validation: float = 0.0
    seed: int = 0


def evaluate_model(
    model: Model, source: Any, cores: int | None, listener: Listener, options: LoadOptions | None = None,
    trained_on: TrainedOn | None = None, own: bool = False, views: str = ONE,
) -> EvaluationResult:  # fmt: skip
    """Evaluate `model` on the test part of `source` (see `load_data`) with one worker a core.

    Images are read as `options` say, by default as in the model's training. Classes are matched by their names, where
    both sides have any. Data whose parts have no names are all test. If the model was `trained_on` them, `listener`
    gets a notice; if they are its `own` data, which nobody gave, those of them are tested that the run held out to
    validate on. `views` are those of each image, as the setting says. Raises DataError if the data have nothing to
    test, or do not fit the model, and SettingsError for views that its pictures do not have.
    """
    began = time.monotonic()
    model.check_weights()
    settings = TrainSettings(cores=cores, batch_size=_BATCH, views=views)
    parse_views(views, model.network.input_shape)  # only for its SettingsError, before data are read
    height, width, channels = model.network.input_shape
    options = dataclasses.replace(
        options or LoadOptions.kept(model.reading), image_size=f"{height}x{width}", channels=channels, only_test=True
    )
    data = load_data(source, options)
    tell = notices_to(listener)
    if not isinstance(data.train, Samples) and (channels not in _PICTURES or height == width == 1):
        raise DataError(
            f"{data.name} has pictures, but the model takes {height}x{width}x{channels}, which is none; give arrays, "
            "such as an .npz file"
        )
    tested = _tested(data, trained_on, own, tell)
    if data.image_shape != model.network.input_shape:
        raise DataError(
            f"{data.name} has images of {data.image_shape}, but the model takes {model.network.input_shape}"
        )
    _check_scale(model, data, tell)
    data = match_classes(data, model.class_names, model.network.classes)
    model.check_count(data.train.labels[tested])
    names = data.class_names or tuple(map(str, range(model.network.classes)))
    counts = np.bincount(data.train.labels[tested], minlength=len(names)).tolist()
    for note in (*data.account.notes, *data.notices):
        tell(note)
    if reasons := left_out(data.rejected):
        count = several(sum(each.count for each in reasons), "file")
        tell(f"left out of {data.name}: {count}, {', '.join(map(str, reasons[:_REASONS]))}")
    if strange := [number for number in model.untrained if counts[number]]:
        images = several(sum(counts[number] for number in strange), "image")
        tell(f"{images} of {data.name} are of classes without an image to train on: {some(names[n] for n in strange)}")
    if lacking := [name for name, count in zip(names, counts, strict=True) if not count]:
        tell(f"{data.name} has no image of {some(lacking)}, of {len(names)} classes that the model knows")
    workers = min(settings.cores or usable_cores(), max(1, len(tested) // _BATCH))
    with (
        fork_server(OF_A_RUN),
        Interruption() as interruption,
        Session(_plan(model, data, tested, settings, workers), interruption, notices_to(listener)) as session,
    ):
        session.start()
        loss, accuracy = session.evaluate("test")
        flags = session.memory.arrays.get("bad")
        faults = np.zeros(0, np.uint8) if flags is None else flags[tested].copy()
    if (bad := np.flatnonzero(faults)).size:
        worst = data.worst_of(tested[bad], faults[bad])
        tell(f"{bad.size:,} of {several(len(tested), 'image')} could not be used, and count neither way; {worst}")
    counted = dict(zip(names, counts, strict=True))
    return EvaluationResult(accuracy, loss, len(tested), time.monotonic() - began, workers, counted)


def _tested(data: DataSet, trained_on: TrainedOn | None, own: bool, tell: Callable[[str], None]) -> np.ndarray:
    """Return the numbers of the samples to test, of the only part of `data`; see `evaluate_model`."""
    everything = data.numbers(data.train)
    if data.account.parts_named or trained_on is None:
        return everything
    if not own:
        if trained_on.same_place or same_training_images(trained_on.identity, data):
            tell(f"the model was trained on images of {data.name}: on others it is likely to be less accurate")
        return everything
    advice = "give --data with images to test on"
    why = data_difference(trained_on.identity, data)
    if why is not None:
        raise DataError(f"{data.name} are not the data any more that the run was trained on: {why}; {advice}")
    settings = TrainSettings(validation=trained_on.validation, seed=trained_on.seed)
    division = divide(data, settings, trained_on.identity.get("division", DRAWN))
    if not len(division.validation):
        raise DataError(f"{data.name} has no part of test images, and the model was trained on the others; {advice}")
    tell(
        f"{data.name} has no part of test images: the model is tested on the "
        f"{several(len(division.validation), 'image')} that its run held out to validate on"
    )
    return division.validation


def _check_scale(model: Model, data: DataSet, tell: Callable[[str], None]) -> None:
    """Raise DataError if the values of the first images that can be read have not the scale of the model's.

    If arrays perhaps have not, or if light and dark are exchanged, `tell` gets a line.
    """
    if isinstance(data.train, Samples):
        images = data.train.images[:_SCALED]
        model.check_scale(images)
        if (
            model.values is not None
            and images.shape[1:3] != (1, 1)
            and (why := perhaps_other_scale(images, model.values))
        ):
            tell(f"images of {data.name}: {why}")
        if images.dtype == np.uint8:
            _tell_inverted(model, data, images, tell)
        return
    model.check_files()
    source = make_source(data, model.keep)
    assert source is not None
    opened = open_source(source, join_records(data))
    shown = readable_pictures(opened, range(min(_SHOWN, len(data.train))), data, model.keep)
    if shown:
        model.check_scale(np.stack(shown))
        _tell_inverted(model, data, np.stack(shown), tell)


def _tell_inverted(model: Model, data: DataSet, images: np.ndarray, tell: Callable[[str], None]) -> None:
    """Tell if most images [n, h, w, 1], from 0 to 255, are light where those to train on were dark, or the reverse."""
    if images.shape[1:3] != (1, 1) and is_blank(images):
        white = not isinstance(data.train, Samples) and images.min() == 255
        tell(
            f"images of {data.name} that were looked at have one colour alone"
            f"{'; transparent parts are laid on white' if white else ''}"
        )
        return
    grey = images.shape[3] == 1 and images.shape[1:3] != (1, 1)
    if grey and model.reading.get("even_background", True) and mostly_inverted(images, model.fill):
        tell(
            f"images of {data.name} have a light background where that of the images to train on is dark, or the "
            "reverse: they are tested as they are, while `predict` exchanges light and dark of each (--invert auto)"
        )


def _plan(model: Model, data: DataSet, tested: np.ndarray, settings: TrainSettings, workers: int) -> RunPlan:
    """Plan a run that trains nothing: it has no data servers, and one training sample that nobody reads.

    Of the only part of `data`, the samples `tested` are tested.
    """
    context = TrainingContext(model.network, model.weights, _BATCH)
    normalization = Normalization(model.mean, model.deviation, model.fill)
    source = make_source(data, model.keep)
    nothing: np.ndarray = np.zeros(0, np.float32)
    serving = DataPlan(
        dataset=data,
        training=np.arange(1),
        validation=np.zeros(0, np.int64),
        test=tested,
        augmentation=Augmentation(),
        keep=model.keep,
        source=source,
        table=join_records(data),
        survey=Survey(normalization, nothing, nothing),
        cache_bytes=0,  # every image is read only once
    )
    return RunPlan(
        settings=settings,
        network=model.network,
        data=serving,
        optimizer=make_optimizer("sgd", {"weight_decay": 0.0}),
        schedule=Schedule(1.0, 1, 1),
        split=Split(workers, 0),
        choices=context.choices,
        costs=Costs(0.0, 0.0, context.nbytes),
        cores=workers,
        weights=model.weights,
        resumed=None,
    )

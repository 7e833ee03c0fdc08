"""Evaluation of a trained model on all cores, outside of a training run."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np

from adam_mp.compute.context import TrainingContext
from adam_mp.compute.model import Model
from adam_mp.compute.optimizer import make_optimizer
from adam_mp.data.augmentation import Augmentation
from adam_mp.data.normalization import Normalization
from adam_mp.data.reading.dataset import DataSet
from adam_mp.data.reading.loading import load_data
from adam_mp.data.reading.options import LoadOptions
from adam_mp.data.survey import Survey
from adam_mp.errors import DataError
from adam_mp.machine import usable_cores
from adam_mp.process.forking import fork_server
from adam_mp.process.interruption import Interruption
from adam_mp.training.crew.session import Session
from adam_mp.training.data.data_plan import DataPlan, join_records, make_source
from adam_mp.training.plan.plan import RunPlan
from adam_mp.training.plan.split import Costs, Split
from adam_mp.training.preloading import OF_A_RUN
from adam_mp.training.settings.events import Listener, notices_to
from adam_mp.training.settings.schedule import Schedule
from adam_mp.training.settings.settings import TrainSettings

_BATCH = 64


@dataclasses.dataclass(frozen=True)
class EvaluationResult:
    """Accuracy and mean loss of a model on the test images; `images` counts those that could not be read too."""

    accuracy: float
    loss: float
    images: int
    seconds: float
    workers: int

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain values."""
        return dataclasses.asdict(self)


def evaluate_model(
    model: Model, source: Any, cores: int | None, listener: Listener, options: LoadOptions | None = None
) -> EvaluationResult:  # fmt: skip
    """Evaluate `model` on the test part of `source` (see `load_data`) with one worker a core.

    Images are read as `options` say, by default as in the model's training. Raises DataError if the data has no test
    part or does not fit the model.
    """
    began = time.monotonic()
    settings = TrainSettings(cores=cores, batch_size=_BATCH)
    height, width, channels = model.network.input_shape
    options = options or LoadOptions.kept(model.reading)
    data = load_data(source, dataclasses.replace(options, image_size=f"{height}x{width}", channels=channels))
    if data.test is None:
        raise DataError(f"{data.name} has no test images to evaluate on")
    data = _with_classes_of(model, data)
    test = data.test
    assert test is not None
    if data.image_shape != model.network.input_shape or test.labels.max() >= model.network.classes:
        raise DataError(
            f"{data.name} has images of {data.image_shape} and labels up to {test.labels.max()}, but the model takes "
            f"{model.network.input_shape} and {model.network.classes} classes"
        )
    workers = min(settings.cores or usable_cores(), max(1, len(test) // _BATCH))
    with (
        fork_server(OF_A_RUN),
        Interruption() as interruption,
        Session(_plan(model, data, settings, workers), interruption, notices_to(listener)) as session,
    ):
        session.start()
        loss, accuracy = session.evaluate("test")
    return EvaluationResult(accuracy, loss, len(test), time.monotonic() - began, workers)


def _with_classes_of(model: Model, data: DataSet) -> DataSet:
    """Return the data set with test labels as the model numbers its classes, which both know by name.

    Raises DataError if a test image is of a class that the model does not know.
    """
    if not model.class_names or not data.class_names or data.class_names == model.class_names:
        return data
    assert data.test is not None
    known = {name: number for number, name in enumerate(model.class_names)}
    numbers = np.array([known.get(name, -1) for name in data.class_names], np.int32)
    labels = numbers[data.test.labels]
    if (labels < 0).any():
        strange = data.class_names[data.test.labels[labels < 0][0]]
        raise DataError(
            f"{data.name} has test images of class {strange!r}, which the model does not know; it knows "
            f"{len(known)} classes, such as {model.class_names[0]!r}"
        )
    return dataclasses.replace(data, test=dataclasses.replace(data.test, labels=labels))


def _plan(model: Model, data: DataSet, settings: TrainSettings, workers: int) -> RunPlan:
    """Plan a run that trains nothing: it has no data servers, and one training sample that nobody reads."""
    context = TrainingContext(model.network, model.weights, _BATCH)
    normalization = Normalization(model.mean, model.deviation, model.fill)
    source = make_source(data, model.keep)
    nothing: np.ndarray = np.zeros(0, np.float32)
    serving = DataPlan(
        dataset=data,
        training=np.arange(1),
        validation=np.zeros(0, np.int64),
        test=data.numbers(data.test),
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

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
from adam_mp.data.reading.account import some
from adam_mp.data.reading.dataset import DataSet, match_classes
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


def evaluate_model(
    model: Model, source: Any, cores: int | None, listener: Listener, options: LoadOptions | None = None,
    trained_on: bool = False, strict: bool = False,
) -> EvaluationResult:  # fmt: skip
    """Evaluate `model` on the test part of `source` (see `load_data`) with one worker a core.

    Images are read as `options` say, by default as in the model's training. Classes are matched by their names, where
    both sides have any. Data whose parts have no names are all test; if the model was `trained_on` them, `listener`
    gets a notice, or with `strict` a DataError is raised. Raises DataError too if the data have nothing to test, or do
    not fit the model.
    """
    began = time.monotonic()
    settings = TrainSettings(cores=cores, batch_size=_BATCH)
    height, width, channels = model.network.input_shape
    options = dataclasses.replace(
        options or LoadOptions.kept(model.reading), image_size=f"{height}x{width}", channels=channels, only_test=True
    )
    data = load_data(source, options)
    tell = notices_to(listener)
    if trained_on and not data.account.parts_named:
        if strict:
            raise DataError(f"{data.name} has no test images to evaluate on: the model was trained on all; give --data")
        tell(f"the model was trained on images of {data.name}: on others it is likely to be less accurate")
    if data.image_shape != model.network.input_shape:
        raise DataError(
            f"{data.name} has images of {data.image_shape}, but the model takes {model.network.input_shape}"
        )
    data = match_classes(data, model.class_names, model.network.classes)
    test, names = data.train, data.class_names or tuple(map(str, range(model.network.classes)))
    counts = np.bincount(test.labels, minlength=len(names)).tolist()
    for note in data.account.notes:
        tell(note)
    if lacking := [name for name, count in zip(names, counts, strict=True) if not count]:
        tell(f"{data.name} has no image of {some(lacking)}, of {len(names)} classes that the model knows")
    workers = min(settings.cores or usable_cores(), max(1, len(test) // _BATCH))
    with (
        fork_server(OF_A_RUN),
        Interruption() as interruption,
        Session(_plan(model, data, settings, workers), interruption, notices_to(listener)) as session,
    ):
        session.start()
        loss, accuracy = session.evaluate("test")
    counted = dict(zip(names, counts, strict=True))
    return EvaluationResult(accuracy, loss, len(test), time.monotonic() - began, workers, counted)


def _plan(model: Model, data: DataSet, settings: TrainSettings, workers: int) -> RunPlan:
    """Plan a run that trains nothing: it has no data servers, and one training sample that nobody reads.

    The only part of `data` is what is tested.
    """
    context = TrainingContext(model.network, model.weights, _BATCH)
    normalization = Normalization(model.mean, model.deviation, model.fill)
    source = make_source(data, model.keep)
    nothing: np.ndarray = np.zeros(0, np.float32)
    serving = DataPlan(
        dataset=data,
        training=np.arange(1),
        validation=np.zeros(0, np.int64),
        test=data.numbers(data.train),
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

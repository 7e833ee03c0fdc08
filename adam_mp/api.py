"""`adam_mp.train`: training from Python. Settings are keyword arguments; files and progress are the command's."""

from __future__ import annotations

from typing import Any

from adam_mp.process.output import standard_error, standard_output
from adam_mp.report.curves import CurvesFile
from adam_mp.report.failures import FailureLog
from adam_mp.report.metrics import MetricsFile
from adam_mp.report.progress import ProgressDisplay, notices_only
from adam_mp.training.settings.events import Listener
from adam_mp.training.trainer import TrainResult, run_training


def train(network: Any = "mnist", data: Any = "mnist", *, quiet: bool = False, **settings: Any) -> TrainResult:
    """Train `network` on `data` with many processes; return the model and the figures of the run.

    Parameters:
        network: a list of layers, a `Network`, a name from the zoo, a TOML file, or "package.module:function".
        data: a folder of class folders with images, or of IDX files, tar shards or .npy files; "name-{00..31}.tar"; an
            .npz file; `(images, labels)` or `(images, labels, test_images, test_labels)`, images [n, h, w] or
            [n, h, w, c], features [n, f], labels whole numbers from 0, booleans or text; an object with `len(data)` and
            `data[i]` -> (image, label), or a pair of them to train and test on; or "mnist".
        quiet: show nothing but problems.
        settings: the fields of `adam_mp.TrainSettings`, such as `cores=2, epochs=3, lr=0.05`; the same as the flags of
            `python -m adam_mp train`.

    Raises children of `AdamError`, with the messages of the command line. Ctrl-C ends the run after the present batch
    and writes a checkpoint; the result then has `stopped_by` "SIGINT".

    Example:
        >>> layers = [Conv(8, 5), MaxPool(2), ReLU(), Flatten(), Dense(), Softmax()]
        >>> result = adam_mp.train(layers, (images, labels), cores=2, epochs=3)
        >>> result.model.predict(images[:5]).argmax(axis=1)
    """
    listeners: list[Listener] = [notices_only] if quiet else [ProgressDisplay(standard_output(), standard_error())]
    return train_with(listeners, {"model": network, "data": data, **settings})


def train_with(displays: list[Listener], settings: dict[str, Any]) -> TrainResult:
    """Train with the given displays, and write metrics, curves and the log of failures into the run folder."""
    return run_training(settings, [MetricsFile(), CurvesFile(), FailureLog(), *displays])

"""A trained network as a library object: predict, evaluate, save, load."""

from __future__ import annotations

import dataclasses
import json
import unicodedata
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adam_mp.compute.columns import column_names, other_columns, rows_reordered
from adam_mp.compute.scale import BYTES, ValueScale, almost_black, not_of_files, other_scale, perhaps_other_scale
from adam_mp.compute.tensor_file import TensorFile, read_tensors, write_tensors
from adam_mp.compute.unclear import is_masked, unclear_images
from adam_mp.errors import CheckpointError, DataError, several, shown
from adam_mp.kernels.finite import all_finite
from adam_mp.machine import as_text
from adam_mp.network.description import from_json, to_json
from adam_mp.network.network import Network

MODEL_FORMAT = "adam_mp.model.2"
_BATCH = 64
_OF_BYTES = 10.0  # a model whose scale is not known was trained on bytes if the deviation is more than this
MODEL_FILE = "model.safetensors"  # in a run folder
_ONE_VIEW = "one"


Tensors = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Model:
    """A network with its weights (name -> float32 array) and the normalisation of its inputs. One thread may use it.

    `weights` has the statistics of norms too, such as `batch_norm1.mean`.

    `mean` and `deviation` are per channel, in units of the stored values (0 to 255 for images of bytes); `fill` is the
    stored value around an image. `keep` is which part of an image's middle is shown if its size is another than the
    network's. `class_names` has a name for each class, or is empty. `epoch` is the epoch of the run after which these
    were the weights (0: before the first had ended), None if not known. `validation_accuracy` is None if no images were
    held out. `reading` says how images in files were read, as `LoadOptions.as_dict` does; it is empty if an older
    version wrote the model. `values` is the scale of the training images, None if an older version wrote the model.

    Example:
        >>> model = adam_mp.load("runs/first")
        >>> model.predict(images).argmax(axis=1)
    """

    network: Network
    weights: Mapping[str, np.ndarray]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    fill: float = 0.0
    class_names: tuple[str, ...] = ()
    keep: float = 1.0
    epoch: int | None = None
    validation_accuracy: float | None = None
    reading: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    values: ValueScale | None = None

    def predict(self, images: Any, *, views: str = _ONE_VIEW) -> np.ndarray:
        """Return class probabilities, float32 [n, classes], for images [n, h, w], [n, h, w, c] or features [n, f].

        A single image [h, w] or [h, w, c] counts as n = 1. The values are those of stored images, not normalised.
        `views="reflect,shift=1"` averages the scores over views of each image, as `--views` does; raises SettingsError.
        Raises DataError, with both shapes, if the images do not fit, and if they have another scale than the training
        images, such as values from 0 to 1 where those were bytes, or as a data frame other columns. Warns where the
        scale may be another, and one image is too few to tell.
        """
        if (why := unclear_images(images)) is not None:
            raise DataError(why)
        if (why := other_columns(column_names(images), self.reading.get("columns", ()))) is not None:
            raise DataError(why)
        try:
            given = np.asarray(images)
        except (ValueError, TypeError, RuntimeError) as error:  # the last of a tensor that has gradients
            raise DataError(f"images are no array: {error}; expected images of one shape") from None
        x = self._as_batch(given)
        self.check_scale(x)
        pictures = x.shape[1:3] != (1, 1)
        if self.values is not None and pictures and (doubt := perhaps_other_scale(x, self.values, 1)) is not None:
            _warn(f"images to predict: {doubt}")
        return self.probabilities(x, views)

    def probabilities(self, x: np.ndarray, views: str = _ONE_VIEW) -> np.ndarray:
        """Return what `predict` does for images [n, h, w, c], whatever their values are."""
        from adam_mp.compute.context import TrainingContext  # loads kernels, which reading a model does not need
        from adam_mp.compute.views import ViewScores, parse_views
        from adam_mp.kernels.loss import softmax

        context = TrainingContext(self.network, self.weights, min(_BATCH, max(len(x), 1)), backward=False)
        out = np.zeros((len(x), self.network.classes), np.float32)
        scores = ViewScores(context, parse_views(views, self.network.input_shape))
        mean, deviation = np.array(self.mean, np.float32), np.array(self.deviation, np.float32)
        for start in range(0, len(x), _BATCH):
            block = np.ascontiguousarray((x[start : start + _BATCH].astype(np.float32) - mean) / deviation)
            softmax(scores.of(block), out[start : start + len(block)])
        if not np.isfinite(out).all():
            self.check_weights()
        return out

    def check_weights(self) -> None:
        """Raise DataError if a weight is NaN or infinite, as those of a run that diverged are."""
        for name, weights in self.weights.items():
            if not all_finite(weights):
                raise DataError(f"the model's {name} holds NaN or infinite weights: its training diverged")

    def check_views(self, views: str) -> None:
        """Raise SettingsError if `views` are none that the network's pictures have."""
        from adam_mp.compute.views import parse_views

        parse_views(views, self.network.input_shape)

    def check_scale(self, images: np.ndarray) -> None:
        """Raise DataError if images [n, h, w, c] have another scale than the training images, or are not finite."""
        if images.dtype.kind == "f" and not np.isfinite(images).all():
            raise DataError("the images have values that are NaN or infinite; mend or remove these images")
        scale = self.values or (BYTES if max(self.deviation) > _OF_BYTES else None)
        if scale is not None and (why := other_scale(images, scale)) is not None:
            raise DataError(why)

    def doubt_of(self, picture: np.ndarray) -> str | None:
        """Say in words that a picture [h, w, c] of a file has values of 0 and 1 alone, as no training image had."""
        scale = self.values or (BYTES if max(self.deviation) > _OF_BYTES else None)
        return None if scale is None else almost_black(picture, scale)

    def check_files(self) -> None:
        """Raise DataError if no image in a file can have the scale of the training images."""
        if self.values is not None and (why := not_of_files(self.values)) is not None:
            raise DataError(why)

    def evaluate(self, images: Any, labels: Any, *, views: str = _ONE_VIEW) -> float:
        """Return the fraction of `images` whose most probable class is their label, a number or a name.

        `views` are those of `predict`. Raises DataError too if both have the same index, as pandas has, in another
        order.
        """
        if rows_reordered(images, labels):
            raise DataError(
                "images and labels have the same index in another order; write labels.loc[images.index], or "
                "labels.to_numpy() to have them joined by their places"
            )
        probabilities = self.predict(images, views=views)
        if is_masked(labels):
            raise DataError("labels are masked; leave out the images without a label")
        labels = self._class_numbers(np.asarray(labels), len(probabilities))
        return float(np.mean(probabilities.argmax(axis=1) == labels)) if len(labels) else 0.0

    def save(self, path: str | Path) -> None:
        """Write the model to one safetensors file, the network's description in its metadata."""
        write_model(Path(path), self)

    def _class_numbers(self, labels: np.ndarray, count: int) -> np.ndarray:
        """Return labels, class numbers or names in one dimension or a column, as numbers [n]; raises DataError."""
        classes = self.network.classes
        if labels.size != count or (labels.ndim != 1 and max(labels.shape, default=0) != count):
            advice = "; for one-hot labels write numpy.argmax(labels, axis=1)" if labels.ndim == 2 else ""
            raise DataError(
                f"{several(count, 'image')}, but labels of shape {labels.shape}; expected one label an image{advice}"
            )
        labels = labels.reshape(-1)
        if labels.dtype.kind not in "biufOSUT":
            raise DataError(f"labels are of type {labels.dtype}; expected whole numbers from 0, or names of classes")
        if labels.dtype.kind == "S":
            try:
                labels = np.char.decode(labels, "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(f"labels are bytes that are no text: {error}") from None
        if not any(isinstance(label, str) for label in labels.tolist()):
            self._check_numbers(labels)
            numbers = labels.astype(np.float64)
            if (wrong := np.flatnonzero((numbers != np.floor(numbers)) | (numbers < 0) | (numbers >= classes))).size:
                raise DataError(
                    f"label {labels[wrong[0]]} of image {wrong[0]} is none of the model's classes, 0 to {classes - 1}"
                )
            return numbers.astype(np.int64)
        known = {_one_form(name): number for number, name in enumerate(self.class_names)}
        names = [_one_form(label) for label in labels.tolist()]
        strange = next((name for name in names if name not in known), None)
        if strange is not None:
            raise DataError(f"label {shown(strange)} is none of the model's {len(known)} names of classes")
        return np.array([known[name] for name in names])

    def _check_numbers(self, labels: np.ndarray) -> None:
        """Raise DataError if it is not clear of which classes numbers or booleans are: these have other names."""
        names = self.class_names
        if labels.dtype.kind == "b" and self.network.classes != 2:
            raise DataError(
                f"labels are booleans, but the model has {self.network.classes} classes; give their numbers"
            )
        truths = all(map(str.isdecimal, names)) or [name.casefold() for name in names] == ["false", "true"]
        if not truths and all(isinstance(label, (bool, np.bool_)) for label in labels.tolist()):
            raise DataError(
                f"labels are booleans, but the model's classes have names ({shown(list(names))}); give these: "
                f"numpy.where(labels, {names[1]!r}, {names[0]!r}) if True is {names[1]}"
            )
        if all(map(str.isdecimal, names)) and any(int(name) != number for number, name in enumerate(names)):
            raise DataError(
                f"labels are numbers, but the model's classes have other numbers as names ({shown(list(names))}); "
                "give the names: labels.astype(str), or numpy.array(model.class_names)[labels] if 0 is the first class"
            )
        self.check_count(labels)

    @property
    def untrained(self) -> tuple[int, ...]:
        """The classes of which there was no image to train on, as far as the model knows."""
        return tuple(self.reading.get("untrained", ()))

    def check_count(self, labels: np.ndarray) -> None:
        """Raise DataError if class numbers [n], of classes without names, seem to be counted from one less than those.

        That is if they end one before the numbers to train on, and begin one before.
        """
        trained = sorted(set(range(self.network.classes)) - set(self.untrained))
        if self.class_names or not self.untrained or not trained or not labels.size or trained[0] == 0:
            return
        if (labels.min(), labels.max()) == (trained[0] - 1, trained[-1] - 1):
            raise DataError(
                f"labels go from {labels.min():.0f} to {labels.max():.0f}, but those to train on went from "
                f"{trained[0]} to {trained[-1]}; count both alike: write labels + 1"
            )

    def _as_batch(self, images: np.ndarray) -> np.ndarray:
        shape = self.network.input_shape
        if images.dtype.kind not in "biuf":
            raise DataError(f"images are of type {images.dtype}; expected numbers")
        candidates = [shape, shape[:2]] if shape[2] == 1 else [shape]
        if shape[:2] == (1, 1):
            candidates.append((shape[2],))
        for single in candidates:
            if images.shape == single or images.shape[1:] == single:
                return images.reshape(-1, *shape)
        turned = {3: ".transpose(1, 2, 0)", 4: ".transpose(0, 2, 3, 1)"}.get(images.ndim)
        advice = f"; write images{turned}" if turned and images.shape[-3:] == (shape[2], *shape[:2]) else ""
        raise DataError(
            f"images have shape {images.shape}; this network takes [n, {', '.join(map(str, shape))}]{advice}"
        )


def _one_form(name: Any) -> Any:
    """Return a name in the one form, of those that Unicode has for it, by which names are compared."""
    return unicodedata.normalize("NFC", name) if isinstance(name, str) else name


def write_model(path: Path, model: Model) -> None:
    """Write `model` to `path`, atomically."""
    normalization = {"mean": model.mean, "deviation": model.deviation, "fill": model.fill, "keep": model.keep}
    metadata = {
        "format": MODEL_FORMAT,
        "network": to_json(model.network),
        "normalization": json.dumps(normalization),
        "classes": json.dumps(model.class_names),
        "reading": json.dumps(dict(model.reading)),
        **({} if model.values is None else {"values": json.dumps(model.values.as_dict())}),
        "trained": json.dumps({"epoch": model.epoch, "validation_accuracy": model.validation_accuracy}),
    }
    write_tensors(path, model.weights, metadata)


def read_weights(path: Path, places: Mapping[str, Any]) -> None:
    """Read a model's weights into the arrays `places`, by name; a tensor may lie in parts (`ColumnBlocks`).

    Raises CheckpointError if a tensor lacks or has another shape or dtype, or the file is missing or damaged.
    """
    TensorFile(path, MODEL_FORMAT).read(places)


def which_folder(folder: Path) -> str:
    """Return advice for a user who gave a folder without a model: names a folder inside that has one, if there is."""
    inside = sorted(folder.glob(f"*/{MODEL_FILE}"))
    return "give a run folder that has a model" + (f", such as {inside[-1].parent}" if inside else "")


def load(path: str | Path) -> Model:
    """Load a model from its file or from the run folder that holds it; raises CheckpointError if damaged."""
    path = Path(path)
    if path.is_dir():
        if not (path / MODEL_FILE).is_file():
            raise CheckpointError(f"{path} has no {MODEL_FILE}; {which_folder(path)}")
        path = path / MODEL_FILE
    tensors, metadata = read_tensors(path, MODEL_FORMAT)
    network = from_json(metadata.get("network", ""))
    for name, shape in {**network.parameters, **network.statistics}.items():
        if name not in tensors or tensors[name].shape != shape or tensors[name].dtype != np.float32:
            raise CheckpointError(f"{path} has no float32 tensor {name} of shape {shape}, which its network needs")
    try:
        normalization = json.loads(metadata["normalization"])
        mean, deviation = tuple(normalization["mean"]), tuple(normalization["deviation"])
        names = tuple(as_text(str(name)) for name in json.loads(metadata["classes"]))
        if len(names) > network.classes:
            raise ValueError(f"{len(names)} class names")
        trained = json.loads(metadata.get("trained", '{"epoch": null, "validation_accuracy": null}'))
        epoch, accuracy = trained["epoch"], trained["validation_accuracy"]
        reading = dict(json.loads(metadata.get("reading", "{}")))
        values = ValueScale(**json.loads(metadata["values"])) if "values" in metadata else None
        return Model(
            network, tensors, mean, deviation, float(normalization["fill"]), names, float(normalization["keep"]),
            None if epoch is None else int(epoch), None if accuracy is None else float(accuracy), reading,
            values,
        )  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} has damaged normalisation data, class names or epoch: {error!r}") from None


def _warn(text: str) -> None:
    """Warn who called the caller, as warnings are to be shown there. No answer is lost because a stream is closed."""
    try:
        warnings.warn(text, stacklevel=3)
    except Warning:  # these are to be errors
        raise
    except Exception:
        pass

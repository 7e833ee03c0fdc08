"""Everything a user can choose about a run: flags, TOML keys and keyword arguments are the fields of `TrainSettings`.

Modules that only some checks need are imported inside these checks, because every command imports this module and
should answer quickly.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from adam_mp.errors import SettingsError, flag_of, shown
from adam_mp.proposals import unknown
from adam_mp.training.settings.averages import parse_average
from adam_mp.training.settings.cache_size import parse_cache
from adam_mp.training.settings.combinations import OF_MANY, OF_SERVERS, check_combinations, settle_partition
from adam_mp.training.settings.option import Number, Whole, check_kind, check_value, option
from adam_mp.training.settings.rates import parse_rates, rates_text
from adam_mp.training.settings.texts import augment_help, lr_help, optimizer_help

_SOME, _SOME_OR_NONE, _PROCESSES = Whole(1), Whole(0), Whole(1, 4096)
_PARTS, _FLIGHTS = Whole(1, 64), Whole(1, 8)
_FRACTION = Number(0, 1, high_included=False)
_SHARE = Number(0, 1, low_included=False)
_SECONDS = Number(0, 1e9, low_included=False)
# Values that mean None. A user of flags or TOML, which have no None, needs them to unset what a resumed run had.
_ABSENT = (
    ("data_servers", "auto"), ("servers", 0), ("join", "none"), ("data_from", "none"), ("partition", "none"),
)  # fmt: skip
_FORMULAS = {  # setting that may be a formula: what is expected of it
    "lr": "a number, or a formula as text over epoch, epochs, step, progress and warmup, such as '0.1 * 0.9 ** epoch'",
    "optimizer": "a name, or a formula as text for the new w, such as 'w - lr * g'",
}
_RATE = Number(0, 1e6, low_included=False)
_LEAST_EPSILON = 1e-30  # a smaller one can become 0 in float32, and a gradient of 0 would then be divided by 0
# Text and numbers without their class: processes cannot have classes that a user's script defines.
_PLAIN: Mapping[type, Callable[[Any], Any]] = {str: str.__str__, int: int.__int__, float: float.__float__}


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """The settings of `adam_mp.train` and of `adam_mp train`; raises SettingsError for an impossible value."""

    model: Any = option(
        "mnist", "what to train", "NAME|FILE.toml|MODULE:FUNCTION",
        "network: mnist, mnist-best, lenet, mlp, alexnet, vgg16, resnet18, resnet20, resnet34, "
        "resnet50, mobilenet-v2 or cifar-fast; or a TOML file; or package.module:function",
    )  # fmt: skip
    data: Any = option(
        "mnist", "what to train", "DIR|SHARDS|FILE",
        "folder of class folders with images (train/, val/ and test/ above them if there), of IDX files, tar shards or "
        ".npy files; tar shards, 'name-{0000..0146}.tar'; an .npz file; 'mnist' is embedded",
    )  # fmt: skip
    image_size: int | str | None = option(
        None, "what to train", "N|HxW", "pixels of the pictures that images in files become; by default the images' "
        "own where they are small and all alike, else 224",
    )  # fmt: skip
    augment: Any = option("auto", "what to train", "NAME|RANGES", augment_help)
    validation: float = option(
        0.05, "what to train", "FRACTION",
        "share of the training images held out to validate on, 0 for none; data with a val/ of its own uses that",
        values=_FRACTION,
    )  # fmt: skip
    strict: bool = option(
        False, "what to train", "", "stop at the first image that cannot be read, instead of going on"
    )
    follow_links: bool = option(False, "what to train", "", "follow links that leave the data folder")
    pixel_limit: int = option(
        100_000_000, "what to train", "PIXELS",
        "refuse images that declare more than this, before they are decoded", values=_SOME,
    )  # fmt: skip
    ignore_orientation: bool = option(
        False, "what to train", "", "read photographs as they are stored, not turned as their EXIF orientation asks"
    )
    white: float | None = option(
        None, "what to train", "VALUE", "value of grey images of 16 bits that becomes 255; by default the largest of "
        "the bits that the first images use, such as 4095 for 12",
        values=Number(0, 65535, low_included=False),
    )  # fmt: skip
    epochs: int = option(5, "how to train", "N", "passes over the training images", values=_SOME)
    batch_size: int = option(16, "how to train", "IMAGES", "images a worker takes per update", values=_SOME)
    lr: float | str | None = option(None, "how to train", "NUMBER|FORMULA", lr_help)
    rates: Any = option(
        "none", "how to train", "NAME=SHARE,...",
        "shares of the learning rate for layers or tensors, such as 'conv*=0.1,dense2.weight=2', a table of them in "
        "TOML; of several that fit, the last counts; 0 freezes",
    )  # fmt: skip
    momentum: float = option(
        0.9, "how to train", "FRACTION", "momentum of the optimizers momentum and nesterov", values=_FRACTION
    )
    beta1: float = option(
        0.9, "how to train", "FRACTION",
        "what adam and adamw keep of their mean gradient at each update", values=_FRACTION,
    )  # fmt: skip
    beta2: float = option(
        0.999, "how to train", "FRACTION",
        "what rmsprop, adam and adamw keep of their mean squared gradient at each update",
        values=_FRACTION,
    )  # fmt: skip
    epsilon: float = option(
        1e-8, "how to train", "NUMBER",
        "what adagrad, rmsprop, adam and adamw add to the root by which they divide", values=Number(_LEAST_EPSILON, 1),
    )  # fmt: skip
    weight_decay: float = option(
        1e-4, "how to train", "NUMBER",
        "pull of the weights towards 0; biases and norms have none, see --decay-all", values=Number(0, 1),
    )  # fmt: skip
    decay_all: bool = option(False, "how to train", "", "weight decay for biases and for scale and shift of norms too")
    clip_norm: float = option(
        0.0, "how to train", "NUMBER",
        "largest Euclidean norm of an update's gradient; one with a larger norm is scaled down; 0 for no limit",
        values=Number(0, 1e9),
    )  # fmt: skip
    label_smoothing: float = option(
        0.0, "how to train", "FRACTION",
        "share of each label that all classes have in equal parts, such as 0.1; in training alone",
        values=_FRACTION,
    )  # fmt: skip
    mixup: float = option(
        0.0, "how to train", "ALPHA",
        "blend the images of a batch and their labels, by shares of Beta(ALPHA, ALPHA)", values=Number(0, 1e3),
    )  # fmt: skip
    cutmix: float = option(
        0.0, "how to train", "ALPHA", "exchange rectangles of such shares between images, and labels by as much; a "
        "batch has one of --mixup and --cutmix",
        values=Number(0, 1e3),
    )  # fmt: skip
    average: str = option(
        "none", "how to train", "KIND:NUMBER",
        "what is validated, tested and saved in place of the present weights: ema:D, their moving average, which keeps "
        "D of itself at each update, such as ema:0.999; or last:N, the mean of those at the ends of the last N epochs",
    )  # fmt: skip
    views: str = option(
        "one", "how to train", "VIEWS",
        "views of each image that is validated, tested or predicted; their scores are averaged: one, reflect (and its "
        "mirror image), shift=N (and shifted by N pixels), or both, such as 'reflect,shift=1'",
    )  # fmt: skip
    optimizer: str = option("sgd", "how to train", "NAME|FORMULA", optimizer_help)
    consistency: str = option(
        "async", "how to train", "MODE",
        "how workers keep together: async, ssp:K (none more than K updates ahead of the slowest), sync (one update for "
        "a batch of every worker), deterministic (the same, repeatable bit for bit)",
    )  # fmt: skip
    quorum: float = option(
        1.0, "how to train", "FRACTION",
        "share of an epoch's images after which the epoch ends; the rest are skipped", values=_SHARE,
    )  # fmt: skip
    rollbacks: int = option(
        3, "how to train", "N",
        "times a run that diverges goes back to its last good state with half the learning rate before it is given up",
        values=_SOME_OR_NONE,
    )  # fmt: skip
    target_accuracy: float | None = option(
        None, "how to train", "FRACTION", "stop once validation accuracy reaches this", values=_SHARE
    )
    seed: int = option(1, "how to train", "N", "seed of weights, order, augmentation and dropout", values=_SOME_OR_NONE)
    cores: int | None = option(
        None, "where to run", "N",
        "cores to use, divided between workers and data servers; all usable ones by default", values=_PROCESSES,
    )  # fmt: skip
    data_servers: int | str | None = option(
        None, "where to run", "N|auto",
        "data-server processes; auto, the default, chooses by a measurement at the start", values=_PROCESSES,
    )  # fmt: skip
    partitions: int = option(
        1, "where to run", "P",
        "cut the model over P workers, which train each batch together, each with its part of every layer",
        values=_PARTS,
    )  # fmt: skip
    cut: str = option(
        "auto", "where to run", "TEXT",
        "how --partitions cuts layers: rows (of the image), channels, units or none for all that can be cut so, or "
        "pairs such as 'conv*=rows,dense1=units'; auto, the default, takes for each what costs least",
    )  # fmt: skip
    in_flight: int = option(
        3, "where to run", "N",
        "batches that a group of --partitions has on their way at a time, so that waiting for one is time for another",
        values=_FLIGHTS,
    )  # fmt: skip
    cache: Any = option(
        "60%", "where to run", "SIZE|PERCENT",
        "memory for decoded images, such as 2GB or a share of what is free; what does not fit is decoded each time",
    )  # fmt: skip
    memory_dir: str | Path | None = option(
        None, "where to run", "DIR", "keep the shared memory in a file of this folder instead of in memory"
    )
    restarts: int = option(
        5, "where to run", "N",
        "times in a row a process may die within 30 seconds of its start before it is given up", values=_SOME_OR_NONE,
    )  # fmt: skip
    on_failure: str = option(
        "restart", "where to run", "WHAT",
        "when a worker dies: restart it, continue with the others, or stop; what it held is trained in any case",
    )  # fmt: skip
    stall_seconds: float = option(
        60.0, "where to run", "SECONDS",
        "end the run when no process has got anything done for so long (for slow networks: for 20 batches' time)",
        values=_SECONDS,
    )  # fmt: skip
    servers: int | None = option(
        None, "many machines", "N",
        "start N parameter servers here, and train as many replicas as --replicas says; they meet at sockets that no "
        "other user can reach; 0 with --resume goes on alone",
        values=_SOME,
    )  # fmt: skip
    replicas: int = option(
        1, "many machines", "N", "replicas to train with --servers; they share --cores", values=_SOME
    )
    copies: int = option(
        1, "many machines", "N",
        "keep all weights on N of the --servers: if one dies or hangs, another takes its place at once",
        values=_SOME,
    )  # fmt: skip
    commit: str = option(
        "copied", "many machines", "WHEN",
        "with --copies, when a server answers an update: copied (at once; the replica keeps it until the copies have "
        "it) or all (when all copies have it)",
    )  # fmt: skip
    join: str | None = option(
        None, "many machines", "HOST:PORT", "train as a replica of the run whose first parameter server listens "
        "there (or at unix:FILE on this machine); 'none' with --resume goes on alone",
    )  # fmt: skip
    partition: str | None = option(
        None, "many machines", "K/P",
        "train partition K of a model that is cut over P machines: 1/P with --listen and all other settings, the "
        "others with --join HOST:PORT of that one alone; 'none' with --resume goes on with all partitions here",
    )  # fmt: skip
    listen: str | None = option(
        None, "many machines", "HOST:PORT", "where partition 1/P listens for the others (or unix:FILE)"
    )
    key_file: str | Path | None = option(
        None, "many machines", "FILE", "the run's keys (see adam-mp keygen); needed beyond this machine"
    )
    data_from: str | None = option(
        None, "many machines", "HOST:PORT,...",
        "have batches made by these data servers (adam-mp serve-data; unix:FILE too) instead of processes here; the "
        "next one takes over when one does not answer, and this machine while none does; 'none' with --resume goes on "
        "without",
    )  # fmt: skip
    exchange_images: int = option(
        512, "many machines", "K",
        "images a replica trains between two exchanges with the parameter servers", values=_SOME,
    )  # fmt: skip
    protocol: str = option(
        "auto", "many machines", "NAME",
        "deltas or activations of dense layers go to the parameter servers; auto takes for each layer what is fewer "
        "bytes",
    )  # fmt: skip
    wire: str = option("float32", "many machines", "TYPE", "numbers of deltas: float32, float16 or bfloat16")
    run_dir: str | Path | None = option(
        None, "what is left", "DIR", "run folder for model, checkpoints, metrics and curves; runs/MODEL-DATE by default"
    )
    resume: bool | str | Path = option(
        False, "what is left", "[DIR]", "continue the run in --run-dir (or in DIR) from its last checkpoint"
    )
    checkpoint_seconds: float = option(
        60.0, "what is left", "SECONDS",
        "time between checkpoints within an epoch; each epoch's end has one anyway", values=_SECONDS,
    )  # fmt: skip

    def __post_init__(self) -> None:
        for name, field in FIELDS.items():
            object.__setattr__(self, name, _plain(getattr(self, name)))
            if callable(getattr(self, name)) and name in _FORMULAS:
                raise SettingsError(
                    f"{flag_of(name)} is a function, which other processes cannot have; expected {_FORMULAS[name]}"
                )
            check_kind(field, getattr(self, name))
        for name, text in _ABSENT:
            if getattr(self, name) == text and not isinstance(getattr(self, name), bool):
                object.__setattr__(self, name, None)
        for name, field in FIELDS.items():
            check_value(field, getattr(self, name))
        settle_partition(self)
        self._check_texts()
        check_combinations(self)

    def _check_texts(self) -> None:
        """Raise SettingsError for a text, or a table, that cannot be understood."""
        if not isinstance(self.augment, (str, Mapping)):
            raise SettingsError(f"--augment is {shown(self.augment)}; expected text, or a table of ranges")
        parse_cache(self.cache, 0)
        if isinstance(self.lr, str):
            from adam_mp.training.settings.schedule import NAMES
            from adam_mp.training.settings.shapes import check_rate

            check_rate(self.lr, NAMES, "--lr")
        elif self.lr is not None:
            _RATE.check("lr", self.lr)
        object.__setattr__(self, "rates", rates_text(parse_rates(self.rates)))
        parse_average(self.average, self.epochs)
        if self.views != FIELDS["views"].default:
            from adam_mp.compute.views import parse_views

            parse_views(self.views)

    def alone(self) -> TrainSettings:
        """Return these settings without parameter servers and other replicas."""
        of_many: dict[str, Any] = {name: FIELDS[name].default for name in ("servers", "join", *OF_SERVERS, *OF_MANY)}
        return dataclasses.replace(self, **of_many)

    @property
    def folder(self) -> Path | None:
        """The run folder that the user named, None for a new one."""
        chosen = self.run_dir if isinstance(self.resume, bool) else self.resume
        return None if chosen is None else Path(chosen)


FIELDS = {field.name: field for field in dataclasses.fields(TrainSettings)}


def _plain(value: Any) -> Any:
    """Return numpy's numbers, and numbers and texts of a user's own class, such as an enumeration, as plain ones."""
    for plain, as_plain in _PLAIN.items():
        if isinstance(value, plain) and type(value) not in (plain, bool):
            return as_plain(value)
    numpy = sys.modules.get("numpy")  # if nobody has imported numpy, no value is one of its numbers
    return value.item() if numpy is not None and isinstance(value, numpy.generic) else value


def make_settings(values: Mapping[str, Any]) -> TrainSettings:
    """Make settings of keyword arguments; raises SettingsError, which for an unknown name proposes what it may mean."""
    for name in values:
        if name not in FIELDS:
            raise SettingsError(unknown("setting", name, [*FIELDS, "quiet"]))
    data = values.get("data")
    if isinstance(data, os.PathLike) and os.fsdecode(data) == FIELDS["data"].default:
        values = {**values, "data": os.path.join(os.curdir, os.fsdecode(data))}  # a path is never the embedded data set
    return TrainSettings(**values)


def check_none_absent(given: Mapping[str, Any]) -> None:
    """Raise SettingsError if a setting `given` for a new run is one of the words that only a resumed run understands.

    Such a word, as in `--join none`, says that the run goes on without what it had.
    """
    for name, text in _ABSENT:
        if name != "data_servers" and name in given and given[name] == text and not isinstance(given[name], bool):
            raise SettingsError(
                f"{flag_of(name)} {text} is for a run that is resumed and goes on without; leave it out, or give "
                "--resume DIR"
            )

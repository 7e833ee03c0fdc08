"""Everything a user can choose about a run: flags, TOML keys and keyword arguments are the fields of `TrainSettings`.

Modules that only some checks need are imported inside these checks, because every command imports this module and
should answer quickly.
"""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from adam_mp.errors import SettingsError, flag_of, shown
from adam_mp.machine import as_name
from adam_mp.proposals import unknown
from adam_mp.training.settings.averages import parse_average
from adam_mp.training.settings.consistency import parse_consistency
from adam_mp.training.settings.rates import parse_rates, rates_text
from adam_mp.transport.places import parse_place

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


_MOST_PROCESSES = 4096
_MOST_PARTS = 64
OF_MANY = ("wire", "protocol", "exchange_images")  # settings that have a meaning only with `servers` or `join`
OF_SERVERS = ("replicas", "copies", "commit")  # settings that have a meaning only with `servers`
# Values that mean None. A user of flags or TOML, which have no None, needs them to unset what a resumed run had.
_ABSENT = (("data_servers", "auto"), ("servers", 0), ("join", "none"), ("data_from", "none"))
_SIZE = re.compile(r"(\d+(?:\.\d+)?) *(%|[kKmMgGtT]?[bB]?)")
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_MOST_PERCENT = 95
_LARGEST = 2**63 - 1
_OF_ANY_KIND = ("model", "data", "augment", "cache", "rates")  # whose readers check what they are
_FORMULAS = {  # setting that may be a formula: what is expected of it
    "lr": "a number, or a formula as text over epoch, epochs, step, progress and warmup, such as '0.1 * 0.9 ** epoch'",
    "optimizer": "a name, or a formula as text for the new w, such as 'w - lr * g'",
}
_KINDS: dict[str, Any] = {"bool": bool, "int": int, "float": (int, float), "str": str, "Path": Path, "None": type(None)}
_KIND_NAMES = {"bool": "true or false", "int": "a whole number", "float": "a number", "str": "text", "Path": "a path"}
_LEAST_EPSILON = 1e-30  # a smaller one can become 0 in float32, and a gradient of 0 would then be divided by 0


def _option(default: Any, group: str, unit: str, text: str | Callable[[], str]) -> Any:
    """Declare a field and its help: a text, or a function where the text names kernels, which take time to load."""
    return dataclasses.field(default=default, metadata={"group": group, "unit": unit, "help": text})


def _augment_help() -> str:
    from adam_mp.kernels.draw import TRANSFORMATIONS

    ranges = ", ".join(f"{name} ({each.meaning})" for name, each in TRANSFORMATIONS.items())
    return (
        "none, mnist, imagenet, auto (imagenet for photographs, mnist for other images, none for features), or ranges "
        f"such as 'translate=2,rotate=10,crop=0.08', a table of them in TOML; ranges are of {ranges}"
    )


def _lr_help() -> str:
    from adam_mp.kernels.update import RULES
    from adam_mp.training.settings.schedule import default_rate
    from adam_mp.training.settings.shapes import SHAPES

    shapes = ", ".join(
        f"{name}{'(' + ', '.join(shape.parameters) + ')' if shape.parameters else ''} ({shape.meaning})"
        for name, shape in SHAPES.items()
    )
    others = ", ".join(f"{rule.rate:g} for {name}" for name, rule in RULES.items() if rule.rate != RULES["sgd"].rate)
    of_means = ", ".join(f"{rule.rate_of_means:g} for {name}" for name, rule in RULES.items() if rule.rate_of_means)
    return (
        "learning rate, a number or a formula over epoch (from 0), epochs, step (updates so far), progress (0 to 1 "
        "over the run) and warmup (0 to 1 over its first 300 updates or first half), and these shapes over the "
        f"run: {shapes}; by default "
        f"'{default_rate('sgd', False)}', with another number where the optimizer has one of its own ({others}) and "
        f"for networks with batch norms that end in a global average, as residual networks do ({of_means}); a batch "
        "whose loss is far above that of guessing is trained with a part of it"
    )


def _optimizer_help() -> str:
    from adam_mp.kernels.update import RULES

    return (
        f"{', '.join(RULES)} (adam is Kingma and Ba's, no relation to Project Adam); or a formula for the new w over "
        "w, g, lr, ... such as 'w - lr * (g + 0.0005 * w)'"
    )


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """The settings of `adam_mp.train` and of `adam_mp train`; raises SettingsError for an impossible value."""

    model: Any = _option(
        "mnist", "what to train", "NAME|FILE.toml|MODULE:FUNCTION",
        "network: mnist, mnist-best, lenet, mlp, alexnet, vgg16, resnet18, resnet20, resnet34, "
        "resnet50, mobilenet-v2 or cifar-fast; or a TOML file; or package.module:function",
    )  # fmt: skip
    data: Any = _option(
        "mnist", "what to train", "DIR|SHARDS|FILE",
        "folder of class folders with images (train/, val/ and test/ above them if there), of IDX files, tar shards or "
        ".npy files; tar shards, 'name-{0000..0146}.tar'; an .npz file; 'mnist' is embedded",
    )  # fmt: skip
    image_size: int | str | None = _option(
        None, "what to train", "N|HxW", "pixels of the pictures that images in files become; by default the images' "
        "own where they are small and all alike, else 224",
    )  # fmt: skip
    augment: Any = _option("auto", "what to train", "NAME|RANGES", _augment_help)
    validation: float = _option(
        0.05, "what to train", "FRACTION",
        "share of the training images held out to validate on, 0 for none; data with a val/ of its own uses that",
    )  # fmt: skip
    strict: bool = _option(
        False, "what to train", "", "stop at the first image that cannot be read, instead of going on"
    )
    follow_links: bool = _option(False, "what to train", "", "follow links that leave the data folder")
    pixel_limit: int = _option(
        100_000_000, "what to train", "PIXELS", "refuse images that declare more than this, before they are decoded"
    )
    ignore_orientation: bool = _option(
        False, "what to train", "", "read photographs as they are stored, not turned as their EXIF orientation asks"
    )
    white: float | None = _option(
        None, "what to train", "VALUE", "value of grey images of 16 bits that becomes 255; by default the largest of "
        "the bits that the first images use, such as 4095 for 12",
    )  # fmt: skip
    epochs: int = _option(5, "how to train", "N", "passes over the training images")
    batch_size: int = _option(16, "how to train", "IMAGES", "images a worker takes per update")
    lr: float | str | None = _option(None, "how to train", "NUMBER|FORMULA", _lr_help)
    rates: Any = _option(
        "none", "how to train", "NAME=SHARE,...",
        "shares of the learning rate for layers or tensors, such as 'conv*=0.1,dense2.weight=2', a table of them in "
        "TOML; of several that fit, the last counts; 0 freezes",
    )  # fmt: skip
    momentum: float = _option(0.9, "how to train", "FRACTION", "momentum of the optimizers momentum and nesterov")
    beta1: float = _option(
        0.9, "how to train", "FRACTION", "what adam and adamw keep of their mean gradient at each update"
    )
    beta2: float = _option(
        0.999, "how to train", "FRACTION",
        "what rmsprop, adam and adamw keep of their mean squared gradient at each update",
    )  # fmt: skip
    epsilon: float = _option(
        1e-8, "how to train", "NUMBER", "what adagrad, rmsprop, adam and adamw add to the root by which they divide"
    )
    weight_decay: float = _option(
        1e-4, "how to train", "NUMBER", "pull of the weights towards 0; biases and norms have none, see --decay-all"
    )
    decay_all: bool = _option(False, "how to train", "", "weight decay for biases and for scale and shift of norms too")
    clip_norm: float = _option(
        0.0, "how to train", "NUMBER",
        "largest Euclidean norm of an update's gradient; one with a larger norm is scaled down; 0 for no limit",
    )  # fmt: skip
    label_smoothing: float = _option(
        0.0, "how to train", "FRACTION",
        "share of each label that all classes have in equal parts, such as 0.1; in training alone",
    )  # fmt: skip
    mixup: float = _option(
        0.0, "how to train", "ALPHA", "blend the images of a batch and their labels, by shares of Beta(ALPHA, ALPHA)"
    )
    cutmix: float = _option(
        0.0, "how to train", "ALPHA", "exchange rectangles of such shares between images, and labels by as much; a "
        "batch has one of --mixup and --cutmix",
    )  # fmt: skip
    average: str = _option(
        "none", "how to train", "KIND:NUMBER",
        "what is validated, tested and saved in place of the present weights: ema:D, their moving average, which keeps "
        "D of itself at each update, such as ema:0.999; or last:N, the mean of those at the ends of the last N epochs",
    )  # fmt: skip
    views: str = _option(
        "one", "how to train", "VIEWS",
        "views of each image that is validated, tested or predicted; their scores are averaged: one, reflect (and its "
        "mirror image), shift=N (and shifted by N pixels), or both, such as 'reflect,shift=1'",
    )  # fmt: skip
    optimizer: str = _option("sgd", "how to train", "NAME|FORMULA", _optimizer_help)
    consistency: str = _option(
        "async", "how to train", "MODE",
        "how workers keep together: async, ssp:K (none more than K updates ahead of the slowest), sync (one update for "
        "a batch of every worker), deterministic (the same, repeatable bit for bit)",
    )  # fmt: skip
    quorum: float = _option(
        1.0, "how to train", "FRACTION", "share of an epoch's images after which the epoch ends; the rest are skipped"
    )
    rollbacks: int = _option(
        3, "how to train", "N",
        "times a run that diverges goes back to its last good state with half the learning rate before it is given up",
    )  # fmt: skip
    target_accuracy: float | None = _option(
        None, "how to train", "FRACTION", "stop once validation accuracy reaches this"
    )
    seed: int = _option(1, "how to train", "N", "seed of weights, order, augmentation and dropout")
    cores: int | None = _option(
        None, "where to run", "N", "cores to use, divided between workers and data servers; all usable ones by default"
    )
    data_servers: int | str | None = _option(
        None,
        "where to run",
        "N|auto",
        "data-server processes; auto, the default, chooses by a measurement at the start",
    )
    cache: str = _option(
        "60%", "where to run", "SIZE|PERCENT",
        "memory for decoded images, such as 2GB or a share of what is free; what does not fit is decoded each time",
    )  # fmt: skip
    memory_dir: str | Path | None = _option(
        None, "where to run", "DIR", "keep the shared memory in a file of this folder instead of in memory"
    )
    restarts: int = _option(
        5, "where to run", "N", "times in a row a process may die within 30 seconds of its start before it is given up"
    )
    on_failure: str = _option(
        "restart", "where to run", "WHAT",
        "when a worker dies: restart it, continue with the others, or stop; what it held is trained in any case",
    )  # fmt: skip
    stall_seconds: float = _option(
        60.0, "where to run", "SECONDS",
        "end the run when no process has got anything done for so long (for slow networks: for 20 batches' time)",
    )  # fmt: skip
    servers: int | None = _option(
        None, "many machines", "N",
        "start N parameter servers here, and train as many replicas as --replicas says; they meet at sockets that no "
        "other user can reach; 0 with --resume goes on alone",
    )  # fmt: skip
    replicas: int = _option(1, "many machines", "N", "replicas to train with --servers; they share --cores")
    copies: int = _option(
        1, "many machines", "N",
        "keep all weights on N of the --servers: if one dies or hangs, another takes its place at once",
    )  # fmt: skip
    commit: str = _option(
        "copied", "many machines", "WHEN",
        "with --copies, when a server answers an update: copied (at once; the replica keeps it until the copies have "
        "it) or all (when all copies have it)",
    )  # fmt: skip
    join: str | None = _option(
        None, "many machines", "HOST:PORT", "train as a replica of the run whose first parameter server listens "
        "there (or at unix:FILE on this machine); 'none' with --resume goes on alone",
    )  # fmt: skip
    key_file: str | Path | None = _option(
        None, "many machines", "FILE", "the run's keys (see adam-mp keygen); needed beyond this machine"
    )
    data_from: str | None = _option(
        None, "many machines", "HOST:PORT,...",
        "have batches made by these data servers (adam-mp serve-data; unix:FILE too) instead of processes here; the "
        "next one takes over when one does not answer, and this machine while none does; 'none' with --resume goes on "
        "without",
    )  # fmt: skip
    exchange_images: int = _option(
        512, "many machines", "K", "images a replica trains between two exchanges with the parameter servers"
    )
    protocol: str = _option(
        "auto", "many machines", "NAME",
        "deltas or activations of dense layers go to the parameter servers; auto takes for each layer what is fewer "
        "bytes",
    )  # fmt: skip
    wire: str = _option("float32", "many machines", "TYPE", "numbers of deltas: float32, float16 or bfloat16")
    run_dir: str | Path | None = _option(
        None, "what is left", "DIR", "run folder for model, checkpoints, metrics and curves; runs/MODEL-DATE by default"
    )
    resume: bool | str | Path = _option(
        False, "what is left", "[DIR]", "continue the run in --run-dir (or in DIR) from its last checkpoint"
    )
    checkpoint_seconds: float = _option(
        60.0, "what is left", "SECONDS", "time between checkpoints within an epoch; each epoch's end has one anyway"
    )

    def __post_init__(self) -> None:
        self._take_numbers()
        self._check_kinds()
        for name in ("epochs", "batch_size"):
            _whole(name, getattr(self, name), 1)
        for name, text in _ABSENT:
            if getattr(self, name) == text and not isinstance(getattr(self, name), bool):
                object.__setattr__(self, name, None)
        for name in ("cores", "data_servers"):
            if getattr(self, name) is not None:
                _whole(name, getattr(self, name), 1)
                if getattr(self, name) > _MOST_PROCESSES:
                    raise SettingsError(
                        f"{flag_of(name)} is {shown(getattr(self, name))}; expected at most {_MOST_PROCESSES}"
                    )
        _whole("restarts", self.restarts, 0)
        _whole("rollbacks", self.rollbacks, 0)
        _whole("seed", self.seed, 0)
        _whole("pixel_limit", self.pixel_limit, 1)
        _whole("exchange_images", self.exchange_images, 1)
        _whole("replicas", self.replicas, 1)
        _whole("copies", self.copies, 1)
        if self.servers is not None:
            _whole("servers", self.servers, 1)
        self._check_machines()
        self._check_together()
        for name in ("strict", "follow_links", "ignore_orientation", "decay_all"):
            if not isinstance(getattr(self, name), bool):
                raise SettingsError(f"{flag_of(name)} is {shown(getattr(self, name))}; expected true or false")
        parse_cache(self.cache, 0)
        _number("validation", self.validation, 0, 1, upper_excluded=True)
        for name in ("momentum", "beta1", "beta2"):
            _number(name, getattr(self, name), 0, 1, upper_excluded=True)
        _number("epsilon", self.epsilon, _LEAST_EPSILON, 1)
        _number("weight_decay", self.weight_decay, 0, 1)
        _number("clip_norm", self.clip_norm, 0, 1e9)
        _number("label_smoothing", self.label_smoothing, 0, 1, upper_excluded=True)
        for name in ("mixup", "cutmix"):
            _number(name, getattr(self, name), 0, 1e3)
        if self.white is not None:
            _number("white", self.white, 0, 65535, lower_excluded=True)
        _number("quorum", self.quorum, 0, 1, lower_excluded=True)
        for name in ("checkpoint_seconds", "stall_seconds"):
            _number(name, getattr(self, name), 0, 1e9, lower_excluded=True)
        if self.target_accuracy is not None:
            _number("target_accuracy", self.target_accuracy, 0, 1, lower_excluded=True)
            if self.validation == 0:
                raise SettingsError("--target-accuracy needs validation images; give --validation more than 0")
        if isinstance(self.lr, str):
            from adam_mp.training.settings.schedule import NAMES
            from adam_mp.training.settings.shapes import check_rate

            check_rate(self.lr, NAMES, "--lr")
        elif self.lr is not None:
            _number("lr", self.lr, 0, 1e6, lower_excluded=True)
        object.__setattr__(self, "rates", rates_text(parse_rates(self.rates)))
        parse_average(self.average, self.epochs)
        if self.views != FIELDS["views"].default:
            from adam_mp.compute.views import parse_views

            parse_views(self.views)
        if not isinstance(self.augment, (str, Mapping)):
            raise SettingsError(f"--augment is {shown(self.augment)}; expected text, or a table of ranges")
        for name, what in (("memory_dir", "a folder"), ("run_dir", "a folder"), ("key_file", "a file")):
            if getattr(self, name) == "" or "\0" in str(getattr(self, name)):
                raise SettingsError(f"{flag_of(name)} is {shown(getattr(self, name))}; expected {what}")
        if not isinstance(self.resume, bool) and self.run_dir not in (None, self.resume, str(self.resume)):
            raise SettingsError(
                f"--resume says {shown(str(self.resume))} and --run-dir {shown(str(self.run_dir))}; give one of them"
            )
        if self.resume == "":
            raise SettingsError("--resume is empty; expected the folder of the run to continue")
        if self.resume is True and self.run_dir is None:
            raise SettingsError("--resume needs the run folder to continue; give --run-dir DIR too, or --resume DIR")

    def _take_numbers(self) -> None:
        """Turn numpy's numbers and numbers and texts of a user's own class, such as an enumeration, into plain ones."""
        for name in FIELDS:
            value = getattr(self, name)
            for plain in (str, int, float):
                if isinstance(value, plain) and type(value) not in (plain, bool):
                    object.__setattr__(self, name, _PLAIN[plain](value))
        numpy = sys.modules.get("numpy")
        if numpy is None:
            return  # nobody has imported numpy, so no value is one of its numbers
        for name in FIELDS:
            if isinstance(getattr(self, name), numpy.generic):
                object.__setattr__(self, name, getattr(self, name).item())

    def _check_kinds(self) -> None:
        """Raise SettingsError for a value of another type than its setting has, before anything is done with it."""
        for name, field in FIELDS.items():
            value, kinds = getattr(self, name), str(field.type).split(" | ")
            if name in _OF_ANY_KIND or any(isinstance(value, _KINDS[kind]) for kind in kinds):
                continue
            if callable(value) and name in _FORMULAS:
                raise SettingsError(
                    f"{flag_of(name)} is a function, which other processes cannot have; expected {_FORMULAS[name]}"
                )
            expected = " or ".join(_KIND_NAMES[kind] for kind in kinds if kind in _KIND_NAMES)
            raise SettingsError(f"{flag_of(name)} is {shown(value)}; expected {expected}")

    def _check_machines(self) -> None:
        """Raise SettingsError if the settings for many machines do not fit together."""
        from adam_mp.transport.messages import ENCODINGS

        if self.wire not in ENCODINGS:
            raise SettingsError(f"--wire is {shown(self.wire)}; expected one of {', '.join(ENCODINGS)}")
        if self.commit != FIELDS["commit"].default:
            from adam_mp.params.run.bucket_map import COMMITS

            if self.commit not in COMMITS:
                raise SettingsError(f"--commit is {shown(self.commit)}; expected {' or '.join(COMMITS)}")
        for name, least in (("servers", self.servers), ("replicas", self.replicas), ("copies", self.copies)):
            if least is not None and least > _MOST_PARTS:
                raise SettingsError(f"{flag_of(name)} is {shown(least)}; expected at most {_MOST_PARTS}")
        if self.replicas > 1 and self.servers is None:
            raise SettingsError("--replicas needs parameter servers between them; give --servers N too")
        if self.copies > 1 and self.servers is None:
            raise SettingsError(
                "--copies is for the parameter servers that --servers starts; give --servers N too, or --copies "
                "to each adam-mp serve-params"
            )
        if self.commit != FIELDS["commit"].default and self.copies == 1:
            raise SettingsError("--commit is for runs with copies; give --copies N too")
        if self.servers is None and self.join is None:
            for name in OF_MANY:
                if getattr(self, name) != FIELDS[name].default:
                    raise SettingsError(
                        f"{flag_of(name)} is for runs of many machines; give --servers N or --join HOST:PORT too"
                    )
        if self.servers is not None and self.join is not None:
            raise SettingsError("--servers starts parameter servers, --join uses those of others; give one of them")
        if self.join is not None:
            parse_place(self.join, "--join")
        for address in (self.data_from or "").split(",") if self.data_from is not None else ():
            parse_place(address, "--data-from")

    def _check_together(self) -> None:
        """Raise SettingsError if the workers cannot keep together as asked."""
        consistency = parse_consistency(self.consistency)
        if self.on_failure not in ("restart", "continue", "stop"):
            raise SettingsError(f"--on-failure is {shown(self.on_failure)}; expected restart, continue or stop")
        if consistency.in_steps and self.on_failure == "continue":
            raise SettingsError(
                f"--consistency {self.consistency} needs all its workers; give --on-failure restart or stop"
            )
        if consistency.in_steps and (self.join is not None or self.servers is not None):
            raise SettingsError(
                f"--consistency {self.consistency} is for the workers of one machine; replicas take async or ssp:K"
            )

    def alone(self) -> TrainSettings:
        """Return these settings without parameter servers and other replicas."""
        of_many: dict[str, Any] = {name: FIELDS[name].default for name in ("servers", "join", *OF_SERVERS, *OF_MANY)}
        return dataclasses.replace(self, **of_many)

    @property
    def folder(self) -> Path | None:
        """The run folder that the user named, None for a new one."""
        chosen = self.run_dir if isinstance(self.resume, bool) else self.resume
        return None if chosen is None else Path(chosen)


def help_of(name: str) -> str:
    """Return the help of a setting; loads kernels if the text names them."""
    text: str | Callable[[], str] = FIELDS[name].metadata["help"]
    return text if isinstance(text, str) else text()


def parse_cache(text: Any, free: int) -> int:
    """Return the bytes that "2GB", "500 MB", "60%" (of `free` bytes) or a plain number mean; raises SettingsError."""
    number = isinstance(text, (int, float)) and not isinstance(text, bool) and 0 <= text < _LARGEST
    match = _SIZE.fullmatch(str(text).strip()) if number or isinstance(text, str) else None
    if match is None:
        raise SettingsError(f"--cache is {shown(text)}; expected a size such as 2GB or 500MB, or a share such as 60%")
    amount, unit = float(match[1]), match[2].upper().removesuffix("B")
    if unit == "%":
        if amount > _MOST_PERCENT:
            raise SettingsError(f"--cache is {shown(text)}; expected at most {_MOST_PERCENT}% of what is free")
        return int(free * amount / 100)
    return int(amount * _UNITS[unit])


# Text and numbers without their class: processes cannot have classes that a user's script defines.
_PLAIN: Mapping[type, Callable[[Any], Any]] = {str: str.__str__, int: int.__int__, float: float.__float__}

FIELDS = {field.name: field for field in dataclasses.fields(TrainSettings)}


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


def read_settings_file(path: Path) -> dict[str, Any]:
    """Read a TOML file of settings; keys are those of `TrainSettings`, with - or _ between words."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read settings file {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {path} is not TOML: {error}") from None
    values = {
        key.replace("-", "_"): as_name(value) if isinstance(value, str) else value for key, value in table.items()
    }
    for name in values:
        if name not in FIELDS:
            raise SettingsError(f"settings file {path}: {unknown('key', name, FIELDS)}")
    return values


def _whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SettingsError(f"{flag_of(name)} is {shown(value)}; expected a whole number of at least {least}")
    if value > _LARGEST:
        raise SettingsError(f"{flag_of(name)} is {shown(value)}; expected at most {_LARGEST}")


def _number(
    name: str, value: Any, low: float, high: float, lower_excluded: bool = False, upper_excluded: bool = False
) -> None:
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
    if not fits or (lower_excluded and value == low) or (upper_excluded and value == high):
        start = "more than" if lower_excluded else "from"
        end = "less than" if upper_excluded else "up to"
        raise SettingsError(f"{flag_of(name)} is {shown(value)}; expected a number {start} {low:g} and {end} {high:g}")

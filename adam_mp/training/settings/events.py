"""The events of a run: plain frozen records that the supervisor hands to any number of listeners.

The supervisor calls each listener between its other duties, so a listener must return quickly. Training does not know
how its events are shown.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adam_mp.errors import spoken

if TYPE_CHECKING:  # listeners read the records without importing these
    from adam_mp.compute.choice import KernelChoices
    from adam_mp.network.network import Network
    from adam_mp.params.replica.protocols import LayerProtocol
    from adam_mp.training.settings.settings import TrainSettings


@dataclasses.dataclass(frozen=True)
class DataUnderstood:
    """What was understood of the data, known before anything is trained.

    `parts` has the number of images of "train", "validation" and "test"; `places` the folder or files of each
    part, where it has its own; `held_out` says that the validation images are some of the training images.
    `class_counts` has for each part the images of each class, in the order of `class_names`, which are numbers where
    classes have no names. `left_out` are reasons with counts and remedies, the most frequent first; `notes` lines that
    the user must see.
    """

    name: str
    layout: str
    parts: dict[str, int]
    places: dict[str, str]
    held_out: bool
    class_names: tuple[str, ...]
    class_counts: dict[str, tuple[int, ...]]
    pixels: str
    left_out: tuple[str, ...]
    files_left_out: int
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the record as a dictionary of plain values."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class RunPlanned:
    """What will run, known before any process starts. Memory in bytes."""

    settings: TrainSettings
    network: Network
    data_name: str
    image_type: str
    train_images: int
    validation_images: int
    test_images: int
    augmentation: str
    cores: int
    usable_cores: int
    workers: int
    data_servers: int
    shared_bytes: int
    cache_bytes: int
    worker_bytes: int
    kernels: KernelChoices
    folder: Path
    first_epoch: int
    protocols: tuple[LayerProtocol, ...] = ()


@dataclasses.dataclass(frozen=True)
class KernelCompiled:
    """Kernel number `done` of `total` is about to be compiled; when done == total, all are compiled."""

    done: int
    total: int


@dataclasses.dataclass(frozen=True)
class DataSurveyed:
    """The survey has read `done` of the `total` images that it looks at."""

    done: int
    total: int


@dataclasses.dataclass(frozen=True)
class EpochProgress:
    """How far the current epoch is: `done` of `images` by all machines, after `seconds` of training here.

    `epoch` counts from 1. Rates are those of all machines, `loss` and `wait_fraction` (of all waits together) this
    machine's. Rates and `wait_fraction` are over the last ten seconds, or over five updates if those take longer;
    `loss` is the mean over the epoch so far. `seconds_left` is None if no image was done in that time.
    """

    epoch: int
    epochs: int
    done: int
    images: int
    seconds: float
    images_per_second: float
    connections_per_second: float
    loss: float
    wait_fraction: float
    seconds_left: float | None


@dataclasses.dataclass(frozen=True)
class EpochEnded:
    """The figures of a finished epoch; `as_dict` is one object of metrics.jsonl.

    `epoch` counts from 1. `updates` counts all updates of the run so far, `lr` is the learning rate at that point.
    Images trained, skipped and failed, the two rates and `updates` are those of all machines of the run; all other
    figures are this machine's.
    """

    epoch: int
    seconds: float
    images_trained: int
    images_skipped: int
    images_failed: int
    images_decoded: int
    cache_hits: int
    loss: float
    validation_loss: float | None
    validation_accuracy: float | None
    lr: float
    images_per_second: float
    connections_per_second: float
    data_wait_fraction: float
    staleness_mean: float
    updates: int
    validation_seconds: float
    staleness: dict[str, int] = dataclasses.field(default_factory=dict)  # label of a column -> updates
    leases_wait_fraction: float = 0.0
    exchange_wait_fraction: float = 0.0
    others_wait_fraction: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the record as a dictionary of plain values."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Notice:
    """One line that the user should see: a warning, a process that died, a checkpoint that failed.

    `details` may hold more lines, such as what a process printed before it died, which are kept for a look later;
    `below` lines to show at once below the text, such as stacks.
    """

    text: str
    details: str = ""
    below: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", spoken(self.text))


@dataclasses.dataclass(frozen=True)
class RunEnded:
    """The run is over; `summary` is its TrainResult, with the figures of the whole run."""

    summary: Any


Event = DataUnderstood | RunPlanned | KernelCompiled | DataSurveyed | EpochProgress | EpochEnded | Notice | RunEnded
Listener = Callable[[Any], None]


def notices_to(listener: Listener) -> Callable[..., None]:
    """Return a function of (text, details="", below="") that hands the listener a Notice."""
    return lambda text, details="", below="": listener(Notice(text, details, below))

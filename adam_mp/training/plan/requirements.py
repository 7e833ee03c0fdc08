"""What settings, network and data must be for a run to begin: checked before anything that takes time."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Collection

from adam_mp.compute.optimizer import CONSTANTS, Optimizer
from adam_mp.errors import SettingsError, SpaceError
from adam_mp.memory.segment import check_space
from adam_mp.memory.store import store_spaces
from adam_mp.network.network import Network
from adam_mp.network.partition import PartitionPlan
from adam_mp.params.replica.protocols import choose_protocols
from adam_mp.training.plan.fitting import fitting_advice
from adam_mp.training.plan.quorum import quorum_batches
from adam_mp.training.plan.run_plan import state_names
from adam_mp.training.settings.consistency import parse_consistency
from adam_mp.training.settings.schedule import Schedule
from adam_mp.training.settings.settings import TrainSettings
from adam_mp.transport.addresses import Address, check_listening
from adam_mp.transport.keys import read_keys
from adam_mp.transport.places import parse_place, way_to_dial

_BATCH_LIMIT = 1 << 20
_STORES_FREE = 5  # times weights and optimizer state that the survey leaves free: the store, its copies, gradients


def check_before_reading(settings: TrainSettings) -> None:
    """Raise SettingsError for settings that are wrong whatever the data hold."""
    for text in (settings.join, *(settings.data_from or "").split(",")):
        if text:
            way_to_dial(parse_place(text, "the address"), settings.key_file is not None).close()
    if settings.listen is not None:
        _check_listening(settings)
    if isinstance(settings.data, str) and not settings.data:
        raise SettingsError("--data is empty; expected a folder, or 'mnist'")
    if settings.batch_size > _BATCH_LIMIT:
        raise SettingsError(f"--batch-size is {settings.batch_size}; expected at most {_BATCH_LIMIT}")


def _check_listening(settings: TrainSettings) -> None:
    """Raise SettingsError unless partitions on other machines could find this one where it listens."""
    place = parse_place(settings.listen or "", "--listen")
    if not isinstance(place, Address):
        return
    check_listening(place, settings.key_file is not None)
    numbers = place.known_numbers()
    if any(ipaddress.ip_address(number).is_unspecified for number in numbers):
        raise SettingsError(f"--listen is {place}, by which nobody finds it; give the address that other machines use")


def check_keys(settings: TrainSettings) -> None:
    """Raise SettingsError for a key file that cannot be read, or that nobody would use."""
    if settings.key_file is not None and not _meets_others(settings):
        raise SettingsError(
            "--key-file is for runs of many machines; give --servers N, --join HOST:PORT, --listen HOST:PORT or "
            "--data-from HOST:PORT too"
        )
    read_keys(settings.key_file)


def _meets_others(settings: TrainSettings) -> bool:
    return any((settings.join, settings.data_from, settings.servers, settings.listen))


def unused_numbers(explicit: Collection[str], settings: TrainSettings, optimizer: Optimizer) -> list[str]:
    """Return which of the settings that the user gave the optimizer has no use for."""
    unused = [name for name in CONSTANTS if name in explicit and name not in optimizer.numbers]
    decays_none = optimizer.statements and settings.decay_all and "decay_all" in explicit
    return [*unused, "decay_all"] if decays_none else unused


def _most_spaces(settings: TrainSettings, optimizer: Optimizer, cores: int) -> int:
    """Return how many flat spaces the store has at most: with a worker, or a partition, on each core."""
    in_steps = parse_consistency(settings.consistency).in_steps
    owners = 1 if in_steps or settings.partition is not None else max(1, cores // settings.partitions)
    return store_spaces(state_names(settings, optimizer), optimizer.own_states, owners)


def spaces_left_free(settings: TrainSettings, optimizer: Optimizer, cores: int) -> int:
    """Return how many flat spaces the survey's cache leaves free: what a checkpoint has some times, and the rest."""
    in_checkpoint = 1 + len(state_names(settings, optimizer))
    return _STORES_FREE * in_checkpoint + _most_spaces(settings, optimizer, cores) - in_checkpoint


def _largest_part(partitions: PartitionPlan) -> int:
    """Return the parameters that a machine has of a model that is cut over machines, at most."""
    return max(graph.parameter_count for graph in partitions.graphs)


def check_network(
    settings: TrainSettings, network: Network, optimizer: Optimizer, images: int, cores: int,
    partitions: PartitionPlan | None = None,
) -> None:  # fmt: skip
    """Raise SpaceError for a network that is too large, SettingsError for one that the protocol does not fit.

    `partitions` are those of a model that is cut over machines, None if all of it is on this machine.

    Called before any weights are made.
    """
    weights = 4 * (network.parameter_count if partitions is None else _largest_part(partitions))
    # This process measures the costs of a step on weights of its own. `memory_need` counts the whole run later.
    need = {"weights and optimizer state": weights * _most_spaces(settings, optimizer, cores)}
    if partitions is None:  # of a partition, the time is only estimated where they do not fit
        need["weights to measure with"] = 2 * weights
    try:
        check_space(sum(need.values()), f"network {network.name!r}", None, need)
    except SpaceError as error:
        direct = optimizer.is_plain_descent and not settings.clip_norm
        advice = fitting_advice(network, len(optimizer.states), direct) if settings.partition is None else ""
        raise SpaceError(f"{error}{advice}") from None
    choose_protocols(network, 1, 1, settings.protocol, optimizer.is_plain_descent)  # only for its SettingsError
    for node, shape in zip(network.nodes, network.input_shapes, strict=True):
        if node.layer.statistics(shape) and settings.batch_size < 2:
            raise SettingsError(
                f"{node.name} takes mean and variance of a batch, but --batch-size is {settings.batch_size}; give at "
                "least 2, better 16"
            )
        if node.layer.statistics(shape) and math.prod(shape[:-1]) == 1 and images % settings.batch_size == 1:
            raise SettingsError(
                f"{node.name} takes mean and variance of a batch, but the last batch of an epoch has one image: there "
                f"are {images:,} to train on, and --batch-size is {settings.batch_size}; give another size"
            )


def check_rate(settings: TrainSettings, images: int) -> None:
    """Raise SettingsError for a bad learning rate before kernels are compiled, which takes a minute on a new machine.

    With sync and deterministic, the number of updates in an epoch depends on the number of workers. A rate that changes
    within an epoch is then checked only later, by `schedule_of`, once that number is known.
    """
    assert settings.lr is not None, "the plan replaces None by the default"
    in_steps = parse_consistency(settings.consistency).in_steps
    if not (in_steps and Schedule(settings.lr, settings.epochs, 1).follows_steps):
        schedule_of(settings, images, 1)


def schedule_of(settings: TrainSettings, images: int, workers: int) -> Schedule:
    """Return the schedule of the learning rate for `images` training images an epoch. Raises SettingsError.

    With sync and deterministic, each update takes a batch of every worker, so an epoch has fewer updates.
    """
    assert settings.lr is not None, "the plan replaces None by the default"
    batches = math.ceil(images / settings.batch_size)
    if parse_consistency(settings.consistency).in_steps:
        batches = math.ceil(quorum_batches(settings.quorum, settings.batch_size, images) / workers)
    schedule = Schedule(settings.lr, settings.epochs, batches)
    schedule.check()
    return schedule

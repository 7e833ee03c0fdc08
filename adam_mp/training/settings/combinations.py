"""Which settings fit together, beyond what each of them may be alone. Here `settings` are `TrainSettings`."""

from __future__ import annotations

import re
from typing import Any

from adam_mp.errors import SettingsError, flag_of, shown
from adam_mp.training.settings.consistency import parse_consistency
from adam_mp.transport.places import parse_place

OF_MANY = ("wire", "protocol", "exchange_images")  # settings that have a meaning only with `servers` or `join`
OF_SERVERS = ("replicas", "copies", "commit")  # settings that have a meaning only with `servers`
OF_PARTITIONS = ("cut", "in_flight")  # settings that have a meaning only with `partitions`
_MOST_PARTS = 64
_PARTITION = re.compile(r"([0-9]{1,4})/([0-9]{1,4})", re.ASCII)


def parse_partition(text: str) -> tuple[int, int]:
    """Return (number from 1, how many) of a partition written as K/P; raises SettingsError."""
    match = _PARTITION.fullmatch(text.strip())
    if match is None or not 2 <= int(match[2]) <= _MOST_PARTS or not 1 <= int(match[1]) <= int(match[2]):
        raise SettingsError(
            f"--partition is {shown(text)}; expected K/P such as 2/4: partition K, counted from 1, of P, 2 to "
            f"{_MOST_PARTS}"
        )
    return int(match[1]), int(match[2])


def settle_partition(settings: Any) -> None:
    """Let --partition 1/P set --partitions P. Raises SettingsError if they differ."""
    if settings.partition is None:
        return
    _, parts = parse_partition(settings.partition)
    if settings.partitions not in (1, parts):
        raise SettingsError(
            f"--partition is {settings.partition} and --partitions {settings.partitions}; give --partition alone, for "
            "a partition a machine, or --partitions alone, for all of them here"
        )
    object.__setattr__(settings, "partitions", parts)


def check_combinations(settings: Any) -> None:
    """Raise SettingsError if settings do not fit together."""
    _check_machines(settings)
    _check_workers(settings)
    _check_partitions(settings)
    _check_apart(settings)
    _check_folders(settings)
    if settings.target_accuracy is not None and settings.validation == 0:
        raise SettingsError("--target-accuracy needs validation images; give --validation more than 0")


def _default(settings: Any, name: str) -> Any:
    return getattr(type(settings), name)


def _check_machines(settings: Any) -> None:
    """Raise SettingsError if the settings for many machines do not fit together."""
    from adam_mp.transport.messages import ENCODINGS

    if settings.wire not in ENCODINGS:
        raise SettingsError(f"--wire is {shown(settings.wire)}; expected one of {', '.join(ENCODINGS)}")
    if settings.commit != _default(settings, "commit"):
        from adam_mp.params.run.bucket_map import COMMITS

        if settings.commit not in COMMITS:
            raise SettingsError(f"--commit is {shown(settings.commit)}; expected {' or '.join(COMMITS)}")
    for name, least in (("servers", settings.servers), ("replicas", settings.replicas), ("copies", settings.copies)):
        if least is not None and least > _MOST_PARTS:
            raise SettingsError(f"{flag_of(name)} is {shown(least)}; expected at most {_MOST_PARTS}")
    if settings.replicas > 1 and settings.servers is None:
        raise SettingsError("--replicas needs parameter servers between them; give --servers N too")
    if settings.copies > 1 and settings.servers is None:
        raise SettingsError(
            "--copies is for the parameter servers that --servers starts; give --servers N too, or --copies "
            "to each adam-mp serve-params"
        )
    if settings.commit != _default(settings, "commit") and settings.copies == 1:
        raise SettingsError("--commit is for runs with copies; give --copies N too")
    if settings.servers is None and settings.join is None:
        for name in OF_MANY:
            if getattr(settings, name) != _default(settings, name):
                raise SettingsError(
                    f"{flag_of(name)} is for runs of many machines; give --servers N or --join HOST:PORT too"
                )
    if settings.servers is not None and settings.join is not None:
        raise SettingsError("--servers starts parameter servers, --join uses those of others; give one of them")
    if settings.join is not None:
        parse_place(settings.join, "--join")
    for address in (settings.data_from or "").split(",") if settings.data_from is not None else ():
        parse_place(address, "--data-from")


def _check_workers(settings: Any) -> None:
    """Raise SettingsError if the workers cannot keep together as asked."""
    consistency = parse_consistency(settings.consistency)
    if settings.on_failure not in ("restart", "continue", "stop"):
        raise SettingsError(f"--on-failure is {shown(settings.on_failure)}; expected restart, continue or stop")
    if consistency.in_steps and settings.on_failure == "continue":
        raise SettingsError(
            f"--consistency {settings.consistency} needs all its workers; give --on-failure restart or stop"
        )
    if consistency.in_steps and (settings.join is not None or settings.servers is not None):
        raise SettingsError(
            f"--consistency {settings.consistency} is for the workers of one machine; replicas take async or ssp:K"
        )


def _check_partitions(settings: Any) -> None:
    """Raise SettingsError if a model that is cut cannot be trained as asked."""
    if settings.partitions == 1:
        for name in OF_PARTITIONS:
            if getattr(settings, name) != _default(settings, name):
                raise SettingsError(f"{flag_of(name)} is for a model that is cut; give --partitions P too")
        return
    if settings.consistency != "async":
        raise SettingsError(
            f"--consistency is {settings.consistency} with --partitions {settings.partitions}; the partitions of a "
            "group always train each batch together, and groups keep together as async: leave --consistency out"
        )
    if settings.on_failure == "continue":
        raise SettingsError("--on-failure is continue, but a group needs all its partitions; give restart or stop")
    if settings.protocol == "activations":
        raise SettingsError("--protocol is activations, which partitions do not send; give auto or deltas")


def _check_apart(settings: Any) -> None:
    """Raise SettingsError if a model cannot be cut over machines as asked."""
    if settings.partition is None:
        if settings.listen is not None:
            raise SettingsError(
                "--listen is for partition 1 of a model that is cut over machines; give --partition 1/P"
            )
        return
    number, parts = parse_partition(settings.partition)
    if number > 1:
        if settings.join is None:
            raise SettingsError(
                f"--partition {settings.partition} needs --join HOST:PORT, where partition 1/{parts} listens"
            )
        return
    if settings.listen is None:
        raise SettingsError(
            f"--partition 1/{parts} needs --listen HOST:PORT, where the other partitions find it; partitions on this "
            f"machine alone need --partitions {parts}"
        )
    parse_place(settings.listen, "--listen")
    if settings.servers is not None:
        raise SettingsError(
            f"--servers is given with --partition {settings.partition}; parameter servers of a model that is cut over "
            "machines are started by adam-mp serve-params: give --join HOST:PORT of the first"
        )


def _check_folders(settings: Any) -> None:
    """Raise SettingsError if it is not clear which run is to be continued."""
    for name, what in (("memory_dir", "a folder"), ("run_dir", "a folder"), ("key_file", "a file")):
        if getattr(settings, name) == "" or "\0" in str(getattr(settings, name)):
            raise SettingsError(f"{flag_of(name)} is {shown(getattr(settings, name))}; expected {what}")
    if not isinstance(settings.resume, bool) and settings.run_dir not in (None, settings.resume, str(settings.resume)):
        raise SettingsError(
            f"--resume says {shown(str(settings.resume))} and --run-dir {shown(str(settings.run_dir))}; give one of "
            "them"
        )
    if settings.resume == "":
        raise SettingsError("--resume is empty; expected the folder of the run to continue")
    if settings.resume is True and settings.run_dir is None:
        raise SettingsError("--resume needs the run folder to continue; give --run-dir DIR too, or --resume DIR")

"""`adam-mp serve-data`: a data server for machines that train elsewhere."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from adam_mp.cli.options import Parser, add_common, add_settings, given_settings, parse
from adam_mp.compute.tensor_file import write_file
from adam_mp.data.normalization import Normalization
from adam_mp.data.serving.makers import Makers
from adam_mp.data.serving.picture_maker import Served
from adam_mp.data.serving.picture_service import PictureServer, PictureService, ServingStatistics
from adam_mp.errors import SettingsError, several
from adam_mp.kernels.compilation import cache_trouble, compile_kernels
from adam_mp.machine import usable_cores
from adam_mp.memory.cache import LEFT_FREE, ImageCache
from adam_mp.memory.ring import RingShape
from adam_mp.memory.run_memory import RunMemory, RunShape
from adam_mp.memory.segment import check_space, megabytes
from adam_mp.process.forking import fork_server
from adam_mp.process.interruption import Interruption
from adam_mp.process.output import one_line, standard_error, standard_output
from adam_mp.process.stacks import all_stacks
from adam_mp.report.progress import ProgressDisplay
from adam_mp.training.data.data_plan import DataPlan, load_dataset, plan_data, settle_validation, tell_notes
from adam_mp.training.preloading import OF_A_DATA_SERVER
from adam_mp.training.settings.events import KernelCompiled, Listener, Notice
from adam_mp.training.settings.settings import TrainSettings, make_settings
from adam_mp.transport.addresses import Address, open_notice
from adam_mp.transport.keys import read_keys
from adam_mp.transport.places import parse_place, way_to_listen
from adam_mp.transport.zeromq import SocketListener

_SETTINGS = (
    "data",
    "image_size",
    "validation",
    "follow_links",
    "pixel_limit",
    "ignore_orientation",
    "white",
    "cache",
    "memory_dir",
    "seed",
    "restarts",
)
_LOOKED_AT = {  # replicas ask for samples by number, so here these settings decide only which images are surveyed
    "validation": "share of the training images that are left out when images are looked at before serving, to see how "
    "large they are; give that of the run, so that those it trains on are looked at; pictures are the same with any",
    "seed": "which images those are; give that of the run for the same reason",
}


def run(arguments: Sequence[str]) -> int:
    """Make pictures for machines that train, until a signal that ends processes, which ends it in order at any time."""
    parser = Parser(
        prog="adam-mp serve-data",
        description="Decode, augment and normalise images for machines that train on the same data set.",
    )
    add_settings(parser, _SETTINGS, _LOOKED_AT)
    _add_serving(parser.add_argument_group("how to serve"))
    add_common(parser)
    values = parse(parser, arguments)
    if values.listen is None:
        raise SettingsError("--listen is missing; expected HOST:PORT, such as --listen 10.0.0.5:7700")
    address = parse_place(values.listen, "--listen", 0)
    keys = read_keys(values.key_file)
    way_to_listen(address, keys is not None).close()  # a wrong address raises now, not after the data are read
    given = {name: value for name, value in given_settings(values).items() if name != "listen"}  # where this listens
    settings = make_settings(given)
    count, tell = settings.cores or usable_cores(), ProgressDisplay(standard_output(), standard_error())
    with contextlib.ExitStack() as held:
        held.enter_context(fork_server(OF_A_DATA_SERVER))
        try:
            data = _load(settings, given, count, tell)
            memory, served, cache = held.enter_context(_served(data, settings, count))
            listener = SocketListener(address, keys)
            held.callback(listener.close)
        except KeyboardInterrupt:
            standard_output().say(f"stopped before {one_line(settings.data)} was served")
            return 0
        interruption = held.enter_context(Interruption())
        held.enter_context(interruption.note_asking())
        folder = _memory_folder(settings)
        makers = Makers(
            count, served, memory, data.dataset.place, lambda text: tell(Notice(text)), settings.restarts, folder,
            cache=cache,
        )  # fmt: skip
        held.enter_context(makers)
        server = PictureServer(PictureService(data.dataset), listener, makers)
        makers.wait_ready(lambda: interruption.requested is not None)
        _announce(data, str(listener.address), count, values.address_file)
        if keys is None and isinstance(listener.address, Address):
            standard_output().say(open_notice(listener.address, "have its pictures"))
        server.run(lambda: _asked_to_stop(interruption, makers, tell))
    standard_output().say(_summary(server.statistics()))
    return 0


def _asked_to_stop(interruption: Interruption, makers: Makers, tell: Listener) -> bool:
    """Show what the processes are doing if SIGUSR1 has asked; return whether to stop."""
    if interruption.asked:
        interruption.asked = False
        tell(Notice("asked by SIGUSR1 what the processes are doing", below=all_stacks(makers.children, {})))
    return interruption.requested is not None


def _add_serving(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--listen", metavar="HOST:PORT",
        help="where to listen; port 0 lets the system choose one; or unix:FILE, for your processes on this machine",
    )  # fmt: skip
    group.add_argument(
        "--cores", metavar="N", type=int, default=argparse.SUPPRESS,
        help="processes that make pictures; as many as there are usable cores by default",
    )  # fmt: skip
    group.add_argument("--key-file", metavar="FILE", help="the run's key file; without it only 127.0.0.1 may listen")
    group.add_argument("--address-file", metavar="FILE", help="write the server's address to this file once it serves")


def _load(settings: TrainSettings, given: Mapping[str, Any], processes: int, tell: Listener) -> DataPlan:
    """Load the data set and plan its cache. Mean 0 and deviation 1: each replica tells its own normalisation."""
    if (trouble := cache_trouble()) is not None:
        tell(Notice(trouble))
    compile_kernels("float32", lambda done, total: tell(KernelCompiled(done, total)))
    dataset = load_dataset(settings)
    tell_notes(dataset, tell)
    settings = settle_validation(settings, given, dataset, lambda text: tell(Notice(text)))
    channels = dataset.image_shape[2]
    plain = Normalization((0.0,) * channels, (1.0,) * channels, 0.0)
    return plan_data(dataset, settings, plain, processes, tell)


def _memory_folder(settings: TrainSettings) -> Path | None:
    return None if settings.memory_dir is None else Path(settings.memory_dir)


@contextlib.contextmanager
def _served(
    data: DataPlan, settings: TrainSettings, processes: int
) -> Iterator[tuple[RunMemory, Served, ImageCache | None]]:
    """Hold the data set in shared memory, with a cache if images must be decoded, while the context is open.

    Yields the memory, what the picture makers need to find the data set in it, and the cache.
    """
    folder, dataset = _memory_folder(settings), data.dataset
    shape = RunShape(processes, 0, 0, 0, 0, RingShape(1, 1, dataset.image_shape), data.fields)
    check_space(shape.offsets()[1], "the data set", folder)
    memory, cache = RunMemory.create(shape, folder), None
    try:
        data.fill(memory.arrays)
        if data.source is not None:
            cache = data.open_cache(memory.arrays["cache_places"], folder, LEFT_FREE)
        handle = None if cache is None else cache.handle
        yield memory, Served(dataset.name, dataset.image_shape, data.source, handle), cache
    finally:
        if cache is not None:
            cache.close()
        memory.close()


def _announce(data: DataPlan, address: str, processes: int, file: str | None) -> None:
    if file is not None:
        try:
            write_file(Path(file), f"{address}\n".encode())
        except OSError as error:
            raise SettingsError(f"cannot write {file}: {error.strerror}; name another --address-file") from None
    images = several(data.dataset.count, "image")
    standard_output().say(
        f"serving {one_line(data.dataset.name)}: {images} on {address}, {several(processes, 'picture maker')}"
    )


def _summary(done: ServingStatistics) -> str:
    return (
        f"served {several(done.pictures, 'picture')} in {several(done.requests, 'answer')}, {megabytes(done.bytes)}; "
        f"{several(done.sessions, 'session')}, {done.refused:,} refused, {done.dropped:,} dropped"
    )

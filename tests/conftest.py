from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import settings

import adam_mp
from adam_mp.compute import choice
from adam_mp.compute.choice import keep_choices, read_choices
from adam_mp.compute.measurement import measure_choices
from adam_mp.kernels.compilation import cache_folder, compile_kernels
from adam_mp.network.description import load_network
from adam_mp.process import forking
from adam_mp.training.preloading import OF_A_RUN

settings.register_profile("adam_mp", max_examples=40, deadline=None)
settings.register_profile("thorough", max_examples=1000, deadline=None)
settings.load_profile("adam_mp")


NETWORKS = (  # that many tests train: name, shape of images, classes, batch size
    ("mnist", (28, 28, 1), 10, 16), ("lenet", (28, 28, 1), 10, 16), ("mnist", (28, 28, 3), 3, 8),
    ("lenet", (32, 32, 3), 2, 8),
)  # fmt: skip


def pytest_sessionstart(session: pytest.Session) -> None:
    """Do once what each process that pytest-xdist will start would do for itself: compile kernels, choose between them.

    A run keeps the choices that it measured only if nothing disturbed it, and the tests disturb each other.

    Signals that a shell had these tests ignore (`nohup`, `&`) are not ignored by what they start: a program inherits an
    ignored signal, but not a handler.
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    if session.config.getoption("dist", "no") != "no" and not hasattr(session.config, "workerinput"):
        compile_kernels()
        for name, shape, classes, batch in NETWORKS:
            network = load_network(name, shape, classes)
            if read_choices(network, batch) is None:
                keep_choices(network, batch, measure_choices(network, batch))
                _measured.append(choice._key(network, batch))


def pytest_sessionfinish() -> None:
    """Forget the choices that `pytest_sessionstart` measured: other programs may have disturbed it."""
    if _measured and (folder := cache_folder()) is not None:
        known = choice._read_file(folder)
        left = {key: value for key, value in known.items() if key not in _measured}
        with contextlib.suppress(OSError):
            choice.write_file(folder / choice._FILE, (json.dumps(left, indent=1) + "\n").encode())


_measured: list[str] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put first what compiles kernels, which others need; then what waits, so that several run beside each other."""
    items.sort(key=lambda item: (item.get_closest_marker("compiles") is None, "system" not in item.path.parts))


LAYERS = (
    adam_mp.Conv(4, 3), adam_mp.MaxPool(2), adam_mp.ReLU(), adam_mp.Flatten(), adam_mp.Dense(), adam_mp.Softmax(),
)  # fmt: skip


def make_images(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Grey 12x12 images of three classes: a bright bar at one of three heights."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(3, size=count)
    images = generator.integers(0, 60, (count, 12, 12), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[4 * label : 4 * label + 2, 2:10] += 150
    return images, labels


def made_once(
    factory: pytest.TempPathFactory, worker_id: str, name: str, make: Callable[[Path], None]
) -> Path:  # fmt: skip
    """Return a folder that `make` has filled, for all processes that pytest-xdist has started."""
    base = factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / name
    with open(folder.with_name(f"{name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            half = folder.with_name(f"{name}.half")
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir()
            make(half)
            half.rename(folder)
    return folder


@pytest.fixture(scope="session")
def fork_server_of_tests() -> Iterator[forking.ForkServer]:
    with contextlib.closing(forking.ForkServer(OF_A_RUN)) as server:
        yield server


@contextlib.contextmanager
def forking_from(server: forking.ForkServer) -> Iterator[None]:
    token = forking._current.set(server)
    try:
        yield
    finally:
        forking._current.reset(token)


@pytest.fixture
def forks(fork_server_of_tests: forking.ForkServer) -> Iterator[None]:
    """Let runs in this process fork from one fork server, which has the environment and folder of the whole session."""
    with forking_from(fork_server_of_tests):
        yield


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory, fork_server_of_tests: forking.ForkServer
) -> adam_mp.TrainResult:  # fmt: skip
    """A tiny run that is over; its folder is `trained.run_dir`."""
    folder: Path = tmp_path_factory.mktemp("trained") / "run"
    data = (*make_images(400, 1), *make_images(100, 2))
    with forking_from(fork_server_of_tests):
        return adam_mp.train(list(LAYERS), data, cores=1, epochs=2, run_dir=str(folder), quiet=True)


@contextlib.contextmanager
def loaded_tool(name: str) -> Iterator[ModuleType]:
    """The script tools/NAME.py as a module."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[name]

"""The command line as a process of its own, or as a call in this one where nothing is done to that process.

A process may be asked of things while it goes; a launcher forks it, or it is a fresh interpreter. A call is quicker
still: its run forks from the fork server of the tests.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from adam_mp.cli.main import main
from adam_mp.data.reading.loading import load_data
from adam_mp.memory.segment import live_segments
from tests.conftest import made_once
from tests.system.launcher import Launched, Launcher

DEADLINE = 180.0  # seconds; much more than anything takes, even where ten other processes compute
TRAIN_IMAGES, TEST_IMAGES = 2000, 300


def wait_until(condition: Callable[[], Any], what: str, seconds: float = DEADLINE) -> Any:
    """Return the first true value of `condition`; fail, naming `what`, if there is none in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited {seconds:g} s in vain for {what}")


@dataclasses.dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def summary(self) -> dict[str, Any]:
        """The JSON object on the last line of standard output."""
        return json.loads(self.out.strip().splitlines()[-1])


class Command:
    """`python -m adam_mp ...` as a process of its own, forked by a launcher if one is given and may do that."""

    def __init__(self, folder: Path, *arguments: str, launcher: Launcher | None = None) -> None:
        self.out = open(folder / "out.txt", "w+b")  # noqa: SIM115, closed by close
        self.err = open(folder / "err.txt", "w+b")  # noqa: SIM115
        launched = None if launcher is None else launcher.start(arguments, folder, self.out, self.err)
        self.process: Launched | subprocess.Popen[bytes] = launched or subprocess.Popen(
            [sys.executable, "-m", "adam_mp", *arguments], stdout=self.out, stderr=self.err, cwd=folder
        )
        self.children: dict[int, str] = {}

    def see_children(self) -> dict[str, int]:
        """Return name -> process id of the run's processes that live now."""
        found = {}
        try:
            for child in psutil.Process(self.process.pid).children(recursive=True):
                command = child.cmdline()
                if command:  # a zombie has none
                    self.children[child.pid] = command[-1]
                    found[command[-1]] = child.pid
        except psutil.Error:
            pass  # it ended while we looked
        return found

    def wait_for_child(self, name: str) -> int:
        """Wait until the process `name` lives; return its id. Raises ProcessLookupError if the run ends before."""

        def look() -> int | None:
            found = self.see_children().get(name)
            if found is None and self.process.poll() is not None:
                raise ProcessLookupError(f"the run has ended without process {name}: {self.read(self.err)}")
            return found

        return wait_until(look, f"process {name}")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def finish(self, seconds: float = DEADLINE) -> Ended:
        """Wait for the end, and check that nothing of the run is left."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGKILL)
            raise AssertionError(f"the run did not end within {seconds:g} s: {self.read(self.err)}") from None
        self.check_nothing_left()
        return Ended(code, self.read(self.out), self.read(self.err))

    def read(self, file: Any) -> str:
        return os.pread(file.fileno(), 1 << 20, 0).decode()

    def check_nothing_left(self) -> None:
        def gone() -> bool:
            processes = [pid for pid in self.children if psutil.pid_exists(pid) and not _is_zombie(pid)]
            segments = [segment for segment in live_segments() if segment.owner == self.process.pid]
            return not processes and not segments

        wait_until(gone, "processes and segments of the run to go", 10)
        assert not [name for name in os.listdir("/dev/shm") if "adam" in name]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.out.close()
        self.err.close()


def _is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    with contextlib.closing(Launcher()) as launcher:
        yield launcher


@pytest.fixture
def start(tmp_path: Path, launcher: Launcher) -> Iterator[Callable[..., Command]]:
    """Start commands that are ended with the test; `fresh` ones as interpreters of their own."""
    commands: list[Command] = []

    def begin(*arguments: str, fresh: bool = False) -> Command:
        folder = tmp_path / f"command-{len(commands)}"
        folder.mkdir()
        commands.append(Command(folder, *arguments, launcher=None if fresh else launcher))
        return commands[-1]

    yield begin
    for command in commands:
        command.close()


@pytest.fixture
def here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], forks: None
) -> Callable[..., Ended]:
    """Run commands in this process, and check that nothing of them is left."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*arguments: str) -> Ended:
        capsys.readouterr()
        others = set(psutil.Process().children())
        code = main(arguments)
        told = capsys.readouterr()
        assert not set(psutil.Process().children()) - others
        segments = [segment for segment in live_segments() if segment.owner == os.getpid()]
        assert not [segment for segment in segments if segment.purpose in ("run", "store")]
        return Ended(code, told.out, told.err)

    return run


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder of IDX files with the first few MNIST digits."""
    return made_once(tmp_path_factory, worker_id, "digits", _write_digits)


def _write_digits(folder: Path) -> None:
    data = load_data()
    for part, count, samples in (("train", TRAIN_IMAGES, data.train), ("t10k", TEST_IMAGES, data.test)):
        assert samples is not None
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", samples.images[:count, :, :, 0])
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", samples.labels[:count].astype("u1"))


def write_idx(path: Path, array: Any) -> None:
    """Write a uint8 array as IDX, gzipped where the name says so."""
    header = bytes((0, 0, 8, array.ndim)) + b"".join(side.to_bytes(4, "big") for side in array.shape)
    content = header + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's metrics.jsonl."""
    path = folder / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1] if line]

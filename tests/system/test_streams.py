"""Text is not the work: no command and no run ends because of a stream, and none loses what it was to do.

Each command runs as a process with streams that lack letters, are full, closed, or pipes that nobody reads; all names
of files, classes, data and run folders have letters that are not ASCII. The library trains with streams of all kinds
that fail at the start, in an epoch, at its end and in the summary.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import adam_mp
from adam_mp import Dense, Flatten, ReLU, Softmax
from adam_mp.cli.main import COMMANDS
from adam_mp.report import progress
from adam_mp.report.metrics import read_metrics
from tests.conftest import made_once
from tests.system.conftest import wait_until

SMALL = ("--model", "lenet", "--image-size", "32", "--batch-size", "8", "--cores", "1")
ANSWERS = {  # name -> a command whose answer is its text
    "help": ("train", "--help"),
    "usage": (),
    "version": ("--version",),
    "check": ("train", "--data", "ünï", "--check"),
    "check as JSON": ("train", "--data", "ünï", "--check", "--json"),
    "train": ("train", "--data", "ünï", *SMALL, "--epochs", "1", "--run-dir", "läufe/{}-json", "--json"),
    "evaluate": ("evaluate", "läufe/first", "--data", "prüfung"),
    "predict": ("predict", "läufe/first", "ünï"),
    "predict as JSON": ("predict", "läufe/first", "ünï", "--json"),
    "inspect": ("inspect", "läufe/first", "--data", "ünï"),
    "bench": (
        "bench", "--data", "ünï", "--model", "lenet", "--batch-size", "4", "--workers", "1", "--seconds", "0.1",
        "--repeats", "1", "--png", "läufe/{}.png",
    ),
    "doctor": ("doctor",),
}  # fmt: skip
WORK = {  # name -> a command whose work is something else, and the file that it leaves
    "train": (
        ("train", "--data", "ünï", *SMALL, "--epochs", "1", "--run-dir", "läufe/{}"),
        "läufe/{}/model.safetensors",
    ),
    "resume": (("train", "--resume", "läufe/{}-r", "--epochs", "2"), "läufe/{}-r/checkpoint-0000000002.safetensors"),
    "servers": (
        (
            "train", "--data", "ünï", *SMALL, "--epochs", "1", "--run-dir", "läufe/{}-s", "--servers", "1",
            "--replicas", "2",
        ),
        "läufe/{}-s/model.safetensors",
    ),
    "keygen": (("keygen", "schlüssel-{}"), "schlüssel-{}"),
    "show-data": (("show-data", "--data", "ünï", "--image-size", "32", "--output", "bögen-{}.png"), "bögen-{}.png"),
}  # fmt: skip
SERVING = {  # name -> (command that serves until a signal, its exit code then)
    "serve-params": (("serve-params", "--listen", "127.0.0.1:0", "--address-file", "ädresse-p-{}"), 143),
    "serve-data": (
        ("serve-data", "--data", "ünï", "--image-size", "32", "--cores", "1", "--listen", "127.0.0.1:0",
         "--address-file", "ädresse-d-{}"),
        0,
    ),
}  # fmt: skip
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
FEW = ("predict", "help", "train")  # whose answers are lost in every way; of the others those to a full disk
LONG = [("bench", "ascii"), ("train", "gone"), ("train", "closed")]


@pytest.fixture(scope="session")
def place(tmp_path_factory, worker_id):
    """A folder with data `ünï` of classes čert and 日本, and a model of them in läufe/first."""
    return made_once(tmp_path_factory, worker_id, "orte-ü", make_place)


def make_place(folder):
    for k, name in enumerate(("čert", "日本")):
        for part, count in (("ünï", 30), ("prüfung/test", 10)):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.random.default_rng([k, i]).integers(0, 60, (40, 40)) + 150 * k
                Image.fromarray(pixels.astype(np.uint8)).save(folder / part / name / f"{i:02d}é.png")
    command = [sys.executable, "-m", "adam_mp", *WORK["train"][0], "--quiet"]
    subprocess.run([each.format("first") for each in command], cwd=folder, check=True, timeout=300)


@contextlib.contextmanager
def stream(kind):
    """A file for standard output of this kind, the environment, and what the shell is to do with its descriptors."""
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    if kind in ("ascii", "latin-1"):
        environment.update(ASCII if kind == "ascii" else {"PYTHONIOENCODING": "latin-1"})
        yield subprocess.PIPE, environment
    elif kind == "full":
        with open("/dev/full", "wb") as file:
            yield file, environment
    elif kind == "gone":
        reading, writing = os.pipe()
        os.close(reading)
        try:
            yield writing, environment
        finally:
            os.close(writing)
    else:
        yield None, environment


def start(kind, arguments, folder, out, environment, err=subprocess.PIPE):
    command = [sys.executable, "-m", "adam_mp", *(each.format(kind) for each in arguments)]
    if kind == "closed":
        command = ["sh", "-c", 'exec "$@" >&-' + (" 2>&-" if err is None else ""), "sh", *command]
    return Killed(command, cwd=folder, env=environment, stdout=out, stderr=err)


class Killed(subprocess.Popen):
    """A process that is killed if the test fails while it runs."""

    def __exit__(self, kind, *details):
        if kind is not None:
            self.kill()
        super().__exit__(kind, *details)


def run(kind, arguments, folder, both=False):
    """Run a command with standard output of this kind, and with `both` also standard error; return code and texts."""
    with stream(kind) as (out, environment):
        bad_too = out if both and out != subprocess.PIPE else subprocess.PIPE
        with start(kind, arguments, folder, out, environment, bad_too) as process:
            said, told = process.communicate(timeout=300)
    assert process.returncode is not None
    return process.returncode, (said or b"").decode("latin-1"), (told or b"").decode("latin-1")


def test_every_command_is_tried():
    tried = {arguments[0] for arguments in ANSWERS.values() if arguments}
    tried |= {arguments[0] for arguments, _ in (*WORK.values(), *SERVING.values())}
    assert tried - {"--version"} == set(COMMANDS) - {"status"}  # which is tried with the parameter server


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in ANSWERS for kind in ("ascii", "full") if (name, kind) not in LONG]
    + [(name, kind) for name in FEW for kind in ("gone", "closed") if (name, kind) not in LONG]
    + [("predict", "latin-1"), *(pytest.param(*each, marks=pytest.mark.long) for each in LONG)],
)
def test_an_answer_is_given_or_told_to_be_lost(place, name, kind):
    code, out, err = run(kind, ANSWERS[name], place)
    assert "Traceback" not in err
    assert "internal error" not in err
    if kind in ("ascii", "latin-1"):
        assert code == 0, err
        assert out
        if "JSON" in name:
            assert [json.loads(line) for line in out.splitlines()]
        if name == "predict":
            assert out.count("\n") == 60
            assert "\\u010dert" in out
            assert ("\\xfcn\\xef" if kind == "ascii" else "ünï") in out
    elif kind == "gone":
        assert (code, "error" in err) == (141, False)
    else:
        reason = "No space left on device" if kind == "full" else "it is closed"
        assert code == 5
        assert f"adam_mp: error: the answer could not be written to standard output: {reason}\n" in err
    if name == "train":
        assert adam_mp.load(place / f"läufe/{kind}-json").class_names == ("čert", "日本")
    if name == "bench":
        assert (place / f"läufe/{kind}.png").exists()


@pytest.mark.long
@pytest.mark.parametrize("name", WORK)
@pytest.mark.parametrize(("kind", "both"), [("ascii", False), ("full", False), ("gone", True)])
def test_work_is_done_whatever_the_streams_take(place, name, kind, both):
    arguments, left = WORK[name]
    if name == "resume":
        shutil.copytree(place / "läufe/first", place / f"läufe/{kind}-r")
    code, _, err = run(kind, arguments, place, both)
    assert code == 0, err
    assert (place / left.format(kind)).exists()
    if kind == "full":
        assert err.count("adam_mp: cannot write to standard output: No space left on device; ") == 1


@pytest.mark.long
@pytest.mark.parametrize("kind", ["ascii", "full", "gone", "closed"])
@pytest.mark.parametrize("name", SERVING)
def test_servers_serve_whatever_the_streams_take(place, name, kind):
    arguments, expected = SERVING[name]
    address = place / arguments[-1].format(kind)  # of its own: tests of both servers run at once
    with stream(kind) as (out, environment), start(kind, arguments, place, out, environment, out) as process:
        wait_until(lambda: address.exists() or process.poll() is not None, "the server's address")
        assert process.poll() is None
        if name == "serve-params":
            code, _, err = run(kind, ("status", address.read_text().strip()), place)
            assert code == {"ascii": 0, "gone": 141}.get(kind, 5), err
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == expected


def test_an_answer_without_a_reader_ends_at_once_and_silently(place):
    command = f"{sys.executable} -m adam_mp predict läufe/first ünï ünï ünï | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=place, capture_output=True, text=True, timeout=60, check=False)
    lines = done.stdout.splitlines()
    assert (len(lines), lines[1], done.stderr) == (2, "141", "")


def test_a_run_that_a_signal_ends_has_the_code_of_the_signal_though_nobody_reads_its_answer(place):
    arguments = (*WORK["train"][0][:-4], "--epochs", "10000", "--run-dir", "läufe/lang", "--json")
    with stream("gone") as (out, environment), start("", arguments, place, out, environment) as process:
        wait_until(lambda: list((place / "läufe/lang").glob("checkpoint-*")), "a checkpoint")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 143
    assert adam_mp.load(place / "läufe/lang")


class Failing:
    """A stream with `write` alone that raises `error` once it has been given `word`."""

    def __init__(self, word, error):
        self.word, self.error, self.failed = word, error, 0

    def write(self, text):
        if self.failed or self.word in text:
            self.failed += 1
            raise self.error


class FailingTerminal(Failing):
    """The same as a terminal, which gets bars."""

    encoding = "ascii"

    def isatty(self):
        return True

    def flush(self):
        if self.failed:
            raise self.error


ERRORS = [
    BrokenPipeError(errno.EPIPE, "Broken pipe"), OSError(errno.EIO, "Input/output error"), ValueError("closed"),
    RuntimeError("the notebook is gone"),
]  # fmt: skip


def some_data():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 300)
    return (generator.random((300, 8)) + labels[:, None]).astype(np.float32), labels


def train(folder, **settings):
    layers = [Flatten(), Dense(16), ReLU(), Dense(), Softmax()]
    return adam_mp.train(layers, some_data(), cores=1, epochs=2, run_dir=folder, **settings)


@pytest.mark.parametrize(
    ("word", "kind", "error"),
    [
        (word, kind, ERRORS[(number + (kind is Failing)) % len(ERRORS)])
        for number, word in enumerate(("understood", "network", "epoch 1/2", "epoch 2/2", "done: "))
        for kind in (Failing, FailingTerminal)
    ],
)
def test_a_run_outlives_its_streams(word, kind, error, tmp_path, monkeypatch, forks):
    monkeypatch.setattr(progress, "_PLAIN_SECONDS", -1.0)
    stream = kind(word, error)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    result = train(tmp_path / "run")
    assert stream.failed
    assert result.images_trained == 570
    assert len(read_metrics(tmp_path / "run")) == 2
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left >= {"model.safetensors", "curves.png", "run.json"}


@pytest.mark.parametrize("replaced", ["tee", "none", "closed", "nothing"])
def test_the_library_needs_no_streams(replaced, tmp_path, monkeypatch, forks):
    closed = io.StringIO()
    closed.close()
    stream = {"tee": Failing("\0", ValueError()), "none": None, "closed": closed, "nothing": object()}[replaced]
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    assert train(tmp_path / "alone").images_trained == 570
    result = train(tmp_path / "servers", servers=1, replicas=2)
    assert result.images_trained == 570

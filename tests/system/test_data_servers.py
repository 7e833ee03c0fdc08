"""Data servers as real processes, and runs that have their pictures made there: whoever dies, no sample is lost."""

from __future__ import annotations

import os
import signal

import pytest

from tests.data.pictures_on_disk import write_folder
from tests.system.conftest import metrics, wait_until

SIZE = ("--image-size", "28")
DEADLY = b"a picture that breaks the decoder"
BREAKING = f"""
import os
import simplejpeg

is_jpeg = simplejpeg.is_jpeg


def is_jpeg_or_die(content):
    if content.endswith({DEADLY!r}):
        os.abort()
    return is_jpeg(content)


simplejpeg.is_jpeg = is_jpeg_or_die
"""


@pytest.fixture
def serve(start, tmp_path):
    """Start a data server, and wait until it serves; gives the command and its address."""

    def begin(*arguments, listen="127.0.0.1:0"):
        path = tmp_path / "address"
        path.unlink(missing_ok=True)
        command = start("serve-data", "--listen", listen, "--address-file", str(path), *arguments)

        def serves():
            assert command.process.poll() is None, command.read(command.err)
            return path.exists()

        wait_until(serves, "the data server", 120)
        return command, path.read_text().strip()

    return begin


def test_a_picture_that_breaks_the_decoder_is_left_out_and_the_server_goes_on(serve, start, tmp_path, monkeypatch):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(BREAKING)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}:{os.environ.get('PYTHONPATH', '')}")
    place = tmp_path / "pictures"
    bad = write_folder(place, 20)[30]
    bad.write_bytes(bad.read_bytes() + DEADLY)
    server, address = serve("--data", str(place), *SIZE, "--cores", "2")
    for number in range(2):
        run = start(
            "train", "--data", str(place), *SIZE, "--model", "mnist", "--batch-size", "8", "--lr", "0.02",
            "--epochs", "2", "--validation", "0", "--cores", "1", "--data-from", address, "--json",
            "--run-dir", str(tmp_path / f"run-{number}"),
        )  # fmt: skip
        ended = run.finish()
        assert ended.code == 0, ended.err
        assert [row["images_trained"] for row in metrics(tmp_path / f"run-{number}")] == [59] * 2
        assert ended.summary["bad_samples"] == 1
        named = (tmp_path / f"run-{number}" / "bad_samples.jsonl").read_text()
        assert str(bad) in named
        assert "CRASHED" in named
    server.signal(signal.SIGTERM)
    ended = server.finish()
    assert ended.code == 0, ended.err
    assert ended.err.count("was killed by SIGABRT; started again") == 2
    assert ended.err.count(f"{bad}: decoding it killed the process, twice; it is left out") == 1


@pytest.mark.parametrize("command", ["serve-data", "train"])
def test_a_command_that_is_stopped_while_it_looks_at_images_ends_in_order(start, tmp_path, monkeypatch, command):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(BREAKING.replace("os.abort()", "time.sleep(5)").replace(
        "import os", "import time"))  # fmt: skip
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    place = tmp_path / "pictures"
    for slow in write_folder(place, 20):
        slow.write_bytes(slow.read_bytes() + DEADLY)
    listen = ("--listen", "127.0.0.1:0") if command == "serve-data" else ("--model", "mlp")
    run = start(command, *listen, "--data", str(place), *SIZE, "--cores", "1")
    run.wait_for_child("surveyor 0")
    run.signal(signal.SIGTERM)
    ended = run.finish()
    if command == "serve-data":
        assert (ended.code, ended.out) == (0, f"stopped before {place} was served\n"), ended.err
    else:
        assert ended.code == 143
        assert ended.err.splitlines()[-1] == "adam_mp: stopped by SIGTERM"


@pytest.mark.parametrize("stopped", [False, True])
def test_picture_makers_end_with_a_killed_server(serve, small_data, stopped):
    server, _ = serve("--data", str(small_data), "--cores", "2")
    assert set(server.see_children()) == {"fork server", "picture maker 0", "picture maker 1"}
    if stopped:
        os.kill(server.wait_for_child("picture maker 0"), signal.SIGSTOP)
    server.signal(signal.SIGKILL)
    assert server.finish().code == -signal.SIGKILL


def test_a_server_whose_makers_die_again_and_again_ends(serve, small_data):
    server, _ = serve("--data", str(small_data), "--cores", "1", "--restarts", "1")
    first = server.wait_for_child("picture maker 0")
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: server.see_children().get("picture maker 0") not in (None, first), "a successor")
    os.kill(server.wait_for_child("picture maker 0"), signal.SIGKILL)
    ended = server.finish()
    assert ended.code == 1
    assert "no pictures can be made: picture maker 0 died 2 times in a row soon after its start" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.long
def test_a_run_whose_only_data_server_dies_makes_its_pictures_itself_until_it_is_back(
    serve, start, small_data, tmp_path
):
    arguments = ("train", "--data", str(small_data), "--cores", "1", "--lr", "0.02", "--consistency", "deterministic",
                 "--json")  # fmt: skip
    server, address = serve("--data", str(small_data), "--cores", "1")
    run = start(*arguments, "--epochs", "500", "--data-from", address, "--run-dir", str(tmp_path / "run"))

    def wait_for_epochs(count):
        done = len(metrics(tmp_path / "run"))
        wait_until(lambda: len(metrics(tmp_path / "run")) >= done + count, f"{count} epochs")

    wait_for_epochs(1)
    server.see_children()
    server.signal(signal.SIGKILL)
    assert server.finish().code == -signal.SIGKILL
    wait_until(lambda: "this machine makes the pictures until one answers" in run.read(run.err), "the notice")
    wait_for_epochs(2)
    server, _ = serve("--data", str(small_data), "--cores", "1", listen=address)
    wait_until(lambda: f"{address} answers and makes the pictures" in run.read(run.err), "the notice")
    wait_for_epochs(2)
    run.signal(signal.SIGTERM)
    ended = run.finish()
    assert ended.code == 143, ended.err
    assert ended.err.count("makes the pictures") == 2
    assert f"pictures are made by {address}" in ended.err + ended.out
    assert "started again" not in ended.err
    server.signal(signal.SIGTERM)
    assert "served 0 pictures" not in server.finish().out
    rows = metrics(tmp_path / "run")
    assert [row["images_trained"] for row in rows] == [1900] * len(rows)
    assert start(*arguments, "--epochs", str(len(rows)), "--run-dir", str(tmp_path / "whole")).finish(300).code == 0
    assert [row["loss"] for row in rows] == [row["loss"] for row in metrics(tmp_path / "whole")]

"""Parameter servers with copies as processes: one dies or stops, another takes its place, and nothing is lost."""

from __future__ import annotations

import os
import random
import re
import signal
import time

import pytest

from benchmarks.loaded_servers import Run
from tests.system.conftest import metrics, wait_until


@pytest.mark.parametrize(
    ("commit", "number"), [("copied", signal.SIGKILL), pytest.param("all", signal.SIGSTOP, marks=pytest.mark.long)]
)
def test_another_server_takes_the_place_of_one_and_no_update_is_lost(commit, number):
    with Run(commit) as run:
        place = run.victim(random.Random(1))
        run.signal(place, number)
        if number == signal.SIGKILL:
            run.servers.restart(place)
        else:
            time.sleep(1.0)
            run.servers.processes[place].send_signal(signal.SIGCONT)
        run.settle()
        assert run.audit() == 0
        said = (run.folder / "log-0").read_text()
    address = re.escape(run.servers.addresses[place])
    assert re.search(rf"is primary of \d bucket groups? \([\d, ]+\) now, 0\.\d\d s after {address} was", said)
    assert re.search(r" has a copy of \d bucket groups? .* now, in sync", said)


@pytest.mark.long
def test_a_server_that_stops_for_less_than_the_patience_is_not_replaced():
    with Run("copied") as run:
        place, before = run.victim(random.Random(1)), run.map()["epoch"]
        for _ in range(3):
            run.servers.processes[place].send_signal(signal.SIGSTOP)
            time.sleep(0.4)
            run.servers.processes[place].send_signal(signal.SIGCONT)
            time.sleep(0.5)
        assert run.map()["epoch"] == before
        assert run.audit() == 0


def test_train_tells_who_takes_the_place_of_a_server_that_it_has_started(start, small_data, tmp_path):
    folder = tmp_path / "run"
    run = start(
        "train", "--data", str(small_data), "--model", "lenet", "--cores", "1", "--epochs", "4", "--servers", "3",
        "--copies", "3", "--exchange-images", "64", "--json", "--run-dir", str(folder),
    )  # fmt: skip
    wait_until(lambda: run.process.poll() is not None or metrics(folder), "the first epoch")
    os.kill(run.wait_for_child("parameter server 1"), signal.SIGKILL)
    ended = run.finish()
    assert ended.code == 0, ended.err
    place = r"parameter server [02] is primary of \d bucket groups? \([\d, ]+\) now"
    assert re.search(rf"^adam_mp: {place}, \d\.\d\d s after parameter server 1 was last heard$", ended.err, re.M)
    assert "joined" not in ended.err

"""Machines of their own: the drill of tools/drill.py, in small, in network namespaces."""

from __future__ import annotations

import sys

import pytest

from tests.conftest import loaded_tool

EPOCHS = 4  # of all of MNIST, so that the run outlasts the faults


@pytest.fixture(scope="module")
def drill():
    with loaded_tool("drill") as module:
        yield module


@pytest.fixture
def machines(drill):
    if not drill.Machines.can_be_made():
        pytest.skip("network namespaces cannot be made here")
    with drill.Machines(drill.Run.COUNT) as machines:
        yield machines


def test_a_run_on_seven_machines_survives_what_happens_to_them(drill, machines, tmp_path):
    faults = [
        drill.Fault("broken frames and wrong keys", drill.throw),
        drill.Fault("another user knocks", drill.knock),
        drill.Fault("server cut off", drill.cut("server 1", 3)),
        drill.Fault("replica cut off", drill.cut("replica 1", 3)),
    ]
    with drill.Run(machines, tmp_path, EPOCHS, ("--model", "lenet")) as run:
        summary = drill.drill(run, faults, 1000, print)
    assert summary["images_trained"] == EPOCHS * 57_000
    assert summary["test_accuracy"] > 0.985
    assert summary["twice"] == 0


def test_a_cut_cable_carries_nothing(drill, machines):
    def reaches():
        done = drill._ip("netns", "exec", machines.space(1), sys.executable, "-c", PING, machines.address(2))
        return done.returncode == 0

    listener = drill.subprocess.Popen(
        ["ip", "netns", "exec", machines.space(2), sys.executable, "-c", LISTEN], stdout=drill.subprocess.PIPE
    )
    try:
        listener.stdout.readline()
        assert reaches()
        machines.cut(2)
        assert not reaches()
        machines.heal(2)
        assert reaches()
    finally:
        listener.kill()
        listener.wait()
        listener.stdout.close()


PING = "import socket, sys; socket.create_connection((sys.argv[1], 7), 1)"
LISTEN = """
import socket
listener = socket.create_server(("0.0.0.0", 7))
print("listens", flush=True)
while True:
    listener.accept()
"""

"""Copies on machines whose network loses, doubles, delays, reorders and damages packets, or carries one way alone.

The rows of the fault matrix that need packets: real processes, with keys, behind a switch in user space.
"""

from __future__ import annotations

import time

import pytest

from tests.conftest import loaded_tool
from tests.system.reliability import Row, recorded
from tools.drilling.machines import Machines
from tools.drilling.run import Run
from tools.drilling.shape import Shape

EPOCHS, IMAGES = 300, 1900
SECONDS = 4.0  # that a fault lasts, longer than it takes to replace a server
PARTS = ("server 1", "server 0", "replica 1")
NAMES = {"server 1": "parameter server 1", "server 0": "parameter server 0, the coordinator", "replica 1": "replica 1"}


@pytest.fixture(scope="module")
def switching():
    with loaded_tool("packet_switch") as switch:
        yield switch


@pytest.fixture
def switch(switching):
    if not Machines.can_be_made() or not switching.PacketSwitch.can_be_made():
        pytest.skip("network namespaces with TUN devices cannot be made here")
    with switching.PacketSwitch(6) as machines:
        yield machines


def faults(switch):
    """Return what happens to packets, in words, and how it is done to a machine."""
    weather = switch.PacketWeather
    weathers = {
        "its packets delayed by 100 ms": weather(delay=0.11, least=0.09),
        "30% of its packets lost": weather(loss=0.3),
        "its packets doubled": weather(doubling=1.0),
        "its packets reordered": weather(delay=0.05),
        "a bit changed in 5% of its packets": weather(flips=0.05),
    }
    cuts = {
        "cut off": switch.BOTH,
        "cut off, but for what is sent to it": switch.OUT,
        "cut off, but for what it sends": switch.IN,
    }
    found = {words: (lambda machines, number, way=way: machines.cut(number, way)) for words, way in cuts.items()}
    for words, each in weathers.items():
        found[words] = lambda machines, number, each=each: machines.set_weather(number, each)
    return found


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("part", PARTS)
def test_a_run_with_copies_survives_what_happens_to_packets(switching, switch, small_data, tmp_path, part):
    shape = Shape(("server 0", "server 1", "server 2", "replica 0", "replica 1"), ("server 1", "server 2"), copies=3)
    more = ("--data", str(small_data), "--model", "lenet", "--exchange-images", "64")
    with Run(switch, tmp_path, EPOCHS, more, shape) as run:
        run.begin()
        run.goes_on(1)
        epochs = [run.status()["map"]["epoch"]]
        for words, deed in faults(switching).items():
            row = Row(
                f"{NAMES[part]}: {words} for {SECONDS:g} s, --copies 3", "training goes on; all copies are there again"
            )
            with recorded(row):
                deed(switch, shape.machine(part))
                time.sleep(SECONDS)
                switch.heal(shape.machine(part))
                print(words, run.goes_on(200), run.becomes_whole(), flush=True)
            epochs.append(run.status()["map"]["epoch"])
        assert run.status()["phase"] == "training", "the run was over before all faults"
        with recorded(
            Row(f"{NAMES[part]}: all of that in a run, --copies 3", "exit code 0; every image is counted once")
        ):
            summary = run.finish(600)
            assert summary["images_trained"] == EPOCHS * IMAGES
            assert summary["images_failed"] == summary["images_skipped"] == 0
    assert epochs == sorted(epochs)


def test_a_changed_bit_passes_the_checksum_of_tcp(switching, switch, tmp_path):
    """The fault itself: what is changed arrives changed."""
    import subprocess
    import sys

    taking = [sys.executable, "-c", TAKE]
    taker = subprocess.Popen(["ip", "netns", "exec", switch.space(2), *taking], stdout=subprocess.PIPE)
    try:
        assert taker.stdout.readline() == b"listens\n"
        switch.set_weather(2, switching.PacketWeather(flips=1.0))
        sending = [sys.executable, "-c", SEND, switch.address(2)]
        subprocess.run(["ip", "netns", "exec", switch.space(1), *sending], check=True, timeout=20)
        changed = int(taker.communicate(timeout=20)[0])
        assert changed == 1
    finally:
        taker.kill()
        taker.wait()


TAKE = """
import socket
listener = socket.create_server(("0.0.0.0", 7))
print("listens", flush=True)
link, _ = listener.accept()
link.settimeout(10)
said = b""
while len(said) < 999:
    said += link.recv(999)
print(sum(bin(each).count("1") for each in said), flush=True)
"""
SEND = "import socket, sys; socket.create_connection((sys.argv[1], 7), 5).sendall(bytes(999))"

"""Machines of their own: the drill of tools/drill.py, in small, in network namespaces."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.params.controller.real_etcd import needs_etcd
from tools.drill import drill
from tools.drilling.faults import Fault, cut, in_turn, kill, knock, stop, throw
from tools.drilling.machines import IN, OUT, Machines, ip
from tools.drilling.run import Run
from tools.drilling.shape import COPIED

EPOCHS = 4  # of all of MNIST, so that the run outlasts the faults


@pytest.fixture
def machines():
    if not Machines.can_be_made():
        pytest.skip("network namespaces cannot be made here")
    with Machines(COPIED.desk) as machines:
        yield machines


@pytest.mark.long
def test_a_run_on_seven_machines_survives_what_happens_to_them(machines, tmp_path):
    faults = [
        Fault("broken frames and wrong keys", throw),
        Fault("another user knocks", knock),
        Fault("server cut off", cut("server 1", 3)),
        Fault("replica cut off", cut("replica 1", 3)),
    ]
    with Run(machines, tmp_path, EPOCHS, ("--model", "lenet")) as run:
        summary = drill(run, faults, 1000, print)
    assert summary["images_trained"] == EPOCHS * 57_000
    assert summary["test_accuracy"] > 0.985
    assert summary["twice"] == 0


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_run_with_copies_survives_what_happens_to_servers_and_the_coordinator(machines, tmp_path):
    with Run(machines, tmp_path, EPOCHS, ("--model", "lenet"), COPIED) as run:
        summary = drill(run, tuple(in_turn(("server 1", "server 0"), 3.0)), 1000, print)
    assert summary["images_trained"] == EPOCHS * 57_000
    assert summary["test_accuracy"] > 0.98


@needs_etcd
@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_run_whose_coordinator_is_elected_survives_what_happens_to_it_and_to_etcd(tmp_path):
    if not Machines.can_be_made():
        pytest.skip("network namespaces cannot be made here")
    shape, epochs = COPIED.with_etcd(3), 6
    faults = [
        Fault("coordinator killed", kill("coordinator", 3)),
        Fault("coordinator cut off", cut("coordinator", 3)),
        Fault("leader of etcd killed", kill("etcd", 3), is_felt=False),
        Fault("etcd stopped", stop("etcd majority", 3), is_felt=False),
    ]
    with Machines(shape.desk) as machines, Run(machines, tmp_path, epochs, ("--model", "lenet"), shape) as run:
        summary = drill(run, faults, 500, print)
    assert summary["images_trained"] == epochs * 57_000
    assert summary["test_accuracy"] > 0.98
    assert summary["twice"] == 0


def test_a_cut_cable_carries_nothing(machines):
    def reaches():
        done = ip("netns", "exec", machines.space(1), sys.executable, "-c", PING, machines.address(2))
        return done.returncode == 0

    listener = subprocess.Popen(
        ["ip", "netns", "exec", machines.space(2), sys.executable, "-c", LISTEN], stdout=subprocess.PIPE
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


def test_a_cut_of_one_way_carries_the_other(machines):
    def arrives(sender, target):
        command = ["ip", "netns", "exec", machines.space(target), sys.executable, "-c", TAKE]
        taker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        taker.stdout.readline()
        sending = ["ip", "netns", "exec", machines.space(sender), sys.executable, "-c", SEND, machines.address(target)]
        subprocess.run(sending, check=True, timeout=20)
        return taker.communicate()[0] == b"took\n"

    assert arrives(1, 2)
    assert arrives(2, 1)
    machines.cut(2, OUT)
    assert arrives(1, 2)
    assert not arrives(2, 1)
    machines.heal(2)
    machines.cut(2, IN)
    assert arrives(2, 1)
    assert not arrives(1, 2)
    machines.heal(2)
    assert arrives(1, 2)
    assert arrives(2, 1)


def test_a_connection_that_a_cut_cable_killed_is_ended_in_the_cut_and_dialled_again(machines, tmp_path):
    key = tmp_path / "key"
    subprocess.run([sys.executable, "-m", "adam_mp", "keygen", str(key)], check=True, capture_output=True)

    def begin(number, script):
        command = ["ip", "netns", "exec", machines.space(number), sys.executable, "-c", script, machines.address(2)]
        return subprocess.Popen([*command, str(key)], stdout=subprocess.PIPE, text=True)

    def reads(part, line):
        assert any(said == line for said in iter(part.stdout.readline, ""))

    echo = begin(2, ECHO)
    try:
        reads(echo, "listens\n")
        asking = begin(1, ASK)
        try:
            reads(asking, "answered, 0 lost\n")
            machines.cut(2)
            reads(asking, "silent, 1 lost\n")  # the kernel would try for a quarter of an hour
            reads(echo, "1 lost\n")
            machines.heal(2)
            reads(asking, "answered, 1 lost\n")
        finally:
            asking.kill()
            asking.communicate()
    finally:
        machines.heal(2)
        echo.kill()
        echo.communicate()


PING = "import socket, sys; socket.create_connection((sys.argv[1], 7), 1)"
LISTEN = """
import socket
listener = socket.create_server(("0.0.0.0", 7))
print("listens", flush=True)
while True:
    listener.accept()
"""
TAKE = """
import socket
taker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
taker.bind(("0.0.0.0", 7))
taker.settimeout(1)
print("listens", flush=True)
print("took" if taker.recv(10) else "", flush=True)
"""
SEND = "import socket, sys; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', (sys.argv[1], 7))"

COMMON = """
import sys, time
from adam_mp.transport.addresses import Address
from adam_mp.transport.keys import read_keys
from adam_mp.transport.messages import Kind, with_facts
from adam_mp.transport.zeromq import SocketDialer, SocketListener
address, keys = Address(sys.argv[1], 7800), read_keys(sys.argv[2])
deadline = time.monotonic() + 100
"""
ECHO = (
    COMMON
    + """
listener, lost = SocketListener(address, keys), 0
print("listens", flush=True)
while time.monotonic() < deadline:
    received = listener.receive(0.05)
    if received is not None:
        listener.send(*received)
    if listener.statistics().lost != lost:
        lost = listener.statistics().lost
        print(lost, "lost", flush=True)
"""
)
ASK = (
    COMMON
    + """
dialer, answers = SocketDialer(keys), 0
dialer.dial(address)
while time.monotonic() < deadline:
    dialer.send(address, with_facts(Kind.STATUS, {}))
    answered = dialer.receive(0.5) is not None
    print("answered," if answered else "silent,", dialer.statistics().lost, "lost", flush=True)
"""
)

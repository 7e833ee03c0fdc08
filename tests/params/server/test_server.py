"""A parameter server that is also the coordinator: whatever it is sent, it answers and goes on."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from adam_mp.cli.main import main
from adam_mp.memory.layout import Layout
from adam_mp.memory.ledger import LEASED
from adam_mp.params.run.announcements import Announcements
from adam_mp.params.run.bucket_map import BucketMap, LayoutFacts, ServerPlace
from adam_mp.params.run.coordinator import Coordinator
from adam_mp.params.run.member import MEMBER_DEADLINE
from adam_mp.params.run.membership import CoordinatorLink
from adam_mp.params.run.news import News
from adam_mp.params.run.statements import STATISTICS
from adam_mp.params.server.loop import ALONE, DONE, STOPPED, make_loop
from adam_mp.params.server.persistence import SnapshotFolder, write_facts
from adam_mp.params.server.serving import (
    ServerSpec,
    _make_coordinator,
    how_it_ends,
    serve_for_supervisor,
    serve_parameters,
)
from adam_mp.process.folder_lock import FolderLock
from adam_mp.transport.addresses import Address
from adam_mp.transport.messages import Kind, Message, with_facts
from adam_mp.transport.sim import Network, Weather
from adam_mp.transport.zeromq import SocketListener

LAYOUT = LayoutFacts.of(Layout.of({"a": (30, 7), "b": (7,)})).as_list()
FACTS = {"layout": LAYOUT, "images": 95, "batch_size": 10, "epochs": 3, "quorum": 1.0, "agreed": {}}
JOIN = {"role": "replica", "facts": FACTS}


class Served:
    """A coordinator that is a parameter server, and a peer of it, on a simulated network."""

    def __init__(self, expected=1):
        self.network, self.told = Network(1, Weather(delay=0.0)), []
        self.host = Coordinator(run=5, expected=expected)
        endpoint = self.network.endpoint("server")
        self.time = 0.0
        self.loop = make_loop(endpoint, "server", 100, self.host, None, self.told.append, self.tick)
        self.server = self.loop.server
        self.peer = self.network.endpoint("peer")
        self.server.view.join(self.tick())

    def tick(self):
        """The clock: each look takes a moment."""
        self.time += 0.01
        return self.time

    def ask(self, message):
        """Return the server's answers."""
        self.peer.send("server", message)
        self.network.advance(0.1)
        self.time += 0.5  # a report of the server itself is due
        self.loop.step(0)
        self.network.advance(0.1)
        return [received[1] for received in iter(lambda: self.peer.receive(0), None)]


@pytest.fixture
def served():
    each = Served()
    yield each
    each.server.close()


def joining(**more):
    return {"role": "replica", "facts": {**FACTS, **more}}


@pytest.mark.parametrize(
    ("kind", "facts"),
    [
        (Kind.JOIN, joining(images=1e999)),
        (Kind.JOIN, joining(images=1e15)),
        (Kind.JOIN, joining(images=10**15, batch_size=1)),
        (Kind.JOIN, joining(quorum=1e999)),
        (Kind.JOIN, joining(quorum=float("nan"))),
        (Kind.JOIN, joining(layout="w")),
        (Kind.JOIN, joining(layout=[["w", [0]]])),
        (Kind.JOIN, joining(layout=[["w", [1e999]]])),
        (Kind.JOIN, joining(layout=[["\ud800", [4]]])),
        (Kind.JOIN, joining(layout=[["w", [2**30, 2**30]]])),
        (Kind.LEAVE, {"member": 1e999}),
        (Kind.LEAVE, {"member": "x"}),
        (Kind.REPORT, {"epoch": 1e999}),
    ],
)
def test_what_makes_no_sense_is_refused_and_the_server_goes_on(served, kind, facts):
    if kind != Kind.JOIN:
        assert served.ask(with_facts(Kind.JOIN, JOIN, sender=7, sequence=1))[0].kind == Kind.WELCOME
    (answer,) = served.ask(with_facts(kind, facts, run=5, sender=7, sequence=2))
    assert answer.kind == Kind.REFUSED
    assert len(answer.facts()["reason"]) <= 500
    assert served.ask(with_facts(Kind.JOIN, JOIN, sender=8, sequence=1))[0].kind == Kind.WELCOME
    assert served.server.table is not None


@pytest.mark.parametrize("updates", ["x", 1e999, None, [1], -1, 1 << 60])
def test_statistics_that_are_none_are_left_out(served, updates):
    served.ask(with_facts(Kind.JOIN, JOIN, sender=7, sequence=1))
    statistics = {"updates": updates, "rounds": 3, "name": "another", "role": "params", "text": "x" * 10_000}
    report = {"epoch": 0, "wanted": 2, "statistics": statistics}
    (orders,) = served.ask(with_facts(Kind.REPORT, report, run=5, sender=7, sequence=2))
    assert len(orders.facts()["granted"]) == 2
    (state,) = served.ask(with_facts(Kind.STATUS, {}, sender=9, sequence=1))
    member = next(member for member in state.facts()["members"] if member["identity"] == 7)
    assert (member["role"], member["name"], member["rounds"]) == ("replica", "replica", 3)
    assert not {"updates", "text"} & member.keys()
    served.ask(with_facts(Kind.LEAVE, {}, run=5, sender=7))
    assert not (served.host.course.batches.states == LEASED).any()


def test_a_name_is_one_that_every_terminal_shows(served):
    served.ask(with_facts(Kind.JOIN, {**JOIN, "name": "\ud800\x1b[2J" + 1000 * "x"}, sender=7, sequence=1))
    served.host.roster.members[7].seen = -MEMBER_DEADLINE - 1
    served.loop.step(0)
    silent = next(line for line in served.told if "is silent" in line)
    assert silent.startswith("??[2Jxxx")
    assert len(silent) < 200
    assert served.told[-1] == "waiting for a replica"


def test_who_comes_goes_and_is_refused_is_said_once(served):
    replica = {**JOIN, "name": "replica a"}
    served.loop.step(0)
    served.loop.step(0)
    served.ask(with_facts(Kind.JOIN, replica, sender=7, sequence=1))
    for sequence in (1, 2):
        served.ask(with_facts(Kind.JOIN, {**joining(epochs=9), "name": "\x1b b"}, sender=8, sequence=sequence))
    served.ask(with_facts(Kind.JOIN, {"role": 5, "name": 5}, sender=9, sequence=1))
    served.ask(with_facts(Kind.REPORT, {}, run=5, sender=44, sequence=1))  # it will join again, and is not refused
    served.ask(with_facts(Kind.REPORT, {"epoch": "x"}, run=5, sender=7, sequence=2))
    served.ask(with_facts(Kind.REPORT, {"trained": list(range(10))}, run=5, sender=7, sequence=3))
    served.ask(with_facts(Kind.LEAVE, {}, run=5, sender=7))
    lines = [line for line in served.told if "epoch 1 of 3: 95 images in" not in line]
    assert len(lines) == len(served.told) - 1
    assert lines == [
        "waiting for the first replica",
        "replica a joined",
        "2 shards, 0.0 MB",
        "refused ? b: this replica has epochs 9, the run has 3; start it with the settings of the run",
        "refused somebody: role is 5; expected one of replica, params",
        "refused replica a: epoch is malformed: 'x'; expected a whole number from 0 to 3",
        "replica a left",
        "waiting for a replica",
    ]


def test_a_line_that_anybody_may_cause_is_said_once_a_minute():
    told = []
    announcements = Announcements(told.append)
    for now in (0.0, 30.0, 61.0):
        announcements.say_seldom("x", now)
    assert told == ["x", "x"]
    for number in range(1000):
        announcements.say_seldom(f"{number} \x1b" + "y" * 1000, 62.0)
    assert max(map(len, told)) == 300
    assert all(line.isprintable() for line in told)
    assert len(announcements._said) == 100


@pytest.mark.parametrize("trouble", [MemoryError(), OverflowError("x"), {"much": "x" * (65 << 20)}])
def test_an_answer_that_cannot_be_made_is_a_refusal(served, monkeypatch, trouble):
    def state(now):
        if isinstance(trouble, Exception):
            raise trouble
        return trouble

    monkeypatch.setattr(served.host, "state", state)
    (answer,) = served.ask(with_facts(Kind.STATUS, {}, sender=9, sequence=1))
    assert answer.kind == Kind.REFUSED


def test_a_server_reports_only_numbers_that_the_coordinator_keeps(served, tmp_path):
    served.ask(with_facts(Kind.JOIN, JOIN, sender=7, sequence=1))
    served.server.snapshots = SnapshotFolder(tmp_path, 1.0)
    assert set(served.server.figures(1.0)) <= set(STATISTICS)


def test_a_message_of_another_run_is_not_refused_before_the_run_is_known():
    restarted = Served()
    push = Message(Kind.PULL, b"", run=77, sender=7, map_epoch=1, shard=0, sequence=4)
    (answer,) = restarted.ask(push)
    assert (answer.kind, answer.map_epoch, answer.shard, answer.sequence) == (Kind.MOVED, 0, 0, 4)
    assert answer.facts()["map"]["epoch"] == 0
    restarted.ask(with_facts(Kind.JOIN, {**JOIN, "run": 77, "epoch": 1}, sender=7, sequence=1))
    assert restarted.ask(push)[0].kind == Kind.EMPTY
    stranger = Message(Kind.PULL, b"", run=78, sender=7, map_epoch=1, shard=0, sequence=4)
    assert restarted.ask(stranger)[0].kind == Kind.REFUSED
    restarted.server.close()


def test_shards_are_made_anew_for_another_run_and_kept_for_another_address(served):
    served.ask(with_facts(Kind.JOIN, JOIN, sender=7, sequence=1))
    server = served.server
    table, news = server.table, News(phase="training", layout=LayoutFacts.from_list(LAYOUT), map=served.host.map)
    server.learn(dataclasses.replace(news, map=BucketMap(2, (ServerPlace(100, "elsewhere"),))))
    assert server.table is table
    served.host.run = 6
    server.learn(news)
    assert server.table is not table


def test_a_server_that_is_to_end_before_it_has_joined_ends_quietly():
    class Silent:
        dial = send = receive = trouble = staticmethod(lambda *_: None)

    link = CoordinatorLink(Silent(), Address("127.0.0.1", 1), 9)
    loop = make_loop(Network(1, Weather()).endpoint("s"), "s", 9, link, None, lambda text: None)
    began = time.monotonic()
    assert loop.run(lambda: True) == STOPPED
    assert time.monotonic() - began < 10


def test_how_a_server_ends_is_told(served):
    loop, replica = served.loop, with_facts(Kind.JOIN, joining(epochs=1), sender=7, sequence=1)
    assert loop.run(lambda: False, wait=0.05) == ALONE
    assert served.host.awaited == "the first replica"
    served.ask(replica)
    looks = iter([False] * 10 + [True])
    assert loop.run(lambda: next(looks), wait=0.05) == STOPPED  # a replica was there all the time
    served.ask(with_facts(Kind.LEAVE, {}, run=5, sender=7))
    assert loop.run(lambda: False, wait=0.05) == ALONE
    assert served.host.awaited == "a replica"
    served.ask(replica)
    served.ask(with_facts(Kind.REPORT, {"trained": list(range(10))}, run=5, sender=7, sequence=2))
    served.ask(with_facts(Kind.LEAVE, {}, run=5, sender=7))
    assert loop.run(lambda: False, wait=0.0) == DONE


@pytest.mark.parametrize("snapshots", [None, "state"])
def test_a_server_that_is_stopped_says_how_to_go_on(served, snapshots):
    spec, view = ServerSpec("127.0.0.1:0", snapshots=snapshots), served.server.view
    line = how_it_ends(view, served.host, spec)
    assert line == "the run has not begun; the same command starts this server again"
    served.ask(with_facts(Kind.JOIN, JOIN, sender=7, sequence=1))
    line = how_it_ends(view, served.host, spec)
    assert line.startswith("the run is not done (epoch 1 of 3)")
    assert ("state is in state; go on with the same command" in line) == (snapshots is not None)
    assert ("no --snapshots, so its state is lost; the same command" in line) == (snapshots is None)
    served.host.course.epoch = 3
    assert "the run is done, but replicas have not left: 1;" in how_it_ends(view, served.host, spec)


# The commands.


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--address-file", "/nonexistent/x"), "cannot write /nonexistent/x: No such file or directory; name another"),
        (("--snapshots", "/proc"), "cannot write /proc: "),
    ],
)
def test_what_cannot_be_written_is_named(capsys, flags, message):
    assert main(["serve-params", "--listen", "127.0.0.1:0", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Errno" not in error
    assert ".partial" not in error


@pytest.mark.parametrize(
    ("flags", "join"),
    [
        (("--listen", "127.0.0.1:7701"), "127.0.0.1:7701"),
        (("--listen", "127.0.0.1:7701"), "localhost:7701"),
        (("--listen", "0.0.0.0:7701", "--advertise", "127.0.0.1"), "127.0.0.1:7701"),
        (("--listen", "0.0.0.0:7701", "--advertise", "10.9.8.7"), "10.9.8.7:7701"),
    ],
)
def test_a_server_that_is_to_join_itself_is_refused_at_once(capsys, flags, join):
    began = time.monotonic()
    assert main(["serve-params", *flags, "--join", join]) == 2
    assert f"--join {join} is where this server listens itself" in capsys.readouterr().err
    assert time.monotonic() - began < 10


def test_a_snapshot_folder_has_one_server(capsys, tmp_path):
    lock = FolderLock(tmp_path)
    lock.sign()
    for _ in range(2):
        assert main(["serve-params", "--listen", "127.0.0.1:0", "--snapshots", str(tmp_path)]) == 2
        error = capsys.readouterr().err
        assert f"snapshot folder {tmp_path} is in use by process {os.getpid()}; give each server a folder" in error
    lock.close()
    FolderLock(tmp_path).close()


def test_a_folder_whose_run_is_done_is_an_error(capsys, tmp_path):
    host = Coordinator(run=5, expected=1)
    host.join(100, {"role": "params", "address": "127.0.0.1:1"}, 0.0)
    host.join(1, {"role": "replica", "facts": {**FACTS, "epochs": 1}}, 0.0)
    host.report(1, 1, {"epoch": 0, "trained": list(range(10))}, 0.0)
    assert host.phase == "done"
    assert _make_coordinator(ServerSpec("127.0.0.1:0", snapshots=tmp_path), host.snapshot()).awaited_replicas == 1
    host.leave(1)
    write_facts(tmp_path, {"identity": 100, "coordinator": host.snapshot()})
    assert main(["serve-params", "--listen", "127.0.0.1:0", "--snapshots", str(tmp_path)]) == 2
    assert f"{tmp_path} holds a run that is done; name another folder" in capsys.readouterr().err
    serve_for_supervisor(ServerSpec("127.0.0.1:0", snapshots=tmp_path))  # killed when all had left: nothing to do


def test_a_coordinator_that_dies_when_the_run_is_done_is_back_for_a_replica_that_still_validates(tmp_path):
    host = Coordinator(run=5, expected=1)
    host.join(100, {"role": "params", "address": "127.0.0.1:1"}, 0.0)
    for replica in (1, 2):
        host.join(replica, {"role": "replica", "facts": {**FACTS, "epochs": 1}}, 0.0)
    host.report(1, 1, {"epoch": 0, "trained": list(range(10))}, 0.0)
    host.leave(1)
    again = _make_coordinator(ServerSpec("127.0.0.1:0", snapshots=tmp_path), host.snapshot())
    again.step(100.0)
    again.step(102.0)
    assert (again.phase, again.over) == ("done", False)
    again.join(2, {"role": "replica", "run": 5, "facts": {**FACTS, "epochs": 1}}, 103.0)
    again.leave(2)
    assert again.over


def test_a_snapshot_folder_that_cannot_be_locked_is_told(monkeypatch, tmp_path):
    def refuse(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("adam_mp.process.folder_lock.fcntl.flock", refuse)
    told = []
    serve_parameters(ServerSpec("127.0.0.1:0", snapshots=tmp_path), lambda: True, told.append)
    assert told[0].startswith(f"the file system of {tmp_path} has no locks")


@pytest.fixture
def status():
    """Start `adam-mp status`; whatever happens, it ends."""
    started = []

    def start(*arguments):
        command = [sys.executable, "-m", "adam_mp", "status", *arguments]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def ends_quietly(process):
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=15)
    return process.returncode == 0 and errors == b""


def test_ctrl_c_ends_a_status_that_sleeps(status):
    listener, stop = SocketListener(Address("127.0.0.1", 0), None), threading.Event()
    loop = make_loop(listener, str(listener.address), 100, Coordinator(run=5, expected=1), None, lambda text: None)
    thread = threading.Thread(target=loop.run, args=(stop.is_set,))
    thread.start()
    try:
        process = status(str(listener.address), "--watch", "--json", "--seconds", "3600")
        assert b"members" in process.stdout.readline()
        assert ends_quietly(process)
    finally:
        stop.set()
        thread.join()
        listener.close()


def test_ctrl_c_ends_a_status_that_asks(status):
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        process = status(f"127.0.0.1:{nobody.getsockname()[1]}", "--deadline", "600")
        nobody.settimeout(30)
        with nobody.accept()[0]:
            time.sleep(0.5)  # between dialling and asking
            assert ends_quietly(process)


def test_nobody_speaks_in_the_name_of_the_server_itself(served):
    """`status` shows its identity: who takes it neither ends the server nor parts with members."""
    served.ask(with_facts(Kind.JOIN, joining(), sender=7, sequence=1))
    for kind, facts in ((Kind.REPORT, {}), (Kind.JOIN, joining()), (Kind.LEAVE, {"member": 7})):
        (answer,) = served.ask(with_facts(kind, facts, run=5, sender=100, sequence=2**32 - 1))
        assert answer.kind == Kind.REFUSED
        assert "in the name of this server itself" in answer.facts()["reason"]
    assert set(served.host.roster.members) == {7, 100}


def test_the_servers_own_life_is_known_to_nobody():
    lives = set()
    for _ in range(3):
        each = Served()
        lives.add(each.host.roster.members[100].sequence >> 32)
    assert len(lives) == 3
    assert 0 not in lives

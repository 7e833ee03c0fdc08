"""Many machines' runs on this one: parameter servers, replicas and data servers, all of them real processes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import stat
import time

import psutil
import pytest

from adam_mp.cli.main import main
from adam_mp.params.run.membership import CoordinatorLink, new_identity
from adam_mp.training.replica import joining as cluster
from adam_mp.training.replica.launched import find_launched
from adam_mp.transport.keys import read_keys
from adam_mp.transport.messages import Kind
from adam_mp.transport.places import parse_place
from adam_mp.transport.socket_files import SocketFolder
from adam_mp.transport.zeromq import SocketDialer
from tests.system.conftest import metrics, wait_until
from tools.ports import free_port

IMAGES, BATCHES = 1900, 119  # of an epoch
KILLED = 4  # epochs of a run that is killed in part
SNAPSHOTS = 8  # epochs of a run that has written a snapshot before it is
QUICK = ("--exchange-images", "64", "--json")


def seen_epochs(folder):
    """Return the epochs in a replica's metrics, having checked that each is whole and there once."""
    rows = metrics(folder)
    assert [row["images_trained"] for row in rows] == [IMAGES] * len(rows)
    numbers = [row["epoch"] for row in rows]
    assert numbers == sorted(set(numbers))
    return set(numbers)


def covered(epochs, *folders):
    """Tell whether the replicas' metrics have all epochs between them."""
    return set.union(*(seen_epochs(folder) for folder in folders)) == set(range(1, epochs + 1))


def away(ended):
    """Return how many epochs the replica says others trained alone."""
    return ended.err.count("ended while this replica was away")


def every_epoch(ended, epochs, folder):
    """Tell whether a launched run has all epochs, trained with its own replica or while that was away."""
    assert ended.summary["images_trained"] == epochs * IMAGES
    return len(seen_epochs(folder)) + away(ended) == epochs


class ByHand:
    """The parts of a run, each started as a user would on a machine of its own."""

    def __init__(self, start, data, folder):
        self.start, self.data, self.folder = start, data, folder
        self.keys = ()
        self.first = ""  # the coordinator's address
        self.addresses = {}  # of parameter servers

    def make_keys(self, name="key"):
        path = self.folder / name
        assert self.start("keygen", str(path)).finish().code == 0
        return ("--key-file", str(path))

    def serve(self, kind, name, listen, *more):
        """Start a server, and wait until it listens; return the command and its address."""
        path = self.folder / f"{name}.address"
        path.unlink(missing_ok=True)
        command = self.start(kind, "--listen", listen, "--address-file", str(path), *self.keys, *more)

        def listens():
            assert command.process.poll() is None, command.read(command.err)
            return path.exists()

        wait_until(listens, f"{name} to listen")
        return command, path.read_text().strip()

    def params(self, number, listen="127.0.0.1:0", *more, snapshots=True):
        """Start parameter server `number` of two, with snapshots or not; the first one is the coordinator.

        One that was there before is started at the same address.
        """
        place = ("--join", self.first) if number else ("--servers", "2")
        if snapshots:
            more = ("--snapshots", str(self.folder / f"snapshots-{number}"), *more)
        listen = self.addresses.get(number, listen)
        command, self.addresses[number] = self.serve("serve-params", f"params-{number}", listen, *place, *more)
        self.first = self.first or self.addresses[number]
        return command

    def pictures(self, number, listen="127.0.0.1:0"):
        """Start a data server."""
        return self.serve("serve-data", f"data-{number}", listen, "--data", str(self.data), "--cores", "1")

    def replica(self, number, epochs, *more):
        return self.start(
            "train", "--join", self.first, "--data", str(self.data), "--cores", "1", "--epochs", str(epochs), *QUICK,
            "--run-dir", str(self.run_dir(number)), *self.keys, *more,
        )  # fmt: skip

    def run_dir(self, number):
        return self.folder / f"replica-{number}"

    def status(self):
        ended = self.start("status", self.first, "--json", "--deadline", "20", *self.keys).finish()
        assert ended.code == 0, ended.err
        return ended.summary

    def wait_for_both(self, replicas):
        """Wait until both replicas train; return the status."""

        def both():
            for replica in replicas:
                assert replica.process.poll() is None, replica.read(replica.err)
            state = ask_status(self.first, self.keys)
            return state if len(replicas_at_work(state)) == 2 else None

        return wait_until(both, "two replicas that train")


@pytest.fixture
def by_hand(start, small_data, tmp_path):
    return ByHand(start, small_data, tmp_path)


@pytest.fixture
def begin(start, small_data, tmp_path):
    """Start a run of two replicas and two servers, all of them children of one process."""

    def begin(epochs, *more):
        return start(
            "train", "--servers", "2", "--replicas", "2", "--cores", "2", "--data", str(small_data), "--epochs",
            str(epochs), "--run-dir", str(tmp_path / "run"), *QUICK, *more,
        )  # fmt: skip

    return begin


def ask_status(address, keys=()):
    """Return what `adam-mp status --json` shows, asked from here, which is quicker; `keys` are flag and file."""
    dialer = SocketDialer(read_keys(keys[1]) if keys else None)
    try:
        return CoordinatorLink(dialer, parse_place(address, "address"), new_identity()).ask(Kind.STATUS, {}, 20)
    finally:
        dialer.close()


def replicas_at_work(state):
    return [member for member in state["members"] if member["role"] == "replica" and member["images"]]


def both_train(run, folder):
    """Wait until both replicas train in the first epoch: the user's own waits for the other."""
    worker = wait_until(lambda: own_child(run, "worker 0"), "the user's own replica")
    os.kill(worker, signal.SIGSTOP)

    def other():
        assert run.process.poll() is None, run.read(run.err)
        return any(not member["leader"] for member in replicas_at_work(ask_status(find_launched(folder))))

    wait_until(other, "the other replica to train")
    os.kill(worker, signal.SIGCONT)
    wait_until(lambda: metrics(folder), "the first epoch")
    run.see_children()


def own_child(run, name):
    """Return the id of the run's child `name` that is not its other replica's, if it lives."""
    for child in psutil.Process(run.process.pid).children():
        with contextlib.suppress(psutil.Error):  # it ended while we looked
            if child.cmdline()[-1:] == [name]:
                return child.pid
    return None


def test_what_a_launched_run_shows_to_whom_and_what_is_done_to_its_replica(begin, start, tmp_path):
    folder = tmp_path / "run"
    run = begin(2000)
    both_train(run, folder)
    sockets = expect_no_other_user(run, folder)
    owner = start("status", str(folder), "--json").finish()
    assert owner.code == 0, owner.err
    assert len(owner.summary["members"]) == 4
    expect_all_parts_say_what_they_do(run)

    stopped = run.wait_for_child("replica 1")
    os.kill(stopped, signal.SIGTERM)
    says(run, ["replica 1 was stopped by SIGTERM; started again"])
    successor = wait_until(lambda: (found := run.see_children().get("replica 1")) != stopped and found, "a successor")
    run.signal(signal.SIGTERM)
    os.kill(successor, signal.SIGTERM)  # as one does who stops a group of processes
    ended = run.finish()
    assert ended.code == 143, ended.err
    assert ended.err.count("started again") == 1, ended.err
    assert not sockets.exists()
    late = start("status", str(folder), "--deadline", "1").finish()
    refused_at_once(late, 2, f"no run with parameter servers goes on in {folder}: it has ended; see: adam-mp inspect")


def expect_no_other_user(run, folder):
    """Who finds its address, in a folder that all can read, comes to a folder that nobody else can enter: return it."""
    path = parse_place(find_launched(folder), "address").path
    sockets = path.parent
    assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    parts = [psutil.Process(run.process.pid), *psutil.Process(run.process.pid).children(recursive=True)]
    assert [part.net_connections("inet") for part in parts] == [[]] * len(parts)
    if os.geteuid() == 0:
        os.seteuid(54321)
        try:
            with socket.socket(socket.AF_UNIX) as stranger, pytest.raises(PermissionError):
                stranger.connect(str(path))
        finally:
            os.seteuid(0)
    return sockets


def expect_all_parts_say_what_they_do(run):
    os.kill(own_child(run, "worker 0"), signal.SIGSTOP)  # whose silence the others' answers wait for
    run.signal(signal.SIGUSR1)
    said = wait_until(lambda: (text := run.read(run.err)) and "replica 1 (" in text and text, "the stacks")
    own, other = said.split("\nreplica 1 (")
    for words in ("supervisor (", "synchronizer (", "parameter server 0 (", "parameter server 1 (", "in serve"):
        assert words in own, said
    assert "does not answer: stopped" in own
    for words in ("supervisor (", "worker 0 (", "data server 0 (", "synchronizer (", "in step"):
        assert words in other, said
    os.kill(own_child(run, "worker 0"), signal.SIGCONT)


def test_what_a_killed_run_leaves_among_temporary_files_the_next_removes(begin, start, tmp_path):
    folder = tmp_path / "run"
    run = begin(2000)
    wait_until((folder / "server-1" / "address").exists, "both servers")
    sockets = parse_place(find_launched(folder), "address").path.parent
    run.see_children()
    run.signal(signal.SIGKILL)
    run.finish()
    assert sockets.exists()
    refused_at_once(start("status", str(folder)).finish(), 2, f"goes on in {folder}: its processes were killed; ")
    with contextlib.closing(SocketFolder()):
        assert not sockets.exists()


def test_parts_by_hand_without_keys_say_to_whom_they_are_open(by_hand):
    (pictures, _), server = by_hand.pictures(0), by_hand.params(0)
    for part, may in ((server, "join the run, read its weights and change them"), (pictures, "have its pictures")):
        said = wait_until(lambda part=part: (out := part.read(part.out)) and "is open to" in out and out, "the warning")
        assert f"every user of this machine: without keys, any of them may {may}" in said
        assert said.count("is open to") == 1


def test_parts_by_hand_with_keys_are_open_to_nobody(by_hand):
    by_hand.keys = by_hand.make_keys()
    server = by_hand.params(0)
    by_hand.status()
    assert "is open to" not in server.read(server.out)


def test_two_replicas_train_every_batch_once(begin, tmp_path):
    ended = begin(3).finish()
    assert ended.code == 0, ended.err
    assert ended.summary["updates"] == 3 * BATCHES
    assert ended.summary["test_accuracy"] > 0.85
    assert "Traceback" not in ended.err
    assert every_epoch(ended, 3, tmp_path / "run")


@pytest.mark.long
def test_a_run_by_hand_on_three_addresses(by_hand):
    by_hand.keys = by_hand.make_keys()
    servers = [by_hand.params(0, "127.0.0.1:0"), by_hand.params(1, "127.0.0.2:0")]
    pictures, address = by_hand.pictures(0, "127.0.0.3:0")
    replicas = [by_hand.replica(number, 12, "--data-from", address) for number in range(2)]
    state = by_hand.wait_for_both(replicas)
    roles = [member["role"] for member in state["members"]]
    assert sorted(roles) == ["params"] * 2 + ["replica"] * 2
    for member in state["members"]:
        if member["role"] == "params":
            assert member["updates_per_second"] >= 0
            assert member["bytes_per_second"] >= 0
            assert member["applied"] > 0
        else:
            assert member["rounds"] > 0
            assert member["bytes_out"] > 0
    assert {member["address"].partition(":")[0] for member in state["members"] if member["role"] == "params"} == {
        "127.0.0.1", "127.0.0.2",
    }  # fmt: skip
    for part in (*replicas, *servers):
        ended = part.finish()
        assert ended.code == 0, ended.err
        assert "Traceback" not in ended.err
    pictures.signal(signal.SIGTERM)
    ended = pictures.finish()
    assert ended.code == 0, ended.err
    assert "served " in ended.out
    assert covered(12, by_hand.run_dir(0), by_hand.run_dir(1))


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["parameter server 0"], marks=pytest.mark.long),
        ["parameter server 1", "synchronizer"],
        pytest.param(["replica 1"], marks=pytest.mark.long),
    ],
)
def test_a_killed_part_is_started_again_and_no_image_is_lost(begin, tmp_path, names):
    run = begin(KILLED)
    both_train(run, tmp_path / "run")
    for name in names:
        os.kill(run.wait_for_child(name), signal.SIGKILL)
    ended = run.finish()
    assert ended.code == 0, ended.err
    assert every_epoch(ended, KILLED, tmp_path / "run")
    assert ended.summary["test_accuracy"] > 0.85  # the user's own replica still leads
    assert f"{names[0]} was killed by SIGKILL" in ended.err


def test_the_coordinator_comes_back_with_its_snapshot(by_hand):
    first, second = by_hand.params(0), by_hand.params(1)
    replicas = [by_hand.replica(number, SNAPSHOTS) for number in range(2)]
    by_hand.wait_for_both(replicas)
    wait_until(lambda: list((by_hand.folder / "snapshots-0").glob("shard-*")), "a snapshot")
    first.signal(signal.SIGKILL)
    first.finish()
    first = by_hand.params(0)
    ends = [replica.finish() for replica in replicas]
    assert [ended.code for ended in ends] == [0, 0], ends
    for server in (first, second):
        ended = server.finish()
        assert ended.code == 0, ended.err
    assert "from the snapshot" in first.read(first.out)
    assert covered(SNAPSHOTS, by_hand.run_dir(0), by_hand.run_dir(1))


@pytest.mark.long
@pytest.mark.parametrize("number", [pytest.param(1, id="second"), pytest.param(0, id="first")])
def test_a_server_without_snapshots_is_started_again_and_no_image_is_lost(by_hand, number):
    epochs = 6
    servers = [by_hand.params(each, snapshots=False) for each in range(2)]
    replicas = [by_hand.replica(each, epochs) for each in range(2)]
    wait_until(lambda: len(replicas_at_work(ask_status(by_hand.first))) == 2, "two replicas that train")
    servers[number].signal(signal.SIGKILL)
    servers[number].finish()
    servers[number] = by_hand.params(number, snapshots=False)
    ends = [replica.finish() for replica in replicas]
    assert [ended.code for ended in ends] == [0, 0], ends
    for server in servers:
        ended = server.finish()
        assert ended.code == 0, ended.err
    assert covered(epochs, by_hand.run_dir(0), by_hand.run_dir(1))
    assert max(ended.summary["test_accuracy"] or 0 for ended in ends) > 0.9


@pytest.mark.long
def test_a_replica_says_who_is_silent_and_back_unless_it_was_stopped_itself(by_hand):
    servers = [by_hand.params(0), by_hand.params(1)]
    replica = by_hand.replica(0, 5000)
    wait_until(lambda: metrics(by_hand.run_dir(0)), "an epoch")

    def says(words):
        assert replica.process.poll() is None, replica.read(replica.err)
        return words in replica.read(replica.err)

    others = (by_hand.folder / "params-1.address").read_text().strip()
    for server, name in zip(
        servers, (f"the coordinator at {by_hand.first}", f"the parameter server at {others}"), strict=True
    ):
        server.signal(signal.SIGSTOP)
        wait_until(
            lambda name=name: says(f"{name} has not answered for 4 s; the run waits for it, 60 s at most"), "a notice"
        )
        server.signal(signal.SIGCONT)
        wait_until(lambda name=name: says(f"{name} answers again, after"), "another")
    processes = [replica.process.pid, *replica.see_children().values()]
    for order, seconds in ((signal.SIGSTOP, 10), (signal.SIGCONT, 0)):
        for process in processes:
            os.kill(process, order)
        time.sleep(seconds)
    done = len(metrics(by_hand.run_dir(0)))
    wait_until(lambda: len(metrics(by_hand.run_dir(0))) > done + 2, "it to go on")
    replica.signal(signal.SIGTERM)
    ended = replica.finish()
    assert ended.code == 143, ended.err
    assert (ended.err.count("has not answered"), ended.err.count("answers again")) == (2, 2), ended.err
    for server in servers:
        server.signal(signal.SIGTERM)
        assert server.finish().code == 143


@pytest.mark.long
def test_another_replica_takes_over_what_a_dead_one_had_leased(by_hand):
    servers = [by_hand.params(0), by_hand.params(1)]
    replicas = [by_hand.replica(number, 8) for number in range(2)]
    wait_until(lambda: len(metrics(by_hand.run_dir(1))) > 1, "an epoch that both train")
    replicas[1].see_children()
    replicas[1].signal(signal.SIGKILL)
    assert replicas[1].finish().code == -signal.SIGKILL
    ended = replicas[0].finish()
    assert ended.code == 0, ended.err
    assert covered(8, by_hand.run_dir(0), by_hand.run_dir(1))
    assert (len(metrics(by_hand.run_dir(0))) + away(ended)) * IMAGES == ended.summary["images_trained"]
    for server in servers:
        ended = server.finish()
        assert ended.code == 0, ended.err
    assert "is silent" in servers[0].read(servers[0].out)


@pytest.mark.long
def test_the_other_data_server_takes_over(by_hand, start, small_data, tmp_path):
    (first, address), (second, other) = by_hand.pictures(0), by_hand.pictures(1)
    run = start(
        "train", "--data", str(small_data), "--cores", "1", "--epochs", "12", "--json", "--run-dir",
        str(tmp_path / "run"), "--data-from", f"{address},{other}",
    )  # fmt: skip
    wait_until(lambda: metrics(tmp_path / "run"), "the first epoch")
    run.see_children()
    first.signal(signal.SIGKILL)
    assert first.finish().code == -signal.SIGKILL
    ended = run.finish()
    assert ended.code == 0, ended.err
    assert ended.summary["images_trained"] == 12 * IMAGES
    assert ended.summary["images_failed"] == 0
    second.signal(signal.SIGTERM)
    ended = second.finish()
    assert ended.code == 0
    assert "served 0 pictures" not in ended.out


@pytest.mark.long
def test_a_run_stopped_by_a_signal_is_resumed(begin, start, tmp_path):
    epochs = 12
    run = begin(epochs)
    both_train(run, tmp_path / "run")
    run.signal(signal.SIGTERM)
    ended = run.finish()
    assert ended.code == 143, ended.err
    assert ended.summary["stopped_by"] == "SIGTERM"
    assert "Traceback" not in ended.err
    resumed = start(
        "train", "--resume", str(tmp_path / "run"), "--servers", "2", "--replicas", "2", "--cores", "2", "--json"
    ).finish()
    assert resumed.code == 0, resumed.err
    assert resumed.summary["images_trained"] == epochs * IMAGES
    assert len(seen_epochs(tmp_path / "run")) + away(ended) + away(resumed) == epochs
    assert epochs * BATCHES <= resumed.summary["updates"] < epochs * BATCHES + 60  # what was under way is trained again


@pytest.mark.long
def test_a_replica_that_is_resumed_counts_what_others_did_meanwhile(by_hand):
    epochs = 45

    def at_work():
        return replicas_at_work(ask_status(by_hand.first))

    servers = [by_hand.params(0), by_hand.params(1)]
    replicas = [by_hand.replica(number, epochs) for number in range(2)]
    wait_until(lambda: len(at_work()) == 2, "two replicas that train")
    wait_until(lambda: len(metrics(by_hand.run_dir(1))) > 1, "an epoch that both train")
    done = len(metrics(by_hand.run_dir(0)))
    replicas[1].signal(signal.SIGTERM)
    assert replicas[1].finish().code == 143
    wait_until(lambda: len(metrics(by_hand.run_dir(0))) > done + 1, "the other replica to end an epoch alone")
    worker = own_child(replicas[0], "worker 0")
    resumed = by_hand.start("train", "--resume", str(by_hand.run_dir(1)), "--join", by_hand.first, "--json")

    def both_while_one_is_slow():  # stopped for good, it might hold all batches of the epoch
        for number, burst in ((signal.SIGSTOP, 0.2), (signal.SIGCONT, 0.05)):
            os.kill(worker, number)
            time.sleep(burst)
        return len(at_work()) == 2

    wait_until(both_while_one_is_slow, "the resumed replica to train")
    ended = [resumed.finish(), replicas[0].finish()]
    assert [each.code for each in ended] == [0, 0], ended
    assert [each.summary["images_trained"] for each in ended] == [epochs * IMAGES] * 2
    assert away(ended[0]) >= 1
    for each in ended:  # a batch counts again where the run's end finds it under way in the replica that was stopped
        assert epochs * BATCHES <= each.summary["updates"] < epochs * BATCHES + 60
    assert all(server.finish().code == 0 for server in servers)


@pytest.mark.long
def test_a_replica_whose_cluster_is_gone_goes_on_alone(by_hand, start):
    epochs = 20
    servers = [by_hand.params(0), by_hand.params(1)]
    replica = by_hand.replica(0, epochs)
    wait_until(lambda: len(metrics(by_hand.run_dir(0))) > 2, "two epochs and more")
    wait_until(lambda: list(by_hand.run_dir(0).glob("checkpoint-*")), "a checkpoint")
    replica.see_children()
    for part in (replica, *servers):
        part.signal(signal.SIGKILL)
        assert part.finish().code == -signal.SIGKILL
    resumed = start("train", "--resume", str(by_hand.run_dir(0)), "--join", "none", "--json").finish()
    assert resumed.code == 0, resumed.err
    assert f"without the run of many machines at {by_hand.first}" in resumed.err
    assert (resumed.summary["images_trained"], resumed.summary["epochs"]) == (epochs * IMAGES, epochs)
    assert resumed.summary["updates"] == epochs * BATCHES
    rows = metrics(by_hand.run_dir(0))
    assert seen_epochs(by_hand.run_dir(0)) == set(range(1, epochs + 1))
    assert [row["updates"] for row in rows] == [row["epoch"] * BATCHES for row in rows]
    assert [row["lr"] for row in rows[2:]] == pytest.approx([0.07 * (1 - row["epoch"] / epochs) for row in rows[2:]])


@pytest.mark.long
def test_a_run_of_own_servers_goes_on_alone(begin, start, tmp_path):
    epochs = 12
    run = begin(epochs)
    both_train(run, tmp_path / "run")
    run.signal(signal.SIGTERM)
    assert run.finish().code == 143
    resumed = start("train", "--resume", str(tmp_path / "run"), "--servers", "0", "--json").finish()
    assert resumed.code == 0, resumed.err
    assert "without its 2 parameter servers" in resumed.err
    assert resumed.summary["images_trained"] == epochs * IMAGES
    assert epochs * BATCHES <= resumed.summary["updates"] < epochs * BATCHES + 60  # what was under way is trained again
    assert metrics(tmp_path / "run")[-1]["lr"] < 0.07 * 60 / (epochs * BATCHES)


@pytest.mark.long
def test_a_run_whose_model_the_disk_refused_is_resumed_with_nothing_to_train(begin, start, tmp_path):
    assert begin(2).finish().code == 0
    rows = metrics(tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").unlink()
    resumed = start("train", "--resume", str(tmp_path / "run"), "--json").finish()
    assert resumed.code == 0, resumed.err
    assert resumed.summary["images_trained"] == 2 * IMAGES
    assert resumed.summary["test_accuracy"] is not None
    assert metrics(tmp_path / "run") == rows
    assert (tmp_path / "run" / "model.safetensors").exists()
    done = start("train", "--resume", str(tmp_path / "run"), "--servers", "0").finish()
    refused_at_once(done, 2, "has done its 2 epochs; give --epochs more than that to go on")


# What is given wrong.


def expect_one_line(ended, code, *messages):
    assert ended.code == code, ended.err
    lines = [line for line in ended.err.splitlines() if line.startswith("adam_mp: ")]
    assert len(lines) == 1, ended.err
    for message in messages:
        assert message in lines[0]
    assert "Traceback" not in ended.err


def refused_at_once(ended, code, *messages):
    expect_one_line(ended, code, *messages)
    assert len(ended.err.splitlines()) == 1, ended.err


@pytest.fixture
def taken():
    """An address that somebody listens on who is no parameter server, and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def nobody():
    """An address that nobody listens on."""
    return f"127.0.0.1:{free_port()}"


@pytest.mark.parametrize("command", ["serve-params", "serve-data"])
def test_a_port_in_use(here, small_data, taken, command):
    data = ("--data", str(small_data)) if command == "serve-data" else ()
    refused_at_once(here(command, "--listen", taken, *data), 1, taken, "Address already in use")


@pytest.mark.parametrize("listen", [("0.0.0.0:0", "--advertise", "10.0.0.5"), ("10.0.0.5:7700",)])
def test_listening_beyond_this_machine_needs_keys(here, listen):
    refused_at_once(here("serve-params", "--listen", *listen), 2, "keygen")


@pytest.mark.parametrize("command", ["serve-params", "serve-data"])
def test_what_cannot_be_listened_on_is_wrong_input(here, by_hand, small_data, tmp_path, command):
    data = ("--data", str(small_data)) if command == "serve-data" else ()
    folder = tmp_path / "sockets"
    folder.mkdir(mode=0o700)
    (folder / "file").touch()
    keys = by_hand.make_keys()
    expected = {f"unix:{folder}/file": "a file has that name", f"unix:{folder}/{'x' * 300}": "File name too long",
                "192.0.2.1:0": "annot assign requested address"}  # fmt: skip
    for listen, message in expected.items():
        ended = here(command, "--listen", listen, *data, *(keys if listen[0] == "1" else ()))
        expect_one_line(ended, 2, "cannot listen on", message, "choose another --listen")


def test_listening_everywhere_needs_an_address_for_others(here):
    refused_at_once(here("serve-params", "--listen", "0.0.0.0:0"), 2, "--advertise")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--replicas", "2"), "give --servers"),
        (("train", "--servers", "2", "--join", "127.0.0.1:7700"), "give one of them"),
        (("train", "--join", "127.0.0.1"), "expected HOST:PORT"),
        (("train", "--wire", "int8"), "expected one of float32"),
        (("serve-params", "--listen", "127.0.0.1:0", "--servers", "0"), "--servers is 0"),
        (("serve-params", "--listen", "127.0.0.1:0", "--copies", "0"), "--copies is 0; expected 1 to 64"),
        (("serve-params", "--listen", "127.0.0.1:0", "--copies-listen", "127.0.0.1:0"), "give --copies N too"),
        (("serve-params", "--listen", "127.0.0.1:0", "--beat-seconds", "0"), "--beat-seconds is 0; expected 0.01"),
        (("train", "--servers", "2", "--copies", "0"), "--copies is 0"),
        (("train", "--copies", "2"), "give --servers N too"),
        (("train", "--servers", "2", "--commit", "all"), "give --copies N too"),
        (
            ("train", "--servers", "2", "--copies", "2", "--commit", "soon"),
            "--commit is 'soon'; expected copied or all",
        ),
        (("status", "here"), "here does not exist as a folder, and is no address; expected HOST:PORT"),
        (("status", "runs/none"), "runs/none does not exist as a folder, and is no address"),
        (("status", "127.0.0.1:99999"), "with a port from 1 to 65535"),
    ],
)
def test_wrong_flags(here, arguments, message):
    refused_at_once(here(*arguments), 2, message)


@pytest.mark.parametrize(
    "arguments", [("status", "127.0.0.1:7700"), ("serve-params", "--listen", "127.0.0.1:0")], ids=lambda a: a[0]
)
def test_bad_key_files(here, tmp_path, arguments):
    path = tmp_path / "key"
    refused_at_once(here(*arguments, "--key-file", str(path)), 2, str(path), "cannot read key file")
    path.write_text("no key")
    path.chmod(0o644)
    refused_at_once(here(*arguments, "--key-file", str(path)), 2, f"chmod 600 {path}")
    path.chmod(0o600)
    refused_at_once(here(*arguments, "--key-file", str(path)), 2, "is not a key file")


def test_status_where_nobody_answers(start, nobody, taken):
    asked = [start("status", address, "--deadline", "2") for address in (nobody, taken)]
    for command, address in zip(asked, (nobody, taken), strict=True):
        refused_at_once(command.finish(20), 1, address, "does not answer")


def test_status_where_nobody_is_reached_waits_no_longer_than_that_takes_to_see(start, nobody, tmp_path):
    folder = tmp_path / "sockets"
    folder.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(folder / "killed"))
    expected = {
        nobody: "does not answer for 2 s: nobody answers there",
        f"unix:{folder}/none": "does not answer for 2 s: there is no such socket file",
        f"unix:{folder}/killed": "does not answer for 2 s: nobody listens at this socket file any more",
    }
    asked = [start("status", address) for address in expected]
    for command, (address, message) in zip(asked, expected.items(), strict=True):
        refused_at_once(command.finish(20), 1, address, message, "is 'adam-mp serve-params' running there?")


def test_status_with_other_keys(by_hand, start):
    by_hand.keys = by_hand.make_keys()
    other = by_hand.make_keys("other")
    server = by_hand.params(0)
    without = start("status", by_hand.first, "--deadline", "2")
    wrong = start("status", by_hand.first, "--deadline", "2", *other)
    refused_at_once(without.finish(20), 1, by_hand.first, "key")
    refused_at_once(wrong.finish(20), 1, by_hand.first, "key file")
    assert by_hand.status()["phase"] == "waiting"
    server.signal(signal.SIGTERM)
    assert server.finish().code == 143
    assert "stopped: the run has not begun; the same command starts" in server.read(server.out)


def test_joining_where_nobody_answers(small_data, tmp_path, nobody, monkeypatch, capsys, forks):
    monkeypatch.setattr(cluster, "_JOINING", 1.0)
    folder = tmp_path / "run"
    code = main(["train", "--join", nobody, "--data", str(small_data), "--cores", "1", "--run-dir", str(folder)])
    assert code == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith(f"adam_mp: error: {nobody} does not answer for 1 s")
    assert not folder.exists()


def says(command, words):
    """Wait until a command that goes on says these words on one line; return the line."""

    def line():
        assert command.process.poll() is None, command.read(command.err)
        said = (command.read(command.out) + command.read(command.err)).splitlines()
        return next((line for line in said if all(word in line for word in words)), None)

    return wait_until(line, f"it to say {words}")


def test_who_waits_to_join_says_whom_it_waits_for_what_it_sees_and_how_long(by_hand, start, nobody, small_data):
    by_hand.keys = by_hand.make_keys()
    other = by_hand.make_keys("other")
    server = by_hand.params(0)
    folder = by_hand.folder / "sockets"
    folder.mkdir(mode=0o700)
    gone = f"unix:{folder}/params"
    train = ("train", "--data", str(small_data), "--cores", "1", "--model", "mlp")
    waiting = [
        (start(*train, "--join", nobody), nobody, "nobody answers there"),
        (start(*train, "--join", gone), gone, "there is no such socket file"),
        (start(*train, "--join", by_hand.first, *other), by_hand.first, "does it have another key file?"),
        (start(*train, "--join", by_hand.first), by_hand.first, "it expects keys; give the run's --key-file"),
        (start("serve-params", "--listen", "127.0.0.1:0", "--join", gone), gone, "there is no such socket file"),
    ]
    for command, address, sees in waiting:
        line = says(command, [f"waiting to join {address}, for ", " s more at most: ", sees])
        assert "--join none" not in line
    for command, _, _ in waiting:
        command.signal(signal.SIGTERM)
        assert command.finish().code == 143
    server.signal(signal.SIGTERM)
    server.finish()


def test_going_on_alone_is_advised_to_a_run_that_is_resumed(small_data, tmp_path, nobody, monkeypatch, capsys, forks):
    monkeypatch.setattr(cluster, "_JOINING", 1.0)
    folder = str(tmp_path / "run")
    train = ["train", "--data", str(small_data), "--cores", "1", "--model", "mlp", "--quiet"]
    assert main([*train, "--epochs", "1", "--run-dir", folder]) == 0
    assert main([*train, "--epochs", "2", "--resume", folder, "--join", nobody]) == 1
    assert "; to go on without that run, give --join none" in capsys.readouterr().err
    assert main([*train, "--epochs", "2", "--join", nobody, "--run-dir", str(tmp_path / "new")]) == 1
    assert "none" not in capsys.readouterr().err


def test_the_first_server_does_not_wait_for_ever(by_hand):
    server = by_hand.params(0, "127.0.0.1:0", "--wait-seconds", "0.5")
    refused_at_once(server.finish(), 1, "waited 0.5 s for 1 more parameter server: the run has not begun; the same")
    assert by_hand.start("serve-params", "--listen", "127.0.0.1:0", "--wait-seconds", "0").finish().code == 2


@pytest.mark.long
def test_a_replica_with_other_settings_is_refused(by_hand):
    server, by_hand.first = by_hand.serve("serve-params", "params-0", "127.0.0.1:0")
    run = by_hand.replica(0, 500)
    wait_until(lambda: metrics(by_hand.run_dir(0)), "the first epoch")
    strangers = [
        by_hand.replica(1, 7),
        by_hand.replica(2, 500, "--lr", "0.25"),
        by_hand.replica(3, 500, "--batch-size", "32"),
        by_hand.replica(4, 500, "--model", "mlp"),
        by_hand.replica(5, 500, "--augment", "rotate=20"),
        by_hand.replica(6, 500, "--weight-decay", "0.01"),
    ]
    expected = [
        ("epochs 7, the run has 500",),
        ("lr 0.25, the run has '0.07 * warmup * (1 - progress)'",),
        ("batch_size 32, the run has 16",),
        ("another network",),
        ("augment 'rotate=20', the run has 'translate=2,rotate=10,scale=0.1,shear=5,elastic=0.8'",),
        ("weight_decay 0.01, the run has 0.0001",),
    ]
    for stranger, messages in zip(strangers, expected, strict=True):
        expect_one_line(stranger.finish(), 2, by_hand.first, "refuses", *messages)
    run.signal(signal.SIGTERM)
    ended = run.finish()
    assert ended.code == 143, ended.err
    assert json.loads(ended.out.splitlines()[-1])["stopped_by"] == "SIGTERM"
    server.signal(signal.SIGTERM)
    ended = server.finish()
    assert ended.code == 143
    assert re.search(
        r"stopped: the run is not done \(epoch \d+ of 500\), and this server has no --snapshots", ended.out
    )

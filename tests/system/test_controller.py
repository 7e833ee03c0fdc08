"""Runs whose coordinator is elected in a real etcd: servers, the coordinator and members of etcd are killed."""

from __future__ import annotations

import contextlib
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from adam_mp.params.controller.etcd import Etcd
from adam_mp.params.controller.place import parse_etcd
from adam_mp.params.controller.record import Record, as_bytes
from benchmarks.loaded_servers import Run
from tests.params.controller.real_etcd import needs_etcd
from tools.etcd_members import EtcdCluster, free_port

pytestmark = needs_etcd


@pytest.fixture(scope="module")
def etcd(tmp_path_factory):
    with EtcdCluster(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


def test_another_server_becomes_coordinator_when_it_is_killed_and_no_update_is_lost(etcd):
    with Run("copied", f"{etcd.controller}/killed") as run:
        place = run.coordinator()
        run.signal(place, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while (successor := run.coordinator()) == place:
            assert time.monotonic() < deadline
        run.servers.restart(place)
        run.settle()
        _wait_for(lambda: len(run.state()["members"]) == 6)  # four servers and two replicas
        assert run.audit() == 0
        said = (run.folder / f"log-{successor}").read_text()
    assert "this server is the coordinator now" in said
    assert re.search(rf"is primary of \d bucket groups? .* after {run.servers.addresses[place]} was last heard", said)


@pytest.mark.long
@pytest.mark.parametrize("commit", ["copied", "all"])
def test_servers_and_the_leader_of_etcd_die_in_turn(tmp_path, commit):
    chance = random.Random(3)
    with EtcdCluster(tmp_path, members=3) as cluster, Run(commit, cluster.controller) as run:
        for _ in range(4):
            place, member = run.victim(chance), cluster.leader()
            cluster.stop(member)
            times = run.signal(place, signal.SIGKILL)
            assert max(times) < 10, "a failover waits for etcd's own election"
            run.servers.restart(place)
            cluster.start(member)
            run.settle()
        assert run.audit() == 0


@pytest.mark.long
def test_a_run_goes_on_while_etcd_is_down_and_swaps_roles_when_it_is_back(tmp_path):
    with EtcdCluster(tmp_path) as cluster, Run("copied", cluster.controller) as run:
        epoch, place = run.map()["epoch"], run.victim(random.Random(1))
        cluster.stop(0, signal.SIGSTOP)
        rounds = run.senders[0].rounds
        time.sleep(8)
        _wait_for(lambda: run.senders[0].rounds > rounds + 3)
        assert run.map()["epoch"] == epoch
        run.servers.processes[place].kill()
        time.sleep(3)
        assert run.map()["epoch"] == epoch, "nobody can change roles"
        cluster.stop(0, signal.SIGCONT)
        run.servers.restart(place)
        _wait_for(lambda: run.map()["epoch"] > epoch)
        run.settle()
        assert run.audit() == 0
        said = "".join((run.folder / f"log-{number}").read_text() for number in range(4))
    assert "gives no answer in time; training goes on, but changes of roles wait" in said
    assert "etcd answers again" in said


def serve(controller, *arguments, port=0):
    return [
        sys.executable, "-m", "adam_mp", "serve-params", "--listen", f"127.0.0.1:{port}", "--copies", "2", "--servers",
        "2", "--controller", controller, *arguments,
    ]  # fmt: skip


def refused(command):
    """Return the one line with which a command that is refused ends, with exit code 2."""
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2, ended
    lines = ended.stderr.strip().splitlines()
    assert len(lines) == 1, ended
    return lines[0]


def test_what_cannot_be_used_is_refused_before_anything_starts(etcd):
    nobody = f"etcd://127.0.0.1:{free_port()}"
    assert f"etcd at {nobody[7:]} is not reached: Connection refused" in refused(serve(nobody))
    assert "--join is not for servers with --controller" in refused(serve(nobody, "--join", "127.0.0.1:1"))
    assert "--controller-tls is x; expected three files" in refused(serve(nobody, "--controller-tls", "x"))
    tls = [sys.executable, "-m", "adam_mp", "serve-params", "--listen", "127.0.0.1:0", "--controller-tls", "a,b,c"]
    assert "give --controller etcd://HOST:PORT too" in refused(tls)
    alone = [*serve(nobody), "--copies", "1"]
    assert "--controller is for servers with copies" in refused(alone)


def test_keys_of_another_run_are_refused(etcd):
    client = Etcd(parse_etcd(f"{etcd.controller}/old"))
    try:
        client.swap({"run": as_bytes(Record(77, 5, 2, "copied"))}, [], 5.0)
        line = refused(serve(f"{etcd.controller}/old"))
        assert "--servers is 2, the run in etcd under /old has 5" in line
        assert "etcdctl del --prefix /adam_mp/old/" in line
        client.swap({"run": b"hello"}, [], 5.0)
        assert "the key run in etcd holds b'hello', which is no JSON" in refused(serve(f"{etcd.controller}/old"))
    finally:
        client.forget([], 5.0)
        client.close()


@pytest.mark.long
def test_keys_of_a_run_without_servers_are_refused(etcd):
    client = Etcd(parse_etcd(f"{etcd.controller}/left"))
    try:
        client.swap({"run": as_bytes(Record(77, 2, 2, "copied"))}, [], 5.0)
        assert "etcd has the keys of run 4d, of which no server lives" in refused(serve(f"{etcd.controller}/left"))
    finally:
        client.forget([], 5.0)
        client.close()


@pytest.mark.long
def test_a_run_ends_well_without_its_first_coordinator_and_leaves_no_keys(etcd, tmp_path):
    ports, controller = [free_port(), free_port(), free_port()], f"{etcd.controller}/ends"
    with contextlib.ExitStack() as ends:
        logs = [ends.enter_context((tmp_path / f"log-{place}").open("wb")) for place in range(3)]
        servers = []
        for place, port in enumerate(ports):
            command = [*serve(controller, port=port), "--servers", "3"]
            servers.append(ends.enter_context(subprocess.Popen(command, stdout=logs[place], stderr=logs[place])))
            ends.callback(servers[-1].kill)
        train = [sys.executable, "-m", "adam_mp", "train", "--join", f"127.0.0.1:{ports[1]}", "--epochs", "2",
                 "--cores", "1", "--run-dir", str(tmp_path / "run")]  # fmt: skip
        replica = ends.enter_context(subprocess.Popen(train, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
        ends.callback(replica.kill)
        _wait_for(lambda: "replica" in _logs(tmp_path).replace("the first replica", ""))
        time.sleep(2.0)
        first = next(place for place in range(3) if "params 127.0.0.1" in _log(tmp_path, place))
        servers[first].kill()
        output = replica.communicate(timeout=200)[0].decode()
        assert replica.returncode == 0, output
        for place, server in enumerate(servers):
            assert place == first or server.wait(30) == 0, _log(tmp_path, place)
    assert not [key for key in etcd.keys() if "/ends/" in key]  # noqa: SIM118
    trained = re.search(r"images +([\d,]+) trained by all machines .*, (\d+) skipped, (\d+) failed", output)
    assert trained is not None, output
    assert trained.groups() == ("114,000", "0", "0")


def _log(folder, place):
    return (folder / f"log-{place}").read_text()


def _logs(folder):
    return "".join(_log(folder, place) for place in range(3))


def _wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)

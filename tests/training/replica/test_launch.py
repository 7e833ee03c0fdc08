"""The other parts of a run on this machine: who gets a successor, and who does not."""

from __future__ import annotations

import signal

import pytest

from adam_mp.params.server.serving import ServerSpec, serve_for_supervisor
from adam_mp.process.early_deaths import EarlyDeaths
from adam_mp.training.replica.launch import Launch, LaunchShape, ReplicaTask, _Part


class Ended:
    """A child that is over."""

    pid, started = 4711, 0.0

    def __init__(self, code):
        self.exit_code = code

    def describe_end(self):
        return f"ended with {self.exit_code}"

    def last_words(self):
        return ""

    def last_lines(self):
        return ""

    def new_lines(self):
        return []

    def own_fault(self):
        return ""

    def close(self):
        pass


def train(task):
    """In place of what trains a replica."""


@pytest.fixture
def launched(tmp_path, monkeypatch):
    """A launch with one part that has ended, once its exit code and whether the launch stops are given."""

    def launched(function, code, stops=False):
        argument = ReplicaTask({"run_dir": str(tmp_path / "replica-1")}, (1, 2))
        made = Launch(
            tmp_path, LaunchShape(1, 2), {}, 5, train, lambda: stops, lambda text, details="": made.told.append(text)
        )
        made.told, made.started, made.dead = [], [], []
        made._parts.append(_Part("part", function, argument, EarlyDeaths(5), Ended(code)))
        monkeypatch.setattr(made, "_start", lambda part: made.started.append(part.name))
        monkeypatch.setattr(made, "_say_dead", made.dead.append)
        return made

    return launched


@pytest.mark.parametrize("code", [143, 130, 1, -signal.SIGTERM, -signal.SIGKILL])
def test_a_replica_that_did_not_finish_is_announced_and_replaced(launched, code):
    launch = launched(train, code)
    launch.step()
    assert launch.told == [f"part ended with {code}; started again"]
    assert (launch.started, launch.dead) == (["part"], [4711])


def test_a_replica_whose_part_of_the_run_is_done_is_not_replaced(launched):
    launch = launched(train, 0)
    launch.step()
    assert (launch.told, launch.started, launch.dead) == ([], [], [])


def test_what_stops_the_whole_run_may_stop_a_replica_too_which_is_not_replaced(launched):
    launch = launched(train, 143, stops=True)
    launch.step()
    assert (launch.told, launch.started, launch.dead) == ([], [], [4711])


def test_a_server_is_replaced_while_the_run_stops_since_it_takes_the_last_updates(launched):
    launch = launched(serve_for_supervisor, -signal.SIGTERM, stops=True)
    launch.step()
    assert launch.started == ["part"]


class Noting(Ended):
    """A parameter server that has printed some lines."""

    def __init__(self, lines):
        super().__init__(None)
        self.lines = lines

    def new_lines(self):
        lines, self.lines = self.lines, []
        return lines


def test_what_servers_note_is_told_with_their_names(launched):
    launch = launched(train, 0)
    launch._parts[:] = [
        _Part(f"parameter server {number}", serve_for_supervisor, ServerSpec(f"unix:/x/server-{number}"), None, child)
        for number, child in enumerate(
            [
                Noting(["replica r joined", "note: unix:/x/server-1 is primary, as unix:/x/server-10 was"]),
                Noting(["note: no room for a copy"]),
                *[Noting([])] * 9,
            ]
        )
    ]
    launch.step()
    launch.step()
    assert launch.told == [
        "parameter server 1 is primary, as parameter server 10 was", "parameter server 1: no room for a copy"
    ]  # fmt: skip

"""The client of etcd: against a server of the tests' own that misbehaves, and against real ones."""

from __future__ import annotations

import base64
import http.server
import json
import threading
import time

import pytest

from adam_mp.errors import SettingsError
from adam_mp.params.controller.etcd import Etcd, EtcdError, Found, Unchanged
from adam_mp.params.controller.place import EtcdPlace, Tls, parse_etcd
from adam_mp.transport.addresses import Address
from tests.params.controller.real_etcd import needs_etcd
from tools.etcd_members import BINARIES, EtcdCluster, make_authority, make_certificate
from tools.ports import free_port

KEYS = ("run", "coordinator")
VERSION = {"etcdserver": "3.5.1", "etcdcluster": "3.5.0"}


class Gateway:
    """An HTTP server that answers as `answer(path, content)` says: (status, bytes), or None for no answer."""

    def __init__(self, answer):
        gateway, self.asked = self, []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                gateway.asked.append(self.path)
                answered = answer(self.path, json.loads(content) if content else None)
                if answered is None:
                    self.close_connection = True
                    return
                self.send_response(answered[0])
                self.send_header("Content-Length", str(len(answered[1])))
                self.end_headers()
                self.wfile.write(answered[1])

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = Address("127.0.0.1", self.server.server_port)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def gateway(request):
    """Make gateways, and clients of them, that end with the test."""
    made = []

    def make(*answers):
        gateways = [Gateway(answer) for answer in answers]
        client = Etcd(EtcdPlace(tuple(each.address for each in gateways), "t"))
        made.extend((*gateways, client))
        return client, gateways

    yield make
    for each in reversed(made):
        each.close()


def good(path, content):
    return 200, json.dumps(VERSION if path == "/version" else {"responses": [{"response_range": {}}]}).encode()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (lambda path, content: (200, b"<html>hello</html>"), "without JSON; is it etcd"),
        (lambda path, content: (200, b"[1]"), "is it etcd"),
        (lambda path, content: (200, b'{"etcdserver": "3.3.10"}'), "is of version 3.3.10; expected 3.4 or newer"),
        (lambda path, content: (200, b"{}"), "is of version unknown"),
        (lambda path, content: good(path, content) if path == "/version" else (404, b"404 page not found"),
         "answers 404 without JSON; is it etcd 3.4 or newer, gateway on?"),
        (lambda path, content: good(path, content) if path == "/version" else (400, b'{"error": "user name is empty"}'),
         "answers 400: user name is empty"),
        (lambda path, content: None, "is not reached"),
    ],
)  # fmt: skip
def test_what_is_no_etcd_is_named(gateway, answer, expected):
    client, gateways = gateway(answer)
    with pytest.raises(EtcdError) as raised:
        client.check(0.2)
    assert expected in str(raised.value)
    assert str(gateways[0].address) in str(raised.value)


def test_an_endpoint_that_is_silent_leaves_time_for_another(gateway):
    client, gateways = gateway(lambda path, content: time.sleep(1.0), good)
    assert client.read(KEYS, 0.8) == {}
    assert len(gateways[1].asked) == 1


def test_an_endpoint_whose_etcd_has_just_elected_a_leader_is_asked_again(gateway):
    changed = (503, b'{"error": "etcdserver: leader changed", "code": 14}')
    told = [changed, changed]
    client, gateways = gateway(lambda path, content: told.pop() if told else good(path, content), good)
    assert client.read(KEYS, 5.0) == {}
    assert [len(each.asked) for each in gateways] == [3, 0]


def test_endpoints_that_refuse_are_asked_more_and_more_seldom_until_one_answers(gateway):
    slept, answers = [], [b"no etcd", b"no etcd"]

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 12:
            answers.clear()

    _, (etcd,) = gateway(lambda path, content: (200, answers[0]) if answers else good(path, content))
    client = Etcd(EtcdPlace((etcd.address,), "t"), lambda: sum(slept), sleep)
    with pytest.raises(EtcdError):
        client.read(KEYS, 2.0)
    assert slept[0] < 0.05
    assert slept == sorted(slept)
    assert len(slept) < 12, "2 s, without hammering"
    assert client.read(KEYS, 5.0) == {}
    assert slept[-1] == 0.5
    answers.append(b"no etcd")
    with pytest.raises(EtcdError):
        client.read(KEYS, 0.01)
    assert slept[-1] == slept[0]
    client.close()


def test_nobody_there_is_named_within_the_deadline():
    place = EtcdPlace((Address("127.0.0.1", free_port()),), "t")
    client, began = Etcd(place), time.monotonic()
    with pytest.raises(EtcdError, match=f"{place} is not reached: Connection refused"):
        client.read(("run",), 0.3)
    assert time.monotonic() - began < 2
    client.close()


def test_a_fault_of_one_endpoint_goes_to_the_next_which_is_asked_first_from_then_on(gateway):
    client, (bad, well) = gateway(lambda path, content: None, good)
    client.check(2.0)
    client.read(("run",), 2.0)
    assert (len(bad.asked), len(well.asked)) == (1, 3)


def test_an_endpoint_that_hangs_is_left_after_a_second(gateway):
    client, _ = gateway(lambda path, content: time.sleep(2.5), good)
    began = time.monotonic()
    client.read(KEYS, 5.0)
    assert 0.9 < time.monotonic() - began < 2.4


def test_zeros_are_left_out_and_numbers_are_texts(gateway):
    key = base64.b64encode(b"/adam_mp/t/run").decode()
    answer = {"responses": [{"response_range": {"kvs": [{"key": key, "mod_revision": "12"}]}}]}
    client, _ = gateway(lambda path, content: (200, json.dumps(answer).encode()))
    assert client.read(("run",), 1.0) == {"run": Found(b"", 12)}


@pytest.mark.parametrize(
    "answer",
    [
        {}, {"responses": None}, {"responses": [{}]}, {"responses": [{"response_range": {"kvs": None}}]},
        {"responses": [{"response_range": {"kvs": [{"key": "!", "mod_revision": "x"}]}}], "succeeded": True},
        {"header": None, "succeeded": True, "ID": "x", "result": None},
        {"header": {"revision": "x"}, "succeeded": True},
    ],
)  # fmt: skip
def test_answers_of_other_types_are_faults_of_etcd(gateway, answer):
    client, _ = gateway(lambda path, content: (200, json.dumps(answer).encode()))
    asked = [lambda: client.read(("run",), 0.4), lambda: client.lease(3, 0.4), lambda: client.keep_alive(3, 0.4)]
    if answer.get("succeeded"):
        asked.append(lambda: client.swap({"run": b""}, [], 0.4))
    for ask in asked:
        with pytest.raises(EtcdError, match="is it etcd"):
            ask()


def test_files_that_are_no_certificates_are_named(tmp_path):
    file = tmp_path / "no.pem"
    file.write_text("no")
    with pytest.raises(SettingsError, match="the files cannot be used"):
        Etcd(EtcdPlace((Address("127.0.0.1", 1),), "t", Tls(file, file, file)))


@needs_etcd
@pytest.mark.parametrize("binary", BINARIES)
def test_keys_swaps_and_leases_of_a_real_etcd(tmp_path, binary):
    with EtcdCluster(tmp_path, binary=binary) as cluster:
        client = Etcd(parse_etcd(f"{cluster.controller}/mine"))
        other = Etcd(parse_etcd(f"{cluster.controller}/mine2"))
        client.check(5.0)
        assert client.read(KEYS, 5.0) == {}
        first = client.swap({"run": b"a\x00b"}, [Unchanged("run", 0)], 5.0)
        assert first > 0
        assert client.swap({"run": b"c"}, [Unchanged("run", 0)], 5.0) == 0
        assert client.swap({"run": b"c"}, [Unchanged("run", first), Unchanged("coordinator", 1)], 5.0) == 0
        assert {key: (each.value, each.revision) for key, each in client.read(KEYS, 5.0).items()} == {
            "run": (b"a\x00b", first)
        }
        lease = client.lease(3, 5.0)
        values = {"run": b"d", "coordinator": b"e"}
        assert client.swap(values, [Unchanged("run", first)], 5.0, {"coordinator": lease}) > first
        assert client.keep_alive(lease, 5.0)
        assert sorted(client.read(KEYS, 5.0)) == ["coordinator", "run"]
        assert other.read(KEYS, 5.0) == {}, "another run's keys"
        client.end_lease(lease, 5.0)
        assert list(client.read(KEYS, 5.0)) == ["run"]
        assert not client.keep_alive(lease, 5.0)
        assert client.forget([Unchanged("run", 1)], 5.0) == 0
        assert client.forget([Unchanged("coordinator", 0)], 5.0) > 0
        assert client.read(KEYS, 5.0) == {}
        client.close()
        other.close()


@needs_etcd
def test_certificates_are_needed_and_checked(tmp_path):
    for name in ("ca", "other"):
        make_authority(tmp_path, name)
    for name in ("server", "client"):
        make_certificate(tmp_path, name, ["127.0.0.1"])
    cluster = EtcdCluster(tmp_path, certificates=tmp_path)
    cluster.start(0)
    try:
        tls = ",".join(str(tmp_path / name) for name in ("client.pem", "client.key", "ca.pem"))
        client = Etcd(parse_etcd(cluster.controller, tls))
        client.check(20.0)
        client.close()
        wrong = ",".join(str(tmp_path / name) for name in ("client.pem", "client.key", "other.pem"))
        for files, expected in ((wrong, "does not agree on TLS: certificate verify failed"), (None, "is not reached")):
            client = Etcd(parse_etcd(cluster.controller, files))
            with pytest.raises(EtcdError, match=expected):
                client.check(0.5)
            client.close()
    finally:
        cluster.__exit__()

from __future__ import annotations

import socket

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adam_mp.errors import SettingsError, shown
from adam_mp.transport.addresses import Address, check_joining, check_listening, parse_address


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("10.0.0.5:7700", "10.0.0.5", 7700),
        ("node-3.cluster_a.example:1", "node-3.cluster_a.example", 1),
        ("localhost:65535", "localhost", 65535),
        ("[::1]:7", "::1", 7),
        ("[2001:db8::17]:7700", "2001:db8::17", 7700),
        ("[fe80::1%eth0]:7700", "fe80::1%eth0", 7700),
    ],
)
def test_an_address_is_read_and_written_the_same(text, host, port):
    address = parse_address(text, "--listen")
    assert address == Address(host, port)
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        "", ":", ":7700", "host", "host:", "host:0", "host:65536", "host:-1", "host:+1", "host:1.5", "host:port",
        "host:7 ", " host:7", "host :7", "host:\u0663", "host:1\n", "ho\nst:1", "[]:7", "[::1]", "::1", "fe80::1",
        "::1:7", "[::1:7", "::1]:7", "[::1]7", "[[::1]]:7", "tcp://10.0.0.5:7", "http://host:7/", "a@b:7", "a;b:7",
        "*:7", "7700", "host:" + "1" * 5000,
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_naming_what_was_given(text):
    with pytest.raises(SettingsError, match=r"join is .*; expected HOST:PORT, such as 10.0.0.5:7700") as error:
        parse_address(text, "--join")
    assert shown(text) in str(error.value)
    assert "\n" not in str(error.value)


@given(st.text())
@example("a:9" + "9" * 5000)
def test_any_text_is_an_address_or_refused(text):
    try:
        address = parse_address(text, "--join")
    except SettingsError:
        return
    assert 1 <= address.port <= 65535
    assert parse_address(str(address), "--join") == address


def test_port_0_is_for_listening_where_that_is_allowed():
    assert parse_address("127.0.0.1:0", "--listen", least_port=0).port == 0
    with pytest.raises(SettingsError, match="with a port from 1 to 65535"):
        parse_address("127.0.0.1:0", "--listen")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "127.255.255.254", "localhost", "::1"])
def test_this_machine_alone_is_loopback(host):
    assert Address(host, 7).is_loopback
    check_listening(Address(host, 7), has_keys=False)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "10.0.0.5", "2001:db8::1", "128.0.0.1", "no-such-host.invalid", "x" * 70, "a..b"]
)
def test_what_others_can_reach_is_no_loopback_and_needs_keys(host):
    assert not Address(host, 7).is_loopback
    check_listening(Address(host, 7), has_keys=True)
    with pytest.raises(SettingsError, match="without keys would let anyone join") as error:
        check_listening(Address(host, 7), has_keys=False)
    for hint in (str(Address(host, 7)), "adam-mp keygen FILE", "key_file=FILE", "127.0.0.1"):
        assert hint in str(error.value)


def names(monkeypatch, *numbers):
    entries = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (number, 7)) for number in numbers]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: entries)


def test_a_name_with_one_address_that_others_reach_is_no_loopback(monkeypatch):
    names(monkeypatch, "127.0.0.1", "10.0.0.5")
    assert not Address("both", 7).is_loopback
    names(monkeypatch, "127.0.0.1", "::1")
    assert Address("both", 7).is_loopback


def test_version_4_is_preferred_where_a_name_has_both(monkeypatch):
    names(monkeypatch, "127.0.0.1", "::1")
    assert not Address("localhost", 7).is_version_6
    names(monkeypatch, "::1")
    assert Address("localhost", 7).is_version_6


def test_the_version_of_a_name_that_nobody_knows_is_no_error():
    assert not Address("no-such-host.invalid", 7).is_version_6
    assert Address("::1", 7).is_version_6
    assert not Address("10.0.0.5", 7).is_version_6


def test_numbers_are_sorted_version_4_first(monkeypatch):
    names(monkeypatch, "2001:db8::1", "9.1.1.1", "10.1.1.1", "9.1.1.1")
    assert Address("many", 7).numbers() == ["10.1.1.1", "9.1.1.1", "2001:db8::1"]


class Changing:
    """A name server that gives other numbers at each look."""

    def __init__(self, monkeypatch, *answers):
        self.answers, self.looks = list(answers), 0
        monkeypatch.setattr(socket, "getaddrinfo", self.look)

    def look(self, *_, **__):
        self.looks += 1
        numbers = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (number, 7)) for number in numbers]


@pytest.mark.parametrize("check", [check_joining, check_listening])
def test_without_keys_what_is_used_is_what_was_checked(monkeypatch, check):
    names = Changing(monkeypatch, ["::1", "127.0.0.3", "127.0.0.2"], ["10.0.0.5"])
    assert check(Address("name", 7), has_keys=False) == Address("127.0.0.2", 7)
    assert names.looks == 1
    with pytest.raises(SettingsError):
        check(Address("name", 7), has_keys=False)
    assert names.looks == 2


def test_with_keys_a_name_is_listened_on_by_number_and_dialled_as_it_is(monkeypatch):
    Changing(monkeypatch, ["2001:db8::1", "10.1.1.1"])
    assert check_listening(Address("many", 7), has_keys=True) == Address("10.1.1.1", 7)
    assert check_joining(Address("many", 7), has_keys=True) == Address("many", 7)


def test_an_unknown_name_is_listened_on_and_dialled_as_it_is_with_keys_and_not_without():
    unknown = Address("no-such-host.invalid", 7)
    for check in (check_listening, check_joining):
        assert check(unknown, has_keys=True) == unknown
        with pytest.raises(SettingsError):
            check(unknown, has_keys=False)

"""HOST:PORT as users write it, and the rule: without keys, a part listens and dials on this machine's loopback only."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
import socket

from adam_mp.errors import SettingsError, shown

_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|([\w.-]+)):([0-9]{1,5})", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Address:
    """A host, as a name or an IP address, and a port; with port 0 the system chooses one to listen on."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_version_6(self) -> bool:
        """Whether only IPv6 leads there; where a host has addresses of both versions, both sides use IPv4."""
        try:
            return all(":" in number for number in self.numbers())
        except OSError:
            return ":" in self.host

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine's loopback."""
        return _all_loopback(self.known_numbers())

    def known_numbers(self) -> list[str]:
        """Return `numbers()`, or an empty list if nobody knows the host's name."""
        try:
            return self.numbers()
        except OSError:
            return []

    def numbers(self) -> list[str]:
        """Return the IP addresses of the host, IPv4 first; raises OSError if nobody knows the host's name."""
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except UnicodeError:  # a part of the name is longer than host names allow
            raise OSError(f"{self.host} is no host name") from None
        return sorted({str(entry[4][0]) for entry in found}, key=lambda number: (":" in number, number))


def parse_address(text: str, what: str, least_port: int = 1) -> Address:
    """Return the address that `text` names; raises SettingsError, which calls it `what`, if `text` names none."""
    parts = _ADDRESS.fullmatch(text)
    if parts is None or not least_port <= int(parts[3]) <= 65535:
        raise SettingsError(
            f"{what} is {shown(text)}; expected HOST:PORT, such as 10.0.0.5:7700, "
            f"with a port from {least_port} to 65535"
        )
    return Address(parts[1] or parts[2], int(parts[3]))


def check_listening(address: Address, has_keys: bool) -> Address:
    """Return the address to listen on, with an IP address as host, so that ZeroMQ listens on what was checked.

    ZeroMQ reads host names in its own way: it takes `*` for all addresses, and the name of a network card for the
    card's address. A name that nobody knows is returned unchanged. Raises SettingsError if other machines could reach
    the address and there are no keys.
    """
    numbers = address.known_numbers()
    if not has_keys and not _all_loopback(numbers):
        raise SettingsError(
            f"listening on {address} without keys would let anyone join; make a key file with 'adam-mp keygen FILE', "
            "copy it to every machine of the run and give --key-file FILE everywhere, or listen on 127.0.0.1"
        )
    return Address(numbers[0], address.port) if numbers else address


def open_notice(address: Address, may: str) -> str:
    """Return a line for the user of a part that listens on loopback without keys: who can reach it.

    `may` is what such users can do.
    """
    return (
        f"{address} is open to every user of this machine: without keys, any of them may {may}; to close it, make a "
        "key file with 'adam-mp keygen FILE' and give --key-file FILE to all parts of the run"
    )


def check_joining(address: Address, has_keys: bool) -> Address:
    """Return the address to dial. Raises SettingsError if messages would leave this machine without keys.

    Without keys the result has the first of the checked IP addresses as host (IPv4 first): ZeroMQ would look a name up
    again at each connection, and nothing would check what it finds. With keys the result keeps the name: the peer that
    answers must prove that it holds the keys, and a part that moved to another machine is found under its name.
    """
    if has_keys:
        return address
    numbers = address.known_numbers()  # empty for an unknown name, which then counts as not loopback
    if not _all_loopback(numbers):
        raise SettingsError(f"cannot join {address} without keys; give the run's --key-file")
    return Address(numbers[0], address.port)


def _all_loopback(numbers: list[str]) -> bool:
    """Tell whether there are IP addresses and all of them are loopback addresses."""
    return bool(numbers) and all(ipaddress.ip_address(number).is_loopback for number in numbers)

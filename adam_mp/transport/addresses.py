"""HOST:PORT as users write it, and the rule that without keys only this machine may listen and be spoken to."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
import socket

from adam_mp.errors import SettingsError

_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|([\w.-]+)):([0-9]{1,5})", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Address:
    """A host, by name or number, and a port; port 0 lets the system choose one to listen on."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_version_6(self) -> bool:
        """Whether it is reached by IPv6 alone; both sides prefer version 4 where a name stands for both."""
        try:
            return all(":" in number for number in self.numbers())
        except OSError:
            return ":" in self.host

    @property
    def is_loopback(self) -> bool:
        """Whether it is of this machine alone."""
        return _all_loopback(self.known_numbers())

    def known_numbers(self) -> list[str]:
        """Return `numbers`, empty if there is none."""
        try:
            return self.numbers()
        except OSError:
            return []

    def numbers(self) -> list[str]:
        """Return the IP addresses that the host stands for, version 4 first; raises OSError if there is none."""
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except UnicodeError:  # a part of the name is longer than names may be
            raise OSError(f"{self.host} is no host name") from None
        return sorted({str(entry[4][0]) for entry in found}, key=lambda number: (":" in number, number))


def parse_address(text: str, what: str, least_port: int = 1) -> Address:
    """Return the address in `text`; `what` names it in messages. Raises SettingsError if it is none."""
    parts = _ADDRESS.fullmatch(text)
    if parts is None or not least_port <= int(parts[3]) <= 65535:
        raise SettingsError(
            f"{what} is {text!r}; expected HOST:PORT, such as 10.0.0.5:7700, with a port from {least_port} to 65535"
        )
    return Address(parts[1] or parts[2], int(parts[3]))


def check_listening(address: Address, has_keys: bool) -> Address:
    """Return what to listen on: the address by number, so that nothing else is listened on than what was checked.

    ZeroMQ reads names otherwise: `*` is everything to it, and the name of a network card its address. A name that
    nobody knows stays as it is. Raises SettingsError if others could reach the address and there are no keys.
    """
    numbers = address.known_numbers()
    if not has_keys and not _all_loopback(numbers):
        raise SettingsError(
            f"listening on {address} without keys would let anyone join; make a key file with 'adam-mp keygen FILE', "
            "copy it to every machine of the run and give --key-file FILE everywhere, or listen on 127.0.0.1"
        )
    return Address(numbers[0], address.port) if numbers else address


def open_notice(address: Address, may: str) -> str:
    """Say, for one who listens without keys, to whom that is open; `may` is what those can do."""
    return (
        f"{address} is open to every user of this machine: without keys, any of them may {may}; to close it, make a "
        "key file with 'adam-mp keygen FILE' and give --key-file FILE to all parts of the run"
    )


def check_joining(address: Address, has_keys: bool) -> Address:
    """Return what to dial. Raises SettingsError if messages would leave this machine without keys.

    Without keys that is the first number of those that were checked (version 4 first), for good: ZeroMQ would look a
    name up again at each connection, unchecked. With keys it is the name: whoever answers has to prove that it holds
    them, and a part that was started elsewhere under its name is found.
    """
    if has_keys:
        return address
    numbers = address.known_numbers()  # an unknown name is no loopback
    if not _all_loopback(numbers):
        raise SettingsError(f"cannot join {address} without keys; give the run's --key-file")
    return Address(numbers[0], address.port)


def _all_loopback(numbers: list[str]) -> bool:
    """Whether there are numbers, and all of them are of this machine alone."""
    return bool(numbers) and all(ipaddress.ip_address(number).is_loopback for number in numbers)

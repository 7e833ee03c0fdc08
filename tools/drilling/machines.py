"""Machines: network namespaces, each with an address of its own and a cable that can be taken out."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from typing import Any

PATIENCE = 120.0  # seconds that anything may take
BOTH, OUT, IN = "both", "out", "in"  # what a cut takes: all, what the machine sends, what others send to it
_NOBODYS = "02:00:00:00:00:fe"  # the hardware address of no machine
_CLONE_NEWNET = 0x40000000


class DrillError(Exception):
    """Something did not hold."""


class Machines:
    """Network namespaces, `10.77.0.1` onwards, joined by a switch; a context manager, leaving it removes them.

    A process that is in one of them can cut the others' cables by a `Machines` with the same `prefix`.
    """

    def __init__(self, count: int, prefix: str | None = None) -> None:
        self.prefix = prefix or f"adam{os.getpid()}"
        self.count = count

    @staticmethod
    def can_be_made() -> bool:
        """Tell whether this user on this machine may have namespaces."""
        name = f"adamtry{os.getpid()}"
        try:
            made = ip("netns", "add", name).returncode == 0
            made = made and ip("-n", name, "link", "add", "switch", "type", "bridge").returncode == 0
        except FileNotFoundError:
            return False
        ip("netns", "del", name)
        return made

    def __enter__(self) -> Machines:
        try:
            switch = f"{self.prefix}-switch"
            _must("netns", "add", switch)
            _must("-n", switch, "link", "add", "switch", "type", "bridge")
            _must("-n", switch, "link", "set", "switch", "up")
            for number in range(1, self.count + 1):
                space = self.space(number)
                _must("netns", "add", space)
                _must(
                    "-n", space, "link", "add", "eth0", "type", "veth", "peer", "name", f"port{number}", "netns", switch
                )
                _must("-n", space, "addr", "add", f"{self.address(number)}/24", "dev", "eth0")
                for device in ("lo", "eth0"):
                    _must("-n", space, "link", "set", device, "up")
                _must("-n", switch, "link", "set", f"port{number}", "master", "switch", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        for name in (*(self.space(number) for number in range(1, self.count + 1)), f"{self.prefix}-switch"):
            ip("netns", "del", name)

    def space(self, number: int) -> str:
        """Return the namespace of machine `number`, from 1."""
        return f"{self.prefix}-{number}"

    def address(self, number: int) -> str:
        """Return its address."""
        return f"10.77.0.{number}"

    def cut(self, number: int, way: str = BOTH) -> None:
        """Take the cable out, or one of its ways: what is lost is lost, and nobody is told."""
        if way == BOTH:
            _must("-n", f"{self.prefix}-switch", "link", "set", f"port{number}", "nomaster")
            return
        others = [other for other in range(1, self.count + 1) if other != number]
        for sender, target in [(number, other) if way == OUT else (other, number) for other in others]:
            entry = (self.address(target), "lladdr", _NOBODYS, "dev", "eth0", "nud", "permanent")
            _must("-n", self.space(sender), "neigh", "replace", *entry)

    def heal(self, number: int) -> None:
        """Put it back."""
        for other in range(1, self.count + 1):
            _must("-n", self.space(other), "neigh", "flush", "dev", "eth0", "nud", "permanent")
        _must("-n", f"{self.prefix}-switch", "link", "set", f"port{number}", "master", "switch")


def ip(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `ip`, from iproute2."""
    return subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True, timeout=PATIENCE)


def _must(*arguments: str) -> None:
    done = ip(*arguments)
    if done.returncode:
        raise DrillError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


@contextlib.contextmanager
def inside(space: str) -> Iterator[None]:
    """Open connections of this thread in a namespace. Those that are open stay where they are."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as here, open(f"/run/netns/{space}") as there:
        if libc.setns(there.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter the network namespace {space}")
        try:
            yield
        finally:
            libc.setns(here.fileno(), _CLONE_NEWNET)

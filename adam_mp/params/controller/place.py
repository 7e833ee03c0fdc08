"""Where etcd is, and under which keys a run is there: what `--controller` and `--controller-tls` say."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from adam_mp.errors import SettingsError, refusal
from adam_mp.transport.addresses import Address, parse_address

SCHEME = "etcd://"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
_DEFAULT_NAME = "adam_mp"


@dataclasses.dataclass(frozen=True)
class Tls:
    """Files for encrypted connections: this client's certificate and its key, and the authority that signed etcd's."""

    certificate: Path
    key: Path
    authority: Path


@dataclasses.dataclass(frozen=True)
class EtcdPlace:
    """Where etcd is: its endpoints, and the run's `name`, under which its keys are."""

    endpoints: tuple[Address, ...]
    name: str
    tls: Tls | None = None

    @property
    def prefix(self) -> str:
        """What the keys of the run begin with."""
        return f"/adam_mp/{self.name}/"

    def __str__(self) -> str:
        return ", ".join(map(str, self.endpoints))


def parse_etcd(text: str, tls: str | None = None) -> EtcdPlace:
    """Return the place in `etcd://HOST:PORT,HOST:PORT/NAME`; without a NAME it is adam_mp.

    `tls` are three files, CERT,KEY,CA. Raises SettingsError.
    """
    if not text.startswith(SCHEME):
        raise SettingsError(f"--controller is {text}; expected etcd://HOST:PORT,HOST:PORT/NAME")
    hosts, _, name = text.removeprefix(SCHEME).partition("/")
    endpoints = tuple(parse_address(each, "--controller") for each in hosts.split(","))
    name = name or _DEFAULT_NAME
    if _NAME.fullmatch(name) is None:
        raise SettingsError(f"--controller names the run {name!r}; expected letters and digits, as in /mnist-1")
    return EtcdPlace(endpoints, name, None if tls is None else _parse_tls(tls))


def _parse_tls(text: str) -> Tls:
    files = [Path(each) for each in text.split(",")]
    if len(files) != 3:
        raise SettingsError(f"--controller-tls is {text}; expected three files, CERT,KEY,CA")
    for file in files:
        try:
            file.read_bytes()
        except OSError as error:
            raise SettingsError(f"--controller-tls: {file}: {refusal(error)}") from None
    return Tls(*files)

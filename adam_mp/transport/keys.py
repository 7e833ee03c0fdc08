"""The key file of a run: one CURVE key pair that all parts of the run hold.

A process that has the file may join the run; nobody else can read messages. Every part proves that it holds the key
pair, and messages are encrypted (CurveZMQ). The file is a secret: `make_key_file` lets only its owner read it.
`read_keys` refuses a file that other users may read, and a file of another user (except root): that user could read
the keys, or replace them.
"""

from __future__ import annotations

import dataclasses
import os
import stat
from pathlib import Path

from adam_mp.errors import SettingsError

_FIRST_LINE = "adam_mp key 1"


@dataclasses.dataclass(frozen=True)
class Keys:
    """A CURVE key pair; each key is 40 characters of Z85."""

    public: bytes
    secret: bytes = dataclasses.field(repr=False)


def make_key_file(path: Path) -> Keys:
    """Write a new key pair to a new file that only its owner can read.

    Raises SettingsError if `path` exists or cannot be written.
    """
    import zmq  # here, since a process that finds no key file named needs no ZeroMQ

    public, secret = zmq.curve_keypair()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        if path.is_dir():
            raise SettingsError(f"{path} is a folder; {_name_a_file(path)}") from None
        raise SettingsError(f"{path} exists already; remove it first, or name another file") from None
    except OSError as error:
        raise SettingsError(f"cannot write key file {path}: {error.strerror}; name another file") from None
    with open(descriptor, "wb") as file:
        file.write(b"\n".join((_FIRST_LINE.encode(), b"public " + public, b"secret " + secret, b"")))
    return Keys(public, secret)


def _name_a_file(folder: Path) -> str:
    return f"name the file in it, such as {folder / 'run.key'}"


def read_keys(path: str | Path | None) -> Keys | None:
    """Return the key pair in the file at `path`; None if `path` is None.

    Raises SettingsError if the file is missing, readable by other users, another user's, or no key file. All is checked
    on the open file, so a file that replaces it meanwhile cannot pass unchecked.
    """
    if path is None:
        return None
    path = Path(path)
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_uid not in (os.geteuid(), 0):
                raise SettingsError(
                    f"key file {path} belongs to user {status.st_uid}; expected one of user {os.geteuid()}, who runs "
                    "this, or of root; copy it as that user"
                )
            if stat.S_IMODE(status.st_mode) & 0o077:
                raise SettingsError(f"key file {path} can be read by others; run: chmod 600 {path}")
            lines = file.read(1000).decode(errors="replace").splitlines()
    except IsADirectoryError as error:
        raise SettingsError(f"cannot read key file {path}: {error.strerror}; {_name_a_file(path)}") from None
    except OSError as error:
        raise SettingsError(
            f"cannot read key file {path}: {error.strerror}; copy that of the run there, or make one for a new run "
            f"with: adam-mp keygen {path}"
        ) from None
    fields = dict(line.split(" ", 1) for line in lines[1:] if " " in line)
    public, secret = (fields.get(name, "").encode() for name in ("public", "secret"))
    import zmq

    try:
        fits = lines[:1] == [_FIRST_LINE] and zmq.curve_public(secret) == public
    except (ValueError, zmq.ZMQError):
        fits = False
    if not fits:
        raise SettingsError(f"{path} is not a key file; make one with: adam-mp keygen FILE")
    return Keys(public, secret)

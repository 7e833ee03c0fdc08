from __future__ import annotations

import os
import stat

import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adam_mp.errors import SettingsError
from adam_mp.transport.keys import make_key_file, read_keys


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.key"


def test_a_key_file_comes_back(path):
    keys = make_key_file(path)
    assert read_keys(path) == keys
    assert zmq.curve_public(keys.secret) == keys.public


def test_two_key_files_differ(path, tmp_path):
    assert make_key_file(path).secret != make_key_file(tmp_path / "other.key").secret


@pytest.mark.parametrize("mask", [0, 0o022, 0o077])
def test_a_key_file_is_for_its_owner_alone_whatever_the_mask(path, mask):
    before = os.umask(mask)
    try:
        make_key_file(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o644, 0o777])
def test_a_key_file_that_others_may_read_or_write_is_refused(path, mode):
    make_key_file(path)
    path.chmod(mode)
    with pytest.raises(SettingsError, match=f"chmod 600 {path}"):
        read_keys(path)
    path.chmod(0o400)
    read_keys(path)


def test_a_link_does_not_hide_the_mode(path, tmp_path):
    make_key_file(path)
    path.chmod(0o644)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(SettingsError, match="can be read by others"):
        read_keys(tmp_path / "link")


def test_the_file_that_is_read_is_the_one_that_is_looked_at(path, tmp_path, monkeypatch):
    make_key_file(path)
    good = path.stat()
    path.chmod(0o644)
    for owner, name in ((os, "stat"), (type(path), "stat")):  # as if another file had stood there a moment before
        monkeypatch.setattr(owner, name, lambda *_, **__: good)
    with pytest.raises(SettingsError, match="can be read by others"):
        read_keys(path)


@pytest.mark.parametrize(("owner", "user", "taken"), [(7, 7, True), (0, 7, True), (8, 7, False), (7, 0, False)])
def test_a_key_file_is_its_users_or_roots(path, monkeypatch, owner, user, taken):
    keys, fstat = make_key_file(path), os.fstat

    def owned(descriptor):
        return os.stat_result((*fstat(descriptor)[:4], owner, *fstat(descriptor)[5:10]))

    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(os, "fstat", owned)
    if taken:
        assert read_keys(path) == keys
        return
    with pytest.raises(SettingsError, match=f"{path} belongs to user {owner}; expected one of user {user}"):
        read_keys(path)


def test_an_existing_file_is_not_written_over(path):
    path.write_text("precious")
    with pytest.raises(SettingsError, match=f"{path} exists already"):
        make_key_file(path)
    assert path.read_text() == "precious"


def test_a_dangling_link_is_not_followed(path, tmp_path):
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SettingsError, match="exists already"):
        make_key_file(path)
    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"cannot write key file .*none/run.key: No such file or directory"):
        make_key_file(tmp_path / "none" / "run.key")


def test_a_missing_key_file_is_named_with_what_to_do(path):
    with pytest.raises(
        SettingsError, match=f"cannot read key file {path}: No such file .*make one for a new run with: adam-mp keygen"
    ):
        read_keys(path)


def test_a_folder_is_no_key_file(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o700)
    with pytest.raises(SettingsError, match=r"cannot read key file .*Is a directory"):
        read_keys(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\n", b"adam_mp key 1\n", b"adam_mp key 1\npublic\nsecret\n", b"\xff" * 200, b"adam_mp key 1\n" * 100,
        b"adam_mp key 1\npublic " + b"a" * 40 + b"\nsecret " + b"b" * 40 + b"\n",
        b"adam_mp key 1\npublic " + b"a" * 39 + b"\nsecret " + b"b" * 39 + b"\n",
        b"adam_mp key 1\npublic " + b"\xff" * 40 + b"\nsecret " + b"\xff" * 40 + b"\n",
        b"-----BEGIN OPENSSH PRIVATE KEY-----\n" + b"a" * 5000,
    ],
)  # fmt: skip
def test_what_is_no_key_file_is_refused(path, content):
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(SettingsError, match=f"{path} is not a key file; make one with: adam-mp keygen FILE"):
        read_keys(path)


def test_another_version_of_key_files_is_refused(path):
    make_key_file(path)
    path.write_bytes(path.read_bytes().replace(b"key 1", b"key 2"))
    with pytest.raises(SettingsError, match="not a key file"):
        read_keys(path)


def test_the_public_key_of_another_pair_is_refused(path, tmp_path):
    keys, other = make_key_file(path), make_key_file(tmp_path / "other.key")
    path.write_bytes(path.read_bytes().replace(keys.public, other.public))
    with pytest.raises(SettingsError, match="not a key file"):
        read_keys(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_key_file_is_refused_or_the_damage_does_not_matter(path, data):
    path.unlink(missing_ok=True)
    keys = make_key_file(path)
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[at:]
    path.write_bytes(content)
    try:
        read = read_keys(path)
    except SettingsError:
        return
    assert read.public == keys.public
    assert zmq.curve_public(read.secret) == keys.public


def test_the_secret_is_not_printed(path):
    keys = make_key_file(path)
    assert keys.secret.decode() not in repr(keys)
    assert keys.secret.decode() not in str(keys)

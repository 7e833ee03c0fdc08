"""What --controller and --controller-tls may say."""

from __future__ import annotations

import pytest

from adam_mp.errors import SettingsError
from adam_mp.params.controller.place import parse_etcd


def test_endpoints_and_the_name_of_the_run():
    place = parse_etcd("etcd://10.0.0.1:2379,[::1]:2380/mnist-1")
    assert [str(each) for each in place.endpoints] == ["10.0.0.1:2379", "[::1]:2380"]
    assert (place.name, place.prefix, place.tls) == ("mnist-1", "/adam_mp/mnist-1/", None)
    assert parse_etcd("etcd://h:1").prefix == "/adam_mp/adam_mp/"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://h:1", "expected etcd://HOST:PORT"),
        ("etcd://h", "expected HOST:PORT"),
        ("etcd://h:1,", "expected HOST:PORT"),
        ("etcd://h:0", "a port from 1"),
        ("etcd://h:1/a/b", "names the run 'a/b'"),
        ("etcd://h:1/a b", "names the run 'a b'"),
    ],
)
def test_what_names_no_etcd_is_refused(text, expected):
    with pytest.raises(SettingsError, match="controller") as raised:
        parse_etcd(text)
    assert expected in str(raised.value)


def test_files_for_tls(tmp_path):
    files = [tmp_path / name for name in ("c", "k", "a")]
    for file in files:
        file.write_bytes(b"")
    tls = parse_etcd("etcd://h:1", ",".join(map(str, files))).tls
    assert [tls.certificate, tls.key, tls.authority] == files
    with pytest.raises(SettingsError, match="expected three files, CERT,KEY,CA"):
        parse_etcd("etcd://h:1", str(files[0]))
    files[1].unlink()
    with pytest.raises(SettingsError, match=f"controller.tls: {files[1]}: No such file"):
        parse_etcd("etcd://h:1", ",".join(map(str, files)))

from __future__ import annotations

import os
import tempfile

from adam_mp import machine


def test_a_folder_that_another_user_could_write_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    own = machine.private_folder("kernels")
    assert own is not None
    own.chmod(0o777)
    assert machine.private_folder("kernels") is None
    own.rmdir()
    (tmp_path / "elsewhere").mkdir()
    own.symlink_to(tmp_path / "elsewhere")
    assert machine.private_folder("kernels") is None
    own.unlink()
    own.mkdir(0o700)
    other = os.getuid() + 1
    own.rename(tmp_path / f"adam_mp-kernels-{other}")
    monkeypatch.setattr(os, "getuid", lambda: other)
    assert machine.private_folder("kernels") is None


def test_the_present_folder_is_used_only_where_a_variable_names_it(tmp_path, monkeypatch):
    """Python takes it where no other folder can be written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)
    assert machine.private_folder("kernels") is None
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert machine.private_folder("kernels") == tmp_path / f"adam_mp-kernels-{os.getuid()}"

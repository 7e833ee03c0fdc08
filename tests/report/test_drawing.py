from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
from adam_mp.report.drawing import new_figure
size = new_figure(2, 1).get_size_inches().tolist()
import matplotlib
print(size, matplotlib.get_cachedir())
"""


@pytest.mark.parametrize("own", [False, True])
def test_fonts_are_listed_where_there_is_no_home_too(tmp_path, own):
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), "HOME": "/proc/none"}
    environment["TMPDIR"] = str(tmp_path)
    place = tmp_path / f"adam_mp-matplotlib-{os.getuid()}"
    if own:
        environment["MPLCONFIGDIR"] = str(place := tmp_path / "mine")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=200,
        check=True,
    )  # fmt: skip
    assert done.stdout == f"[2.0, 1.0] {place}\n"
    assert "temporary cache" not in done.stderr
    assert place.is_dir()

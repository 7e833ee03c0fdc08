"""Files of the user's that are called like modules: what is run of them, and what a clash is called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import adam_mp

ROOT = Path(adam_mp.__file__).parents[1]
# Modules that adam_mp or what it needs imports if they are there, besides Python's own.
OTHERS = ("numpy", "numba", "llvmlite", "psutil", "zmq", "PIL", "tqdm", "matplotlib", "tomli", "scipy", "coverage",
          "yaml", "IPython", "cupy", "tbb", "icc_rt", "pandas", "torch")  # fmt: skip
MINE = "open({path!r}, 'a').write(__name__ + ' ')\n"


def run(folder, *line):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *line], cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False
    )


@pytest.fixture
def plain(tmp_path):
    """The command as an installation has it, started in a folder with a file for each module that there is."""
    script, work, ran = tmp_path / "bin" / "adam-mp", tmp_path / "work", tmp_path / "ran"
    script.parent.mkdir()
    script.write_text("import sys\nfrom adam_mp.cli.main import main\nsys.exit(main())\n")
    work.mkdir()
    for name in (*sys.stdlib_module_names, *OTHERS):
        (work / f"{name}.py").write_text(MINE.format(path=str(ran)))

    def plain(*arguments):
        done = run(work, str(script), *arguments)
        assert not ran.exists(), ran.read_text()
        return done

    plain.work = work
    return plain


@pytest.fixture
def photographs(tmp_path):
    numbers = np.random.default_rng(1)
    for name in "ab":
        (tmp_path / "photographs" / name).mkdir(parents=True)
        for number in range(60):
            picture = numbers.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(picture).save(tmp_path / "photographs" / name / f"{number}.png")
    return tmp_path / "photographs"


@pytest.mark.parametrize("more", [[], ["--servers", "1", "--replicas", "2", "--cores", "2"]], ids=["alone", "many"])
def test_no_process_of_a_run_loads_a_file_from_the_present_folder(plain, photographs, more):
    done = plain("train", "--data", str(photographs), "--model", "mlp", "--image-size", "16", "--epochs", "1", "--json",
                 "--data-servers", "1", *more)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["epochs"] == 1


@pytest.mark.parametrize(
    "arguments", [["doctor"], ["bench", "--model", "mlp", "--seconds", "0.2", "--workers", "1"], ["--version"]]
)
def test_no_other_command_does_either(plain, arguments):
    done = plain(*arguments)
    assert done.returncode == 0, done.stderr


def test_a_module_that_was_named_is_found_there(plain):
    (plain.work / "mine_alone.py").write_text(
        "import adam_mp\ndef net(shape, classes):\n    return [adam_mp.Flatten(), adam_mp.Dense(), adam_mp.Softmax()]\n"
    )
    done = plain("train", "--model", "mine_alone:net", "--check")
    assert done.returncode == 0, done.stderr
    done = plain("train", "--model", "mine_alone:nett", "--epochs", "1")
    assert "did you mean 'net'" in done.stderr


@pytest.mark.parametrize("name", ["json", "random", "signal", "subprocess", "numba", "tqdm"])
@pytest.mark.parametrize("text", ["", "x = = 1", "raise ValueError(1)", "import no_such_module"])
def test_python_m_names_the_file_in_one_line(tmp_path, name, text):
    (tmp_path / f"{name}.py").write_text(text)
    done = run(tmp_path, "-m", "adam_mp", "train", "--epochs", "1")
    line = f"adam_mp: error: {tmp_path / name}.py has the name of the module {name!r}, which adam_mp needs; rename it"
    assert (done.returncode, done.stderr.splitlines()) == (2, [line])


@pytest.mark.parametrize("name", ["json", "random", "numpy"])
def test_in_a_script_the_exception_names_it(tmp_path, name):
    (tmp_path / f"{name}.py").write_text("")
    (tmp_path / "mine.py").write_text("import adam_mp\nadam_mp.train('mlp', epochs=1)\n")
    done = run(tmp_path, "mine.py")
    assert done.stderr.splitlines()[-1].startswith(f"ImportError: {tmp_path / name}.py has the name of the module")


def test_a_file_of_such_a_name_that_works_is_no_clash(tmp_path):
    (tmp_path / "calendar.py").write_text("x = 1\n")
    (tmp_path / "mine.py").write_text("import calendar, adam_mp\nadam_mp.Dense(1).colour\n")
    done = run(tmp_path, "mine.py")
    assert done.stderr.splitlines()[-1] == "AttributeError: 'Dense' object has no attribute 'colour'"

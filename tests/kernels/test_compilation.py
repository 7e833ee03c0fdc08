from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numba
import pytest

from adam_mp.kernels import compilation
from adam_mp.process.folder_lock import FolderLock


def test_a_second_compilation_finds_all_in_the_cache():
    compilation.compile_kernels()
    told = []
    assert compilation.compile_kernels("float32", lambda done, total: told.append((done, total))) == 0
    assert told == []
    cached, total = compilation.cached_kernels()
    assert cached == total > 40
    assert compilation.cache_folder().is_dir()


def test_a_change_of_any_source_makes_the_cache_stale(monkeypatch, tmp_path):
    (dispatcher, types), *_ = compilation._variants("float32")
    compilation.compile_kernels()
    assert compilation._is_cached(dispatcher, types)
    (tmp_path / "other.py").write_text("changed")
    monkeypatch.setattr(compilation, "__file__", str(tmp_path / "compilation.py"))
    changed = compilation.sources_stamp.__wrapped__()
    assert changed != compilation.sources_stamp()
    monkeypatch.setattr(dispatcher._cache._cache_file, "_source_stamp", changed)
    monkeypatch.setattr(dispatcher, "overloads", {})
    assert not compilation._is_cached(dispatcher, types)


@pytest.fixture
def stamp(tmp_path, monkeypatch):
    """The stamp of the compiled kernels, among links to their files: other processes use the cache itself."""
    compilation.compile_kernels()
    cache, folder = compilation.cache_folder(), tmp_path / "cache"
    folder.mkdir()
    file = folder / compilation._stamp_file("float32").name
    shutil.copy(cache / file.name, file)
    for name in json.loads(file.read_text())["files"]:
        (folder / name).symlink_to(cache / name)
    monkeypatch.setattr(compilation, "_stamp_file", lambda real: folder / f"compiled-{real}.json")
    return file


def test_a_stamp_says_that_all_are_compiled(stamp, monkeypatch):
    def never(*_):
        raise AssertionError("an index was read")

    monkeypatch.setattr(compilation, "_is_cached", never)
    assert compilation.compile_kernels() == 0


@pytest.mark.parametrize("damage", ["gone", "no JSON", "[]", "another key", "a missing file"])
def test_a_stamp_that_does_not_fit_is_written_anew(stamp, damage):
    whole = json.loads(stamp.read_text())
    assert len(whole["files"]) > 80
    if damage == "gone":
        stamp.unlink()
    elif damage == "another key":
        stamp.write_text(json.dumps({**whole, "key": whole["key"] + "x"}))
    elif damage == "a missing file":
        stamp.write_text(json.dumps({**whole, "files": [*whole["files"], "none.nbi"]}))
    else:
        stamp.write_text(damage)
    assert not compilation._is_stamped("float32")
    assert compilation.compile_kernels() == 0
    assert json.loads(stamp.read_text()) == whole


def test_no_stamp_is_written_while_a_kernel_is_not_in_the_cache(tmp_path, monkeypatch):
    compilation.compile_kernels()
    stamp = tmp_path / "stamp"  # another than that of the cache, which other tests' processes may write meanwhile
    monkeypatch.setattr(compilation, "_stamp_file", lambda real: stamp)
    (dispatcher, _), *_ = compilation._variants("float32")
    with monkeypatch.context() as changed:
        changed.setattr(dispatcher._cache._cache_file, "_source_stamp", "another")
        compilation._write_stamp("float32", compilation._variants("float32"))
    assert not stamp.exists()
    compilation._write_stamp("float32", compilation._variants("float32"))
    assert stamp.exists()


def test_what_is_compiled_is_loaded_before_it_is_called(stamp):
    program = (
        "from adam_mp.kernels import compilation\ncompilation.load_kernels()\n"
        "assert all(types in dispatcher.overloads for dispatcher, types in compilation._variants('float32'))\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=200)


@pytest.mark.parametrize("at_once", [True, False])
def test_kernels_are_loaded_without_all_that_numba_can_compile_where_that_was_tried(stamp, at_once):
    assert json.loads(stamp.read_text())["at_once"] is True
    stamp.write_text(json.dumps({**json.loads(stamp.read_text()), "at_once": at_once}))
    use = f"from pathlib import Path\ncompilation._stamp_file = lambda real: Path({str(stamp)!r})"
    program = (
        "import sys, numpy as np\nfrom adam_mp.kernels.loss import softmax\n"
        f"from adam_mp.kernels import compilation\n{use}\ncompilation.load_kernels()\n"
        "scores, shares = np.zeros((2, 4), np.float32), np.zeros((2, 4), np.float32)\nsoftmax(scores, shares)\n"
        f"assert (shares == 0.25).all()\nassert ('numba.np.linalg' in sys.modules) is {not at_once}\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=200)


def end_as_numba_does(real):
    os.abort()


def test_where_numba_ends_the_trial_kernels_are_loaded_as_numba_does_it(stamp, monkeypatch):
    stamp.unlink()
    monkeypatch.setattr(compilation, "_load_at_once", end_as_numba_does)
    compilation._write_stamp("float32", compilation._variants("float32"))
    assert json.loads(stamp.read_text())["at_once"] is False


def copied_cache(stamp, folder):
    """Copy the cache into a folder of the test; return the environment of processes that use it."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder)}
    find = "from adam_mp.kernels.compilation import cache_folder\nprint(cache_folder())"
    place = subprocess.run([sys.executable, "-c", find], env=environment, capture_output=True, text=True, check=True)
    shutil.copytree(stamp.parent, place.stdout.strip(), dirs_exist_ok=True)
    return environment


SOME = """
import json, os, sys
from adam_mp.kernels import compilation
compilation.usable_cores = lambda: int(sys.argv[2])
if sys.argv[1] == "die":
    compilation._compile_some = os.abort
for file in compilation.cache_folder().glob("activation.*.nbi"):
    file.unlink()
told = []
compiled = compilation.compile_kernels("float32", lambda done, total: told.append((done, total)))
here = sum(bool(each.dispatcher.overloads) for each in compilation._in_order())
print(json.dumps([compiled, here, told, compilation._is_stamped("float32")]))
"""


@pytest.mark.parametrize(
    ("children", "cores", "own"),
    [("compile", 2, 0), ("die", 2, 8), pytest.param("compile", 1, 8, marks=pytest.mark.long)],
)
def test_several_processes_compile_what_the_cache_lacks(stamp, tmp_path, children, cores, own):
    environment = copied_cache(stamp, tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", SOME, children, str(cores)], env=environment, capture_output=True, text=True,
        timeout=200, check=True,
    )  # fmt: skip
    compiled, here, told, stamped = json.loads(done.stdout)
    assert (compiled, here, stamped) == (8, own, True)
    assert told == sorted(told)
    assert told[0][0] == told[0][1] - 8
    assert told[-1][0] == told[-1][1]
    assert told.count(told[-1]) == 1  # a display closes its bar at the end, and would open another


LATE = """
import json, sys
from adam_mp.kernels import compilation
for file in compilation.cache_folder().glob("activation.*.nbi"):
    file.unlink()
compilation._PATIENCE = float(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
told = []
compiled = compilation.compile_kernels("float32", lambda done, total: told.append((done, total)))
print(json.dumps([compiled, told[-1][0] == told[-1][1], compilation._is_stamped("float32")]))
"""


def start_late(environment, patience=300):
    """Return a process that compiles the kernels of activations once it is told to."""
    process = subprocess.Popen(
        [sys.executable, "-c", LATE, str(patience)], env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    return process


def test_of_several_programs_one_compiles(stamp, tmp_path):
    environment = copied_cache(stamp, tmp_path)
    programs = [start_late(environment) for _ in range(3)]
    for program in programs:
        program.stdin.write("\n")
        program.stdin.flush()
    ends = [json.loads(program.communicate(timeout=200)[0]) for program in programs]
    assert sorted(ends) == [[0, True, True], [0, True, True], [8, True, True]]


def test_a_program_that_gets_nothing_compiled_does_not_hold_up_others(stamp, tmp_path):
    environment = copied_cache(stamp, tmp_path)
    program = start_late(environment, patience=1)
    (cache,) = {file.parent for file in tmp_path.rglob("*.nbi") if not file.is_relative_to(stamp.parent)}
    lock = FolderLock(cache)
    try:
        output, _ = program.communicate("\n", timeout=200)
    finally:
        lock.close()
    assert json.loads(output) == [8, True, True]


NOBODY = """
import pwd
from numba.core.caching import InTreeCacheLocator
def unknown(number):
    raise KeyError(f"uid not found: {number}")
pwd.getpwuid = unknown
InTreeCacheLocator.from_function = classmethod(lambda *_: None)  # an installation that cannot be written
from adam_mp.kernels.compilation import cache_folder, cached_kernels, cache_trouble
print(cache_folder(), cached_kernels()[0], cache_trouble())
"""


@pytest.mark.parametrize("home", [None, "/proc/none"])
@pytest.mark.parametrize("temporary", ["here", "/proc/none"])
def test_a_user_without_name_and_home_has_a_place_for_kernels(tmp_path, home, temporary):
    folders = {name: tmp_path / name for name in ("present", "here")}
    for folder in folders.values():
        folder.mkdir()
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
    environment["TMPDIR"] = str(folders.get(temporary, temporary))
    program = NOBODY
    if home is not None:
        environment["HOME"] = home
    if temporary != "here":  # and no other folder for temporary files either
        program = f"import tempfile\ntempfile.tempdir = {temporary!r}\n" + NOBODY
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=folders["present"], capture_output=True, text=True,
        timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list(folders["present"].iterdir()) == []
    if temporary == "here":
        own = folders["here"] / f"adam_mp-kernels-{os.getuid()}"
        assert done.stdout.startswith(f"{own}/")
        assert done.stdout.endswith(" 0 None\n")
        assert own.stat().st_mode & 0o777 == 0o700
    else:
        assert done.stdout.startswith("None 0 no folder for compiled kernels")
        assert "NUMBA_CACHE_DIR" in done.stdout


def test_no_kernel_runs_in_parallel_or_holds_the_interpreter():
    for entry in compilation._kernels:
        options = entry.dispatcher.targetoptions
        assert options["nogil"]
        assert not options.get("parallel")
    assert numba.config.NUMBA_NUM_THREADS >= 1

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import adam_mp
from adam_mp.cli.main import main
from adam_mp.data.reading.read_only import for_kernels
from adam_mp.kernels import compilation


def test_it_is_the_same_memory():
    written = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert for_kernels(written) is written
    read = np.frombuffer(bytes(range(12)), np.uint8).reshape(3, 4)
    view = for_kernels(read)
    assert view.flags.writeable
    assert not read.flags.writeable
    assert np.shares_memory(view, read)
    del read
    np.testing.assert_array_equal(view, written)


@pytest.fixture
def photographs(tmp_path):
    """Large PNG files of two classes: Pillow's arrays may not be written."""
    for label, name in enumerate("ab"):
        (tmp_path / "photographs" / name).mkdir(parents=True)
        for number in range(20):
            pixels = np.random.default_rng([label, number]).integers(0, 256, (100, 100, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photographs" / name / f"{number}.png")
    return tmp_path / "photographs"


@pytest.fixture
def compiled_before(monkeypatch):
    """Forbid to compile a kernel for types that are not declared for it."""
    for each in compilation._kernels:
        declared = {types for real in ("float32", "float64") for _, types in each.variants(real)}

        def compile_kernel(types, compile_kernel=each.dispatcher.compile, declared=declared, name=each.name):
            assert tuple(types) in declared, (name, types)
            return compile_kernel(types)

        monkeypatch.setattr(each.dispatcher, "compile", compile_kernel)


def read_only(count):
    generator = np.random.default_rng(0)
    arrays = generator.integers(0, 256, (count, 12, 12, 3), dtype=np.uint8), generator.integers(3, size=count)
    for array in arrays:
        array.flags.writeable = False
    return arrays


def test_a_run_on_arrays_compiles_nothing(compiled_before, forks, tmp_path):
    adam_mp.train("mlp", read_only(100), cores=2, epochs=1, run_dir=tmp_path / "run", quiet=True)


@pytest.mark.parametrize("command", ["train", "show-data"])
def test_commands_compile_nothing(compiled_before, forks, tmp_path, photographs, command):
    run, sheet = str(tmp_path / "run"), str(tmp_path / "sheet.png")
    output = ("--model", "mlp", "--epochs", "1", "--run-dir", run) if command == "train" else ("--output", sheet)
    assert main([command, "--data", str(photographs), "--image-size", "32", *output]) == 0
    if command == "train":
        assert main(["predict", run, str(photographs / "a" / "0.png")]) == 0
        assert main(["evaluate", run]) == 0
    else:
        assert main([command, "--output", sheet]) == 0  # MNIST

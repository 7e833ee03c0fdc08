"""Kernels are right on processors with narrower vectors than those of the machine that runs the tests."""

import os
import subprocess
import sys
from pathlib import Path

import llvmlite.binding
import pytest

_TESTS = ("test_product.py", "test_pool.py", "test_sparse.py")


def _features_without(*prefixes: str) -> str:
    present = llvmlite.binding.get_host_cpu_features().flatten().split(",")
    return ",".join(name for name in present if not name[1:].startswith(prefixes))


@pytest.mark.compiles
@pytest.mark.timeout(600)  # compiles most kernels, twice where doubles are tested
@pytest.mark.parametrize(
    ("width", "features"),
    [
        (32, _features_without("avx512", "avx10")),
        pytest.param(16, _features_without("avx", "fma", "vaes"), marks=pytest.mark.long),
    ],
)
def test_kernels_agree_with_numpy_on_narrower_vectors(width: int, features: str) -> None:
    # "generic" is numba's name for no processor in particular: no tuning for the one that runs the test.
    environment = {**os.environ, "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": features}
    code = "from adam_mp.kernels.vector import VECTOR_BYTES; print(VECTOR_BYTES)"
    compiled_for = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=200, check=True
    )
    if int(compiled_for.stdout) != width:
        pytest.skip(f"this processor has no vectors of {width} bytes")
    tests = [str(Path(__file__).with_name(name)) for name in _TESTS]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *tests],
        env=environment, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]

"""Matrix multiplication from inside compiled code: BLAS `gemm` of the library that scipy ships or was built with.

`gemm(a, transpose_a, b, transpose_b, alpha, beta, c)` computes `c = alpha * op(a) @ op(b) + beta * c` on row-major
matrices of one real type. BLAS thinks in columns, so the operands are handed over swapped, which costs nothing.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import llvmlite.binding
import numpy as np
import scipy
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from adam_mp.kernels.compilation import inline

_SYMBOLS = {types.float32: "adam_mp_sgemm", types.float64: "adam_mp_dgemm"}
_TRANSPOSED, _PLAIN = np.int32(ord("T")), np.int32(ord("N"))


def _load_cython_blas() -> ModuleType:
    """Load scipy's table of BLAS functions alone: importing `scipy.linalg` around it takes 200 ms and 28 MB."""
    folder = Path(scipy.__file__).parent / "linalg"
    spec = importlib.machinery.PathFinder.find_spec("cython_blas", [str(folder)])
    if spec is None or spec.loader is None:
        return importlib.import_module("scipy.linalg.cython_blas")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _register_symbols() -> None:
    """Make `sgemm` and `dgemm` known to compiled code by name, so that kernels which call them can be cached."""
    api = _load_cython_blas().__pyx_capi__
    get_name, get_pointer = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    get_name.restype, get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    for name, symbol in (("sgemm", "adam_mp_sgemm"), ("dgemm", "adam_mp_dgemm")):
        capsule = api[name]
        llvmlite.binding.add_symbol(symbol, get_pointer(capsule, get_name(capsule)))


_register_symbols()


def blas_name() -> str:
    """Say which BLAS does the products."""
    try:
        blas = scipy.show_config(mode="dicts")["Build Dependencies"]["blas"]
        return f"{blas['name']} {blas['version']} (of scipy {scipy.__version__})"
    except (KeyError, TypeError):
        return f"the BLAS of scipy {scipy.__version__}"


@intrinsic
def _pointer(_typing: Any, array: Any) -> Any:
    """Return the address of an array's first element."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return make_array(array)(context, builder, arguments[0]).data

    return types.CPointer(array.dtype)(array), generate


@intrinsic
def _fortran_gemm(
    _typing: Any, transa: Any, transb: Any, m: Any, n: Any, k: Any, alpha: Any, a: Any, lda: Any, b: Any, ldb: Any,
    beta: Any, c: Any, ldc: Any,
) -> Any:  # fmt: skip
    """Call `gemm` as Fortran does: every argument by address, matrices column by column."""
    integer, pointer = types.int32, types.CPointer(alpha)
    signature = types.void(
        integer, integer, integer, integer, integer, alpha, pointer, integer, pointer, integer, alpha, pointer, integer
    )
    flags, matrices = (0, 1), (6, 8, 11)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = ir.IntType(8).as_pointer()
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [address] * 13), _SYMBOLS[alpha]
        )
        passed = []
        for position, argument in enumerate(arguments):
            value = builder.trunc(argument, ir.IntType(8)) if position in flags else argument
            place = value if position in matrices else cgutils.alloca_once_value(builder, value)
            passed.append(builder.bitcast(place, address))
        builder.call(function, passed)
        return context.get_dummy_value()

    return signature, generate


@inline
def gemm(a, transpose_a, b, transpose_b, alpha, beta, c):
    """`c[m, n] = alpha * op(a)[m, k] @ op(b)[k, n] + beta * c`, all row-major and of one real type."""
    real = c.dtype.type
    rows, columns = c.shape
    depth = a.shape[0] if transpose_a else a.shape[1]
    _fortran_gemm(
        _TRANSPOSED if transpose_b else _PLAIN,
        _TRANSPOSED if transpose_a else _PLAIN,
        np.int32(columns),
        np.int32(rows),
        np.int32(depth),
        real(alpha),
        _pointer(b),
        np.int32(b.shape[1]),
        _pointer(a),
        np.int32(a.shape[1]),
        real(beta),
        _pointer(c),
        np.int32(columns),
    )

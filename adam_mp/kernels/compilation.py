"""How kernels are declared, compiled once, and cached on disk.

`@kernel("void(R[::1], R)")` makes a function a kernel: numba compiles it without Python objects and without the
interpreter lock. `compile_kernels` compiles all of them for one real type, or loads them from the cache, which numba
keeps beside the sources, else in the user's cache folder, else in a private folder for temporary files.
"""

from __future__ import annotations

import functools
import getpass
import hashlib
import importlib
import os
import pkgutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numba
from numba.core import sigutils
from numba.core.caching import CacheImpl

# NaN and infinity keep their meaning (divergence is detected by them); sums may be reordered so that they vectorise.
_FASTMATH = {"reassoc", "contract", "arcp", "nsz"}
_REAL = {"float32": "f4", "float64": "f8"}


class _Kernel(NamedTuple):
    dispatcher: Any
    signatures: tuple[str, ...]


_kernels: list[_Kernel] = []


def kernel(*signatures: str) -> Callable[[Callable[..., Any]], Any]:
    """Declare a kernel with its accepted types; `R` in a signature is the real type."""

    def declare(function: Callable[..., Any]) -> Any:
        _ensure_cache_folder(function)
        dispatcher: Any = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=_FASTMATH)(function)
        # numba looks at a kernel's own file alone, but helpers of other files are compiled into it.
        dispatcher._cache._cache_file._source_stamp = sources_stamp()
        _kernels.append(_Kernel(dispatcher, signatures))
        return dispatcher

    return declare


@functools.cache
def sources_stamp() -> str:
    """Return what stands for the text of all kernels: when it changes, all of them are compiled anew."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def inline(function: Callable[..., Any]) -> Any:
    """Declare a helper that is compiled into the kernels which call it."""
    return numba.njit(inline="always", nogil=True, error_model="numpy", fastmath=_FASTMATH)(function)


def compile_kernels(real: str = "float32", on_progress: Callable[[int, int], None] | None = None) -> int:
    """Compile every kernel that the cache lacks for `real` ("float32" or "float64"); they load when first called.

    `on_progress(done, total)` is called before each compilation and once at the end; never when all of them were
    in the cache. Returns how many were compiled afresh.
    """
    jobs = _variants(real)
    fresh = 0
    for done, (dispatcher, types) in enumerate(jobs):
        if _is_cached(dispatcher, types):
            continue
        if on_progress is not None:
            on_progress(done, len(jobs))
        dispatcher.compile(types)
        fresh += 1
    if fresh and on_progress is not None:
        on_progress(len(jobs), len(jobs))
    return fresh


def cache_folder() -> Path:
    """Return the folder that holds the compiled kernels."""
    _import_all()
    return Path(_kernels[0].dispatcher.stats.cache_path)


def cached_kernels() -> tuple[int, int]:
    """Return how many of the float32 kernels are compiled and cached, and how many there are."""
    found = [_is_cached(dispatcher, types) for dispatcher, types in _variants("float32")]
    return sum(found), len(found)


def _import_all() -> None:
    package = importlib.import_module(__package__)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{__package__}.{module.name}")


def _variants(real: str) -> list[tuple[Any, tuple[Any, ...]]]:
    """Return each kernel with each of its argument types for `real`."""
    _import_all()
    return [
        (entry.dispatcher, _argument_types(signature.replace("R", _REAL[real])))
        for entry in _kernels
        for signature in entry.signatures
    ]


def _argument_types(signature: str) -> tuple[Any, ...]:
    """Parse a signature. Types, not text, so that a kernel called without being loaded finds the same cache entry."""
    arguments, _ = sigutils.normalize_signature(signature)
    return tuple(arguments)


def _is_cached(dispatcher: Any, types: tuple[Any, ...]) -> bool:
    """Tell whether a kernel is compiled, here or in numba's cache, without loading it."""
    cache = dispatcher._cache
    return types in dispatcher.overloads or (
        cache._index_key(types, dispatcher.targetctx.codegen()) in cache._cache_file._load_index()
    )


def _ensure_cache_folder(function: Callable[..., Any]) -> None:
    """Point numba at a private temporary folder when neither the sources nor the home folder can be written."""
    source = function.__code__.co_filename
    locators: Any = CacheImpl._locator_classes
    if any(locator.from_function(function, source) for locator in locators):
        return
    folder = Path(tempfile.gettempdir()) / f"adam_mp-kernels-{getpass.getuser()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid == os.getuid():
        setattr(numba.config, "CACHE_DIR", str(folder))  # noqa: B010, a module made at run time

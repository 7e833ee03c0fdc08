"""How kernels are declared, compiled once, and cached on disk.

`@kernel("void(R[::1], R)")` makes a function a kernel: numba compiles it without Python objects and without the
interpreter lock. `compile_kernels` compiles all of them for one real type that the cache lacks; `load_kernels` loads
them from there. numba keeps the cache in the first folder that can be written: the one that NUMBA_CACHE_DIR names, the
one beside the sources, the user's cache folder, a private folder among the temporary files. None of this needs a user's
name or a home. Where no folder can be written, each process compiles what it calls.

Each kernel has an index of its own there. To read them all takes 25 ms, so a stamp says that they were found whole, for
which sources, versions and processor, and in which files.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import os
import pkgutil
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite
import numba
from numba.core import sigutils
from numba.core.caching import InTreeCacheLocator, UserProvidedCacheLocator, UserWideCacheLocator

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
        kept = _find_place()
        dispatcher: Any = numba.njit(cache=kept, nogil=True, error_model="numpy", fastmath=_FASTMATH)(function)
        if kept:  # numba looks at a kernel's own file alone, but helpers of other files are compiled into it
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
    if _is_stamped(real):
        return 0
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
    _write_stamp(real, jobs)
    return fresh


def load_kernels() -> None:
    """Load all float32 kernels if all are compiled, so that processes forked of this one have them."""
    if _is_stamped("float32"):
        for dispatcher, types in _variants("float32"):
            dispatcher.compile(types)


def cache_folder() -> Path | None:
    """Return the folder that holds the compiled kernels; None where no folder can be written."""
    if not _kernels:
        _import_all()
    return Path(_kernels[0].dispatcher.stats.cache_path) if _find_place() else None


def cache_trouble() -> str | None:
    """Say what to do where compiled kernels are not kept; None where they are."""
    if _find_place():
        return None
    return "no folder for compiled kernels can be written, so each process compiles anew; set NUMBA_CACHE_DIR to one"


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
    return types in dispatcher.overloads or (_find_place() and _is_in_cache(dispatcher, types))


def _is_in_cache(dispatcher: Any, types: tuple[Any, ...]) -> bool:
    return bool(_files(dispatcher, types))


def _files(dispatcher: Any, types: tuple[Any, ...]) -> set[str]:
    """Return the names of the files that hold a kernel in numba's cache; none where it is not there."""
    cache = dispatcher._cache
    code = cache._cache_file._load_index().get(cache._index_key(types, dispatcher.targetctx.codegen()))
    return {cache._cache_file._index_name, code} if code else set()


def _stamp_file(real: str) -> Path | None:
    folder = cache_folder()
    return None if folder is None else folder / f"compiled-{real}.json"


def _stamp_key() -> str:
    """Return what compiled code depends on besides the real type, as text."""
    code = _kernels[0].dispatcher.targetctx.codegen().magic_tuple()  # the processor, as numba's own cache names it
    return json.dumps([sources_stamp(), sys.version, numba.__version__, llvmlite.__version__, *map(str, code)])


def _is_stamped(real: str) -> bool:
    """Tell whether all kernels were found to be compiled, and their files are still there."""
    file = _stamp_file(real)
    if file is None:
        return False
    try:
        stamp = json.loads(file.read_text(encoding="utf-8"))
        return bool(stamp["key"] == _stamp_key() and set(stamp["files"]) <= set(os.listdir(file.parent)))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write_stamp(real: str, jobs: list[tuple[Any, tuple[Any, ...]]]) -> None:
    """Note that all kernels are in the cache, if they are; where that cannot be written, all is looked at again."""
    file, files = _stamp_file(real), set()
    for dispatcher, types in jobs:
        if file is None or not _is_in_cache(dispatcher, types):
            return
        files |= _files(dispatcher, types)
    if file is None:
        return
    beside = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        beside.write_text(json.dumps({"key": _stamp_key(), "files": sorted(files)}), encoding="utf-8")
        os.replace(beside, file)
    except OSError:
        pass


@functools.cache
def _find_place() -> bool:
    """Have numba keep compiled kernels in the first folder that can be written; False if there is none.

    Children of this process find the same one: they inherit the environment, the user and the present folder.
    """
    function = _find_place.__wrapped__
    places: Any = UserProvidedCacheLocator, InTreeCacheLocator
    if any(place.from_function(function, __file__) for place in places):
        return True
    wide: Any = UserWideCacheLocator
    # Without a home, numba's path begins with a "~" that nobody replaces: a folder of that name in the present one.
    if os.path.isabs(wide(function, __file__).get_cache_path()) and wide.from_function(function, __file__):
        return True
    folder = _private_folder()
    if folder is None:
        return False
    setattr(numba.config, "CACHE_DIR", str(folder))  # noqa: B010, a module made at run time
    return True


def _private_folder() -> Path | None:
    """Return a folder among the temporary files that this user alone can write; None if it cannot be had.

    It is named by the user's number, because a user need not have a name. numba runs what lies there: another user's
    folder is not taken.
    """
    try:
        folder = Path(tempfile.gettempdir()) / f"adam_mp-kernels-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return None
    own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022
    return folder if own and os.access(folder, os.W_OK | os.X_OK) else None

"""How kernels are declared, compiled once, and cached on disk.

`@kernel("void(R[::1], R)")` makes a function a kernel: numba compiles it without Python objects and without the
interpreter lock. `compile_kernels` compiles all kernels that the cache lacks for one real type, in several processes if
there are several cores; `load_kernels` loads all from the cache. If several programs start at once, as the roles of a
run do on a new machine, one of them compiles and the others wait for it.

The cache lies in the first of these folders that can be written: the one that NUMBA_CACHE_DIR names; the one beside the
sources; the user's cache folder; a private folder among the temporary files. So it needs neither a user's name nor a
home. If no folder can be written, each process compiles the kernels that it calls.

In the cache each kernel has an index file. Reading all of them takes 25 ms. So a *stamp*, one more file, says that all
kernels are in the cache: in which files, and for which sources, versions and processor. It also says whether this numba
can load them *at once*, without first loading all that it can compile, which takes a quarter of a second.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import hashlib
import importlib
import json
import os
import pkgutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite
import numba
from numba.core import sigutils
from numba.core.caching import FunctionCache, InTreeCacheLocator, UserProvidedCacheLocator, UserWideCacheLocator
from numba.core.runtime import rtsys  # type: ignore[attr-defined]

from adam_mp.machine import free_memory, private_folder, usable_cores
from adam_mp.process.child import Child, start_child
from adam_mp.process.folder_lock import FolderHeldError, FolderLock

# Sums may be reordered, so that they vectorise. NaN and infinity stay exact: divergence is detected by them.
_FASTMATH = {"reassoc", "contract", "arcp", "nsz"}
_REAL = {"float32": "f4", "float64": "f8"}
_MOST_PROCESSES = 8  # that compile at once
_BYTES_OF_ONE = 300 << 20  # of memory that a process which compiles may take
_LOOK = 0.5  # seconds between two looks at what they have compiled
_PATIENCE = 300.0  # seconds in which they must have compiled a kernel; the slowest takes ten
_NUMBER = 2  # bytes of a kernel's number in the pipe that they take their work from


class _Kernel(NamedTuple):
    dispatcher: Any
    signatures: tuple[str, ...]

    @property
    def name(self) -> tuple[str, str]:
        """The module and the name of the function."""
        return self.dispatcher.py_func.__module__, self.dispatcher.py_func.__qualname__

    def variants(self, real: str) -> list[_Variant]:
        """Return (dispatcher, argument types) for each signature, with `real` for `R`."""
        return [(self.dispatcher, _argument_types(each.replace("R", _REAL[real]))) for each in self.signatures]


_Variant = tuple[Any, tuple[Any, ...]]  # dispatcher, argument types


_kernels: list[_Kernel] = []


class _KernelCache(FunctionCache):  # type: ignore[misc]
    """numba's cache of a kernel, except that the kernel is loaded at once where the stamp says that this works."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        if not _loads_at_once():
            return super().load_overload(sig, target_context)
        return self.load_at_once(sig, target_context)

    def load_at_once(self, sig: Any, target_context: Any) -> Any:
        """Load the kernel with the runtime alone; numba ends the process if the kernel needs more."""
        rtsys.initialize(target_context)
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)


def kernel(*signatures: str) -> Callable[[Callable[..., Any]], Any]:
    """Declare a kernel with its accepted types; `R` in a signature is the real type."""

    def declare(function: Callable[..., Any]) -> Any:
        kept = _find_place()
        dispatcher: Any = numba.njit(cache=kept, nogil=True, error_model="numpy", fastmath=_FASTMATH)(function)
        if kept:
            dispatcher._cache = _KernelCache(function)
            # numba's stamp is of the kernel's own file alone, but helpers of other files are compiled into it.
            dispatcher._cache._cache_file._source_stamp = sources_stamp()
        _kernels.append(_Kernel(dispatcher, signatures))
        return dispatcher

    return declare


@functools.cache
def sources_stamp() -> str:
    """Return a digest of all sources in this folder: if it changes, all kernels are compiled again."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def inline(function: Callable[..., Any]) -> Any:
    """Declare a helper that is compiled into the kernels which call it."""
    return numba.njit(inline="always", nogil=True, error_model="numpy", fastmath=_FASTMATH)(function)


def compile_kernels(real: str = "float32", on_progress: Callable[[int, int], None] | None = None) -> int:
    """Compile every kernel that the cache lacks for `real` ("float32" or "float64"); return how many these were.

    `on_progress(done, total)` is called as they are compiled and once at the end, but never if the cache has all.
    Kernels from the cache load when they are first called.
    """
    if _is_stamped(real):
        return 0
    variants = _variants(real)
    lacking = _lacking(variants)
    tell = functools.partial(_tell, on_progress, len(variants))
    if lacking:
        tell(len(lacking))
    with _turn(lacking, tell):
        compiled = _compile_lacking(real, variants, tell)
        if lacking:
            tell(0)
        if not _is_stamped(real):
            _write_stamp(real, variants)
    return compiled


@contextlib.contextmanager
def _turn(lacking: Sequence[_Variant], tell: Callable[[int], None]) -> Iterator[None]:
    """Let one process compile at a time: the others wait, and then find its kernels in the cache.

    A program that waits goes on without its turn if the others get nothing compiled, or if the cache cannot be locked.
    """
    folder = cache_folder()
    locks: list[FolderLock] = []

    def others_compile() -> bool:
        try:
            if folder is not None:
                locks.append(FolderLock(folder, needed=False))
        except FolderHeldError:
            return True
        except OSError:
            pass
        return False

    _wait_while(others_compile, lacking, tell)
    try:
        yield
    finally:
        for lock in locks:
            lock.close()


def _compile_lacking(real: str, variants: Sequence[_Variant], tell: Callable[[int], None]) -> int:
    """Compile the variants that the cache lacks; return how many these were."""
    lacking = _lacking(variants)
    if _find_place() and len(lacking) > 1:
        _compile_in_children(real, lacking, tell)
    left = _lacking(lacking)  # all, or what children that died have left: then this process gets the true error
    for number, (dispatcher, types) in enumerate(left):
        tell(len(left) - number)
        dispatcher.compile(types)
    return len(lacking)


def _tell(on_progress: Callable[[int, int], None] | None, total: int, left: int) -> None:
    if on_progress is not None:
        on_progress(total - left, total)


def _compile_in_children(real: str, lacking: Sequence[_Variant], tell: Callable[[int], None]) -> None:
    """Compile variants into the cache in a child process for each usable core, if there are several.

    A child that cannot be started, dies, or is stuck leaves its kernels to the caller. All variants of a kernel are
    compiled by one child, because they share an index file.
    """
    dispatchers = {id(dispatcher) for dispatcher, _ in lacking}
    numbers = [number for number, each in enumerate(_in_order()) if id(each.dispatcher) in dispatchers]
    processes = min(usable_cores(), _MOST_PROCESSES, len(numbers), free_memory() // _BYTES_OF_ONE)
    if processes < 2:
        return
    children: list[Child] = []
    queue, filling = os.pipe()
    try:
        os.write(filling, b"".join(number.to_bytes(_NUMBER, "little") for number in numbers))
        os.close(filling)
        try:
            for number in range(processes):
                children.append(start_child(f"compiler {number}", _compile_some, (real, queue), [queue], None))
        except OSError:
            pass  # fewer processes, or none
        _wait_while(lambda: any(child.exit_code is None for child in children), lacking, tell)
    finally:
        os.close(queue)
        for child in children:
            child.kill()
            child.close()


def _wait_while(busy: Callable[[], bool], lacking: Sequence[_Variant], tell: Callable[[int], None]) -> None:
    """Wait while `busy()` and while kernels get compiled; call `tell` with how many variants are left."""
    left, moved = list(lacking), time.monotonic()
    while busy() and time.monotonic() - moved < _PATIENCE:
        time.sleep(_LOOK)
        now_left = _lacking(left)
        if len(now_left) < len(left):
            left, moved = now_left, time.monotonic()
            if left:  # the caller tells the end, once
                tell(len(left))


def _compile_some(task: tuple[str, int]) -> None:
    """Compile kernels, whose numbers this process takes from a pipe, until the pipe is empty; run in a child.

    All children take from the one pipe: each takes its next kernel when it is done with one. A read of a few bytes that
    are in a pipe takes all of them at once, so no two children share a number.
    """
    real, queue = task
    _import_all()
    kernels = _in_order()
    while number := os.read(queue, _NUMBER):
        for dispatcher, types in kernels[int.from_bytes(number, "little")].variants(real):
            if not _is_cached(dispatcher, types):
                dispatcher.compile(types)


def load_kernels() -> None:
    """Load all float32 kernels if the stamp says that all are cached: processes forked from this one then have them."""
    if _is_stamped("float32"):
        for dispatcher, types in _variants("float32"):
            dispatcher.compile(types)


def cache_folder() -> Path | None:
    """Return the folder of the cache; None if no folder can be written."""
    if not _kernels:
        _import_all()
    return Path(_kernels[0].dispatcher.stats.cache_path) if _find_place() else None


def cache_trouble() -> str | None:
    """Return a line for the user if there is no cache, with what to do about it; None if there is one."""
    if _find_place():
        return None
    return "no folder for compiled kernels can be written, so each process compiles them; set NUMBA_CACHE_DIR to one"


def cached_kernels() -> tuple[int, int]:
    """Return how many of the float32 kernels are compiled and cached, and how many there are."""
    found = [_is_cached(dispatcher, types) for dispatcher, types in _variants("float32")]
    return sum(found), len(found)


def _import_all() -> None:
    package = importlib.import_module(__package__)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{__package__}.{module.name}")


def _in_order() -> list[_Kernel]:
    """Return all kernels in the order of their names: the same in every process, unlike that of the imports."""
    return sorted(_kernels, key=lambda each: each.name)


def _variants(real: str) -> list[_Variant]:
    """Return all variants of all kernels, with `real` for `R`."""
    _import_all()
    return [variant for each in _in_order() for variant in each.variants(real)]


def _lacking(variants: Sequence[_Variant]) -> list[_Variant]:
    """Return the variants that are not compiled yet."""
    return [(dispatcher, types) for dispatcher, types in variants if not _is_cached(dispatcher, types)]


def _argument_types(signature: str) -> tuple[Any, ...]:
    """Return a signature's argument types; by types, not text, numba's own lookup finds the same cache entry."""
    arguments, _ = sigutils.normalize_signature(signature)
    return tuple(arguments)


def _is_cached(dispatcher: Any, types: tuple[Any, ...]) -> bool:
    """Return whether a kernel is compiled, in this process or in the cache, without loading it."""
    return types in dispatcher.overloads or (_find_place() and bool(_files(dispatcher, types)))


def _files(dispatcher: Any, types: tuple[Any, ...]) -> set[str]:
    """Return the names of a kernel's files in the cache; none if the cache lacks it."""
    cache = dispatcher._cache
    code = cache._cache_file._load_index().get(cache._index_key(types, dispatcher.targetctx.codegen()))
    return {cache._cache_file._index_name, code} if code else set()


def _stamp_file(real: str) -> Path | None:
    folder = cache_folder()
    return None if folder is None else folder / f"compiled-{real}.json"


def _stamp_key() -> str:
    """Return, as text, all that compiled code depends on except the real type."""
    code = _kernels[0].dispatcher.targetctx.codegen().magic_tuple()  # the processor, as numba's own cache names it
    return json.dumps([sources_stamp(), sys.version, numba.__version__, llvmlite.__version__, *map(str, code)])


def _is_stamped(real: str) -> bool:
    """Return whether the stamp says that all kernels are cached, and all their files still exist."""
    file = _stamp_file(real)
    stamp = _read_stamp(file)
    try:
        return file is not None and bool(stamp) and set(stamp["files"]) <= set(os.listdir(file.parent))
    except (OSError, KeyError, TypeError):
        return False


@functools.cache
def _loads_at_once() -> bool:
    """Return whether every trial of the kernels that are cached, of each real type, has succeeded."""
    stamps = [stamp for real in _REAL if (stamp := _read_stamp(_stamp_file(real)))]
    return bool(stamps) and all(stamp.get("at_once") is True for stamp in stamps)


def _read_stamp(file: Path | None) -> dict[str, Any]:
    """Return the stamp; an empty one if there is none of these sources, versions and processor."""
    try:
        stamp = json.loads(file.read_text(encoding="utf-8")) if file is not None else {}
        return stamp if stamp["key"] == _stamp_key() else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write_stamp(real: str, variants: Sequence[_Variant]) -> None:
    """Write the stamp if the cache has all kernels. Without a stamp, the next process reads every index again."""
    file, files = _stamp_file(real), set[str]()
    if file is None:
        return
    for dispatcher, types in variants:
        found = _files(dispatcher, types)
        if not found:
            return
        files |= found
    stamp = {"key": _stamp_key(), "files": sorted(files), "at_once": _try_at_once(real)}
    beside = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        beside.write_text(json.dumps(stamp), encoding="utf-8")
        os.replace(beside, file)
    except OSError:
        pass


def _try_at_once(real: str) -> bool:
    """Return whether a process could load all kernels at once."""
    try:  # in an empty context, so as a fresh interpreter: a forked process may have loaded what it tries to do without
        child = contextvars.Context().run(start_child, "trial of the kernels", _load_at_once, real, [], None)
    except OSError:
        return False
    try:
        child.wait(time.monotonic() + _PATIENCE)
        return child.exit_code == 0
    finally:
        child.kill()
        child.close()


def _load_at_once(real: str) -> None:
    """Load all kernels at once; run in a child, because numba ends the process if that does not work."""
    for dispatcher, types in _variants(real):
        if dispatcher._cache.load_at_once(types, dispatcher.targetctx) is None:
            raise LookupError(f"{dispatcher} is not cached")


@functools.cache
def _find_place() -> bool:
    """Let numba cache in the first folder that can be written; return False if there is none.

    Children of this process find the same folder: they inherit the environment, the user and the current folder.
    """
    function = _find_place.__wrapped__
    places: Any = UserProvidedCacheLocator, InTreeCacheLocator
    if any(place.from_function(function, __file__) for place in places):
        return True
    wide: Any = UserWideCacheLocator
    # Without a home, numba's path still begins with "~": numba would make a folder of that name in the current one.
    if os.path.isabs(wide(function, __file__).get_cache_path()) and wide.from_function(function, __file__):
        return True
    folder = private_folder("kernels")  # numba runs the code in it
    if folder is None:
        return False
    setattr(numba.config, "CACHE_DIR", str(folder))  # noqa: B010, a module made at run time
    return True

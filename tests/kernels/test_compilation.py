from __future__ import annotations

import numba

from adam_mp.kernels import compilation


def test_a_second_compilation_finds_all_in_the_cache():
    compilation.compile_kernels()
    told = []
    assert compilation.compile_kernels("float32", lambda done, total: told.append((done, total))) == 0
    assert told == []
    cached, total = compilation.cached_kernels()
    assert cached == total > 40
    assert compilation.cache_folder().is_dir()


def test_no_kernel_runs_in_parallel_or_holds_the_interpreter():
    for entry in compilation._kernels:
        options = entry.dispatcher.targetoptions
        assert options["nogil"]
        assert not options.get("parallel")
    assert numba.config.NUMBA_NUM_THREADS >= 1

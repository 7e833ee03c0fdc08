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


def test_no_kernel_runs_in_parallel_or_holds_the_interpreter():
    for entry in compilation._kernels:
        options = entry.dispatcher.targetoptions
        assert options["nogil"]
        assert not options.get("parallel")
    assert numba.config.NUMBA_NUM_THREADS >= 1

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.memory import cache as caches
from adam_mp.memory.cache import CacheHandle, ImageCache, expected_bytes, shrink_after_death
from adam_mp.memory.segment import SegmentHandle

SAMPLES = 40


def image_of(sample):
    generator = np.random.default_rng(sample)
    height, width = generator.integers(1, 60, 2)
    return generator.integers(0, 256, (height, width, 3), dtype=np.uint8)


def make(size, folder=None, image_bytes=3000):
    return ImageCache.create(size, image_bytes, np.zeros(SAMPLES, np.int64), folder)


def attach(cache):
    segment = SegmentHandle(os.dup(cache.handle.segment.descriptor), cache.handle.segment.size)
    return ImageCache.attach(CacheHandle(segment, cache.handle.chunk, cache.handle.chunks), cache._places)


def found(cache, sample):
    place = cache.find(sample)
    if place is None:
        return None
    begin, height, width = place
    return cache.pixels[begin : begin + height * width * 3].reshape(height, width, 3)


@given(st.lists(st.integers(0, SAMPLES - 1), max_size=80), st.integers(0, 400_000))
def test_what_is_kept_is_found_by_all_and_never_changes(samples, size):
    cache = make(size)
    others = [attach(cache) for _ in range(3)]
    kept = set()
    for number, sample in enumerate(samples):
        assert (cache.find(sample) is None) == (sample not in kept)
        if others[number % 3].add(sample, image_of(sample)):
            assert sample not in kept
            kept.add(sample)
    for sample in kept:
        np.testing.assert_array_equal(found(cache, sample), image_of(sample))
    statistics = cache.statistics()
    assert statistics.images == len(kept)
    assert statistics.bytes <= size
    for each in (*others, cache):
        each.close()


def test_memory_is_taken_as_it_fills_and_not_beyond():
    cache = make(1 << 20, image_bytes=30_000)
    descriptor = cache.handle.segment.descriptor
    assert os.fstat(descriptor).st_blocks * 512 <= 4096
    image = np.zeros((100, 100, 3), np.uint8)
    taken = []
    for sample in range(SAMPLES):
        cache.add(sample, image)
        taken.append(os.fstat(descriptor).st_blocks * 512)
    assert taken[0] < 300_000
    assert taken[-1] <= (1 << 20) + 4096
    assert cache.statistics().full
    assert 24 <= cache.statistics().images < SAMPLES
    cache.close()


def test_it_shrinks_while_others_use_it():
    cache = make(2 << 20, image_bytes=30_000)
    other, third = attach(cache), attach(cache)
    for sample in range(20):
        assert (other, third)[sample % 2].add(sample, image_of(sample))
    taken = os.fstat(cache.handle.segment.descriptor).st_blocks * 512
    before = {sample: cache.find(sample) for sample in range(20)}
    left = cache.shrink()
    assert left == cache.statistics().bytes
    assert 0 < os.fstat(cache.handle.segment.descriptor).st_blocks * 512 <= left + 4096 < taken
    kept = [sample for sample in range(20) if other.find(sample) is not None]
    assert 0 < len(kept) < 20
    assert len(kept) == cache.statistics().images
    for sample in range(20):
        assert other.still_has(before[sample][0]) == (sample in kept)
        if sample in kept:
            np.testing.assert_array_equal(found(other, sample), image_of(sample))
    added = [each.add(sample, image_of(sample)) for sample in range(20, SAMPLES) for each in (other, third)]
    assert os.fstat(cache.handle.segment.descriptor).st_blocks * 512 <= left + 4096
    assert cache.statistics().images == len(kept) + sum(added)
    for _ in range(30):
        left = cache.shrink() or 0
    assert left == 0
    assert not any(each.add(0, image_of(0)) or each.find(1) for each in (other, third, cache))
    cache.resize(2 << 20)  # after a survey that had no memory
    assert not cache.add(0, image_of(0))
    for each in (other, third, cache):
        each.close()


def test_pixels_that_are_given_back_while_they_are_read_are_known():
    cache = make(2 << 20, image_bytes=30_000)
    for sample in range(SAMPLES):
        cache.add(sample, image_of(sample))
    reader = attach(cache)
    stop, wrong, read = threading.Event(), [], [0]

    def look():
        while not stop.is_set():
            for sample in range(SAMPLES):
                place = reader.find(sample)
                if place is None:
                    continue
                begin, height, width = place
                pixels = reader.pixels[begin : begin + height * width * 3].copy()
                if reader.still_has(begin):
                    read[0] += 1
                    if not np.array_equal(pixels.reshape(height, width, 3), image_of(sample)):
                        wrong.append(sample)

    thread = threading.Thread(target=look)
    thread.start()
    while cache.shrink():
        before = read[0]
        while read[0] == before and not stop.wait(0.001):
            pass
    stop.set()
    thread.join()
    assert not wrong
    for each in (reader, cache):
        each.close()


def test_only_want_of_memory_makes_it_smaller():
    cache = make(2 << 20, image_bytes=30_000)
    for sample in range(SAMPLES):
        cache.add(sample, image_of(sample))
    held = cache.statistics().bytes
    assert shrink_after_death(cache, False) == ""
    assert shrink_after_death(None, True) == ""
    assert cache.statistics().bytes == held
    assert shrink_after_death(cache, None).startswith("the cache is made smaller, to 0.")
    shrink_after_death(cache, True)
    assert cache.statistics().bytes <= held / 4
    while cache.shrink():
        pass
    assert shrink_after_death(cache, True) == ""
    cache.close()


def test_an_image_larger_than_a_chunk_is_not_kept():
    cache = make(64 * 4096)
    assert not cache.add(0, np.zeros((100, 100, 3), np.uint8))
    assert cache.add(1, np.zeros((30, 30, 3), np.uint8))
    cache.close()


def test_it_stops_before_the_machine_is_full(monkeypatch):
    cache = make(1 << 20)
    monkeypatch.setattr(caches, "free_memory", lambda: 1 << 20)
    assert not cache.add(0, np.zeros((30, 30, 3), np.uint8))
    assert cache.find(0) is None
    cache.close()


def test_a_cache_on_disk(tmp_path):
    cache = make(1 << 20, tmp_path)
    assert cache.add(3, image_of(3))
    np.testing.assert_array_equal(found(cache, 3), image_of(3))
    assert list(tmp_path.iterdir()) == []
    cache.close()


def test_several_fill_it_at_once():
    cache = make(4 << 20)
    others = [attach(cache) for _ in range(4)]

    def fill(mine):
        for sample in range(SAMPLES):
            mine.add(sample, image_of(sample))
            np.testing.assert_array_equal(found(mine, sample), image_of(sample))

    threads = [threading.Thread(target=fill, args=(mine,)) for mine in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert cache.statistics().images == SAMPLES
    for each in (*others, cache):
        each.close()


@pytest.mark.parametrize(("count", "pixels"), [(1, 10), (1000, 250_000)])
def test_what_is_expected_is_enough(count, pixels):
    assert expected_bytes(count, pixels, 3) > count * pixels * 3


def test_it_is_cut_and_extended_and_what_it_holds_stays():
    cache = make(64 * 4096, image_bytes=400)
    other = attach(cache)
    kept = [sample for sample in range(12) if other.add(sample, image_of(sample))]
    other.close()
    held = cache.statistics().bytes
    small = next(sample for sample in range(12, SAMPLES) if image_of(sample).size < 3000)
    for size in (0, 16 * 4096, 400 * 4096):
        cache.resize(size)
        assert os.fstat(cache.handle.segment.descriptor).st_size == cache.handle.segment.size
        assert cache.handle.segment.size == 4096 + max(size // cache.handle.chunk * cache.handle.chunk, held)
        another = attach(cache)
        for sample in kept:
            np.testing.assert_array_equal(found(cache, sample), image_of(sample))
            np.testing.assert_array_equal(found(another, sample), image_of(sample))
        if size < held:
            assert not another.add(small, image_of(small))  # a cut one is full, and has room when it is extended
        another.close()
    assert cache.add(small, image_of(small))
    places = np.zeros(2 * SAMPLES, np.int64)
    places[SAMPLES:] = cache._places
    cache.adopt(places, 1 << 20)
    assert cache.handle.spare == 1 << 20
    np.testing.assert_array_equal(found(cache, SAMPLES + kept[0]), image_of(kept[0]))
    cache.close()

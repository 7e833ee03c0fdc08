from __future__ import annotations

import threading

import numba
import numpy as np
import pytest

from adam_mp.kernels import atomic

THREADS, ROUNDS = 4, 20_000
MEETINGS, LINE = 2_000, 16


def in_threads(task):
    threads = [threading.Thread(target=task, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


def test_no_addition_is_lost():
    words = np.zeros(3, np.int64)

    def task(_):
        for _ in range(ROUNDS):
            atomic.fetch_add(words, 1, 1)

    in_threads(task)
    assert words.tolist() == [0, THREADS * ROUNDS, 0]


def test_each_word_is_claimed_once():
    words = np.zeros(ROUNDS, np.int64)
    claimed = [[] for _ in range(THREADS)]

    def task(number):
        while (index := atomic.claim_first(words, 0, 0, number + 1)) >= 0:
            claimed[number].append(index)
            if index > 2000:
                return

    in_threads(task)
    everything = sorted(index for indices in claimed for index in indices)
    assert everything == list(range(len(everything)))
    for number, indices in enumerate(claimed):
        assert (words[indices] == number + 1).all()


def test_compare_and_swap_swaps_only_what_was_expected():
    words = np.array([5], np.int64)
    assert not atomic.compare_and_swap(words, 0, 4, 9)
    assert atomic.compare_and_swap(words, 0, 5, 9)
    assert atomic.observe(words, 0) == 9
    atomic.publish(words, 0, -1)
    assert words[0] == -1
    assert atomic.replace_all(np.array([1, 2, 1], np.int64), 1, 3) == 2
    assert atomic.claim_first(np.array([1, 2], np.int64), 0, 3, 4) == -1


def test_all_words_are_observed():
    out = np.zeros(3, np.int64)
    atomic.observe_all(np.array([4, 5, 6, 7], np.int64)[:3], out)
    assert out.tolist() == [4, 5, 6]


def test_an_exchange_returns_what_was_there():
    words = np.array([1, 5], np.int64)
    assert atomic.exchange(words, 1, 7) == 5
    assert words.tolist() == [1, 7]


@numba.njit
def by_exchange(words, index):
    atomic._exchange(words, index, 1)


@numba.njit
def by_addition(words, index):
    atomic._add(words, index, 1)


@numba.njit
def by_swap(words, index):
    atomic._swap(words, index, 0, 1)


def make_meet(store):
    """Return a function that stores one of a pair of words and then looks at the other, again and again in step."""

    @numba.njit(nogil=True)
    def meet(turns, words, own, seen):
        other = 1 - own
        for meeting in range(seen.size):
            atomic._store(turns, LINE * own, meeting + 1)
            while atomic._load(turns, LINE * other) <= meeting:
                pass
            store(words, LINE * (2 * meeting + own))
            seen[meeting] = atomic._load(words, LINE * (2 * meeting + other))

    return meet


@pytest.mark.parametrize("store", [by_exchange, by_addition, by_swap])
def test_of_two_that_store_and_then_look_at_the_others_word_one_sees_it(store):
    """Dekker's pattern. With `_store`, about half of these meetings end with both seeing the old word on x86."""
    meet = make_meet(store)
    meet(np.full(2 * LINE, MEETINGS + 1), np.zeros(2 * LINE * MEETINGS, np.int64), 0, np.zeros(MEETINGS, np.int64))
    turns, words = np.zeros(2 * LINE, np.int64), np.zeros(2 * LINE * MEETINGS, np.int64)
    seen = np.full((2, MEETINGS), -1, np.int64)
    threads = [threading.Thread(target=meet, args=(turns, words, own, seen[own])) for own in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert (seen >= 0).all()
    assert (seen.max(axis=0) == 1).all()

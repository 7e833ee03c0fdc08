from __future__ import annotations

import threading

import numpy as np

from adam_mp.kernels import atomic

THREADS, ROUNDS = 4, 20_000


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

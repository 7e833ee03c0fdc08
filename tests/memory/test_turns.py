from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.memory.segment import Segment
from adam_mp.memory.turns import Turns


@given(st.integers(1, 9), st.lists(st.integers(0, 10**6), max_size=60, unique=True), st.integers(0, 10**9))
def test_every_batch_is_dealt_to_one_worker_in_one_turn(workers, batches, step):
    segment = Segment.create("test", Turns.bytes_needed(60))
    turns = Turns(segment, 0, 60, workers)
    turns.deal(np.array(batches, np.int64), step)
    hands = [turns.hand(worker) for worker in range(workers)]
    assert sorted(np.concatenate(hands).tolist()) == sorted(batches)
    played = []
    for turn in range(-(-len(batches) // workers)):
        players = turns.players(turn)
        assert 1 <= players <= workers
        played += [int(hands[worker][turn]) for worker in range(players)]
        assert turns.step(turn) == step + turn
    assert played == batches
    assert turns.players(-(-len(batches) // workers)) == 0
    del turns, hands
    segment.close()

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as some

from adam_mp.compute.shares import Share, cut_stretches, shares_of, stretches_of, whole_stretch
from adam_mp.memory.layout import Layout

SHAPES = {
    "conv1.weight": (3, 3, 1, 4), "conv1.bias": (4,), "norm1.scale": (4,), "norm1.shift": (4,),
    "dense1.weight": (17, 3), "dense1.bias": (3,),
}  # fmt: skip


def spread(stretches):
    """The shares of rate and decay of each number of the flat space [n, 2]."""
    lengths = np.diff(np.append(0, stretches[:, 0])).astype(int)
    assert (lengths > 0).all()
    return np.repeat(stretches[:, 1:], lengths, axis=0)


def test_tensors_of_one_axis_are_not_decayed_unless_all_are():
    shares = shares_of(SHAPES, decay_all=False)
    assert {name: share.decay for name, share in shares.items()} == {
        "conv1.weight": 1, "conv1.bias": 0, "norm1.scale": 0, "norm1.shift": 0, "dense1.weight": 1, "dense1.bias": 0,
    }  # fmt: skip
    assert set(shares_of(SHAPES, decay_all=True).values()) == {Share(1.0, 1.0)}


def test_neighbours_with_the_same_shares_are_one_stretch():
    layout = Layout.of(SHAPES)
    stretches = stretches_of(layout, shares_of(SHAPES, decay_all=False))
    assert stretches.tolist() == [[48, 1, 1], [96, 1, 0], [160, 1, 1], [176, 1, 0]]
    assert stretches_of(layout, shares_of(SHAPES, decay_all=True)).tolist() == whole_stretch(176).tolist()


@given(
    rows=some.lists(some.tuples(some.integers(1, 40), some.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=6),
    data=some.data(),
)
def test_a_cut_has_the_shares_of_its_place(rows, data):
    ends = np.cumsum([length for length, _ in rows])
    stretches = np.array([(end, share, 1 - share) for end, (_, share) in zip(ends, rows, strict=True)])
    start, stop = sorted(data.draw(some.integers(0, int(ends[-1]))) for _ in range(2))
    cut = cut_stretches(stretches, slice(start, stop))
    assert cut.shape[1] == 3
    np.testing.assert_array_equal(spread(cut), spread(stretches)[start:stop])

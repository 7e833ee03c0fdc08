from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from adam_mp.compute.shares import Share, cut_stretches, of_own_rate, shares_of, stretches_of, whole_stretch
from adam_mp.errors import SettingsError
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


@pytest.mark.parametrize(
    ("rates", "own"),
    [
        ([], {}),
        ([("conv*", 0.5)], {"conv1.weight": 0.5, "conv1.bias": 0.5}),
        ([("*.bias", 2.0), ("dense1", 0.0)], {"conv1.bias": 2.0, "dense1.weight": 0.0, "dense1.bias": 0.0}),
        ([("dense1", 0.0), ("*.bias", 2.0)], {"conv1.bias": 2.0, "dense1.weight": 0.0, "dense1.bias": 2.0}),
        ([("*", 0.1), ("*", 1.0)], {}),
    ],
)
def test_the_last_pattern_that_fits_counts(rates, own):
    shares = shares_of(SHAPES, False, rates)
    assert {name: shares[name].rate for name in of_own_rate(shares)} == own
    assert {share.rate for name, share in shares.items() if name not in own} <= {1.0}
    assert {name: share.decay for name, share in shares.items()} == {
        name: share.decay for name, share in shares_of(SHAPES, False).items()
    }


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ([("dens1", 0.1)], "'dens1' fits no layer with weights of the network; did you mean 'dense1'"),
        ([("conv2*", 0.1)], "known: conv1, dense1, norm1|did you mean 'conv1'"),
        ([("conv1.wieght", 0.1)], "fits no tensor of the network; did you mean 'conv1.weight'"),
        ([("Conv1", 0.1)], "fits no layer"),
        ([("*", 0.0)], "nothing would be trained"),
    ],
)
def test_patterns_that_are_refused(rates, message):
    with pytest.raises(SettingsError, match=message):
        shares_of(SHAPES, False, rates)

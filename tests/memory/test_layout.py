from __future__ import annotations

import itertools
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.memory.layout import ALIGNMENT, BUCKETS, SHARD, Layout

SHAPES = st.dictionaries(
    st.text(min_size=1, max_size=5), st.lists(st.integers(1, 40), max_size=3).map(tuple), max_size=8
)


@given(SHAPES)
def test_tensors_are_aligned_and_disjoint(shapes):
    layout = Layout.of(shapes)
    flat = np.zeros(layout.size, np.int64)
    for number, (name, view) in enumerate(layout.views(flat).items(), 1):
        assert view.shape == shapes[name]
        assert not view.any()
        view[...] = number
    assert np.count_nonzero(flat) == sum(math.prod(shape) for shape in shapes.values())
    assert all(tensor.offset % ALIGNMENT == 0 for tensor in layout.tensors)
    assert layout.size % ALIGNMENT == 0


@given(SHAPES, SHAPES)
def test_the_digest_tells_layouts_apart(first, second):
    one, other = Layout.of(first), Layout.of(second)
    assert (one.digest == other.digest) == (one == other)
    assert 0 <= one.digest < 2**63


@given(st.integers(1, 5 * SHARD))
def test_shards_cover_the_space(size):
    layout = Layout.of({"w": (size,)})
    shards = layout.shards
    assert shards[0].start == 0
    assert shards[-1].stop == layout.size
    assert all(one.stop == other.start for one, other in itertools.pairwise(shards))
    assert all(0 < shard.stop - shard.start <= SHARD for shard in shards)


def test_buckets_are_filled_about_equally():
    layout = Layout.of({"w": (10,)})
    counts = np.bincount([layout.bucket(shard) for shard in range(6400)], minlength=BUCKETS)
    assert len(counts) == BUCKETS
    assert counts.min() > 60
    assert counts.max() < 150

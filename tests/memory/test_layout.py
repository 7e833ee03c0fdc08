from __future__ import annotations

import itertools
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.memory.layout import ALIGNMENT, BUCKETS, SHARD, Held, Layout

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


LARGE = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 3 * SHARD)),
        st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
        st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 64), st.integers(1, 64)),
    ),
    min_size=1, max_size=5,
)  # fmt: skip


@given(LARGE, st.integers(1, 9))
def test_shards_cover_the_space_and_cut_matrices_at_rows(shapes, servers):
    layout = Layout.of({f"w{number}": shape for number, shape in enumerate(shapes)}).for_servers(servers)
    shards = layout.shards
    assert shards[0].start == 0
    assert shards[-1].stop == layout.size
    assert all(one.stop == other.start for one, other in itertools.pairwise(shards))
    assert all(0 < shard.size <= SHARD + ALIGNMENT for shard in shards)
    for index, tensor in enumerate(layout.tensors):
        own = [shard for shard in shards if shard.tensor == index]
        if len(tensor.shape) != 2:
            assert not own
            continue
        columns, row = tensor.shape[1], 0
        for shard in own:
            assert (shard.start, shard.first_row) == (tensor.offset + row * columns, row)
            row += shard.rows
        assert row == tensor.shape[0]
        assert own[-1].stop - tensor.offset - tensor.size < ALIGNMENT
        rows = [shard.rows for shard in own]
        assert max(rows) - min(rows) <= 1


@given(LARGE, st.integers(2, 9))
def test_a_server_more_makes_shards_smaller_and_never_too_small(shapes, servers):
    layout = Layout.of({f"w{number}": shape for number, shape in enumerate(shapes)})
    widest = max((tensor.shape[1] for tensor in layout.tensors if len(tensor.shape) == 2), default=1)
    fewer, more = (layout.for_servers(count) for count in (servers - 1, servers))
    largest = [max(shard.size for shard in each.shards) for each in (fewer, more)]
    assert largest[1] <= largest[0] + ALIGNMENT  # the padding of another matrix's end may come with it
    bound = max(1 << 14, layout.size / (6 * servers))
    assert largest[1] <= max(bound, widest) + ALIGNMENT
    assert len(more.shards) <= 1 + 2 * (layout.size / min(bound, SHARD)) + 2 * len(layout.tensors)
    assert more.for_servers(servers) is more
    assert more.for_servers(1) == layout
    assert more.digest != fewer.digest


def test_buckets_are_filled_about_equally():
    layout = Layout.of({"w": (10,)})
    counts = np.bincount([layout.bucket(shard) for shard in range(6400)], minlength=BUCKETS)
    assert len(counts) == BUCKETS
    assert counts.min() > 60
    assert counts.max() < 150


def test_a_machine_holds_the_shards_of_its_matrices_where_it_has_them():
    layout = Layout.of({"a": (40, 16), "b": (33, 16), "c": (7, 16)}).for_servers(2)
    held = Held.some_of(layout, {"c": 0, "a": 7 * 16, "absent": 5}, 47 * 16)
    flat, own = np.arange(layout.size), np.arange(layout.size)
    own = np.concatenate([flat[73 * 16 :], flat[: 40 * 16]])
    assert held.size == own.size
    for number, shard in zip(held.numbers, held.shards, strict=True):
        np.testing.assert_array_equal(own[shard.place], flat[layout.shards[number].place])
    assert sum(shard.size for shard in held.shards) == held.size
    everything = Held.all_of(layout)
    assert (everything.shards, everything.numbers) == (layout.shards, tuple(range(len(layout.shards))))

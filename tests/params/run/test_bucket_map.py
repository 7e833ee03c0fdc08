from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.errors import SettingsError
from adam_mp.memory.layout import BUCKETS, SHARD, Layout
from adam_mp.network.network import Network
from adam_mp.network.zoo import ZOO
from adam_mp.params.run.bucket_map import BucketMap, LayoutFacts, ServerPlace, spread_buckets

SHAPES = st.lists(
    st.one_of(st.tuples(st.integers(1, 10**6)), st.tuples(st.integers(1, 2000), st.integers(1, 2000))),
    min_size=1, max_size=6,
)  # fmt: skip


def make_map(count):
    return BucketMap(1, tuple(ServerPlace(10 + number, f"127.0.0.1:{number + 1}") for number in range(count)))


@given(SHAPES, st.integers(1, 9))
def test_every_shard_has_one_owner_and_all_compute_the_same(shapes, servers):
    layout = Layout.of({f"w{number}": shape for number, shape in enumerate(shapes)})
    bucket_map = make_map(servers)
    owned = [bucket_map.shards_of(layout, 10 + number) for number in range(servers)]
    assert sorted(shard for shards in owned for shard in shards) == list(range(len(bucket_map.cut(layout).shards)))
    again = LayoutFacts.from_list(LayoutFacts.of(layout).as_list()).layout
    assert BucketMap.from_dict(bucket_map.as_dict()).owners(again) == bucket_map.owners(layout)


@pytest.mark.parametrize("servers", [2, 3, 5])
def test_a_large_network_is_spread_equally(servers):
    layout = Layout.of({f"dense{number}.weight": (4096, 4096) for number in range(4)})
    bucket_map = make_map(servers)
    sizes = [
        sum(bucket_map.cut(layout).shards[shard].size for shard in bucket_map.shards_of(layout, 10 + number))
        for number in range(servers)
    ]
    assert max(sizes) < 1.05 * layout.size / servers
    counts = [spread_buckets(layout, servers).count(number) for number in range(servers)]
    assert sum(counts) == BUCKETS


@pytest.mark.parametrize("servers", [1, 2, 3, 4])
@pytest.mark.parametrize("name", sorted(ZOO))
def test_servers_have_about_equal_shares_of_every_network_of_the_zoo(name, servers):
    large = name in ("alexnet", "vgg16", "resnet18", "resnet34", "resnet50", "mobilenet-v2")
    shape, classes = ((224, 224, 3), 1000) if large else ((28, 28, 1), 10)
    layout = make_map(servers).cut(Layout.of(Network.build(ZOO[name](shape, classes), shape, classes).parameters))
    loads = [0] * servers
    for shard, owner in zip(layout.shards, make_map(servers).owners(layout), strict=True):
        loads[owner] += shard.size
    assert sum(loads) == layout.size
    assert max(loads) <= 1.12 * layout.size / servers
    # Messages a round. Deep networks have many small matrices, each of which has a shard of its own.
    deep = name.startswith(("resnet", "vgg", "mobilenet"))
    own = 2 * sum(len(tensor.shape) == 2 for tensor in layout.tensors) if deep else 0
    assert len(layout.shards) <= max(12 * servers, layout.size // SHARD + 20 + own)


def test_a_stranger_owns_nothing():
    assert make_map(2).shards_of(Layout.of({"w": (100,)}), 99) == ()


@pytest.mark.parametrize("given", [[["w", "x"]], [["w"]], 5, [["w", [0]]], [["w", [-1]]]])
def test_a_malformed_layout_is_refused(given):
    with pytest.raises(SettingsError, match="a peer sent a "):
        LayoutFacts.from_list(given)

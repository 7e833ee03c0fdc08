from __future__ import annotations

from adam_mp.compute.part_measurement import part_bytes, part_seconds
from adam_mp.network.cuts import plan_partitions
from adam_mp.network.network import Network
from adam_mp.network.traffic import messages_of
from adam_mp.network.zoo import ZOO


def test_a_partition_of_a_dense_network_takes_its_share_of_memory():
    network = Network.build(ZOO["alexnet"]((96, 96, 3), 10), (96, 96, 3), 10)
    sizes = {parts: part_bytes(plan_partitions(network, parts), 0, 8) for parts in (2, 4)}
    whole = 4 * network.parameter_count * 2  # weights and gradient
    assert sizes[2] < 0.6 * whole
    assert sizes[4] < 0.35 * whole


def test_partitions_of_one_machine_have_one_array_for_what_they_send_each_other():
    plan = plan_partitions(Network.build(ZOO["alexnet"]((96, 96, 3), 10), (96, 96, 3), 10), 2)
    alone, beside = (part_bytes(plan, 0, 8, apart) for apart in (True, False))
    sent = sum(each.bytes(8) for each in {message.home for _, message in messages_of(plan)})
    assert alone - beside == sent // 2 > 0


def test_the_work_of_a_partition_is_timed():
    plan = plan_partitions(Network.build(ZOO["mnist"]((28, 28, 1), 10), (28, 28, 1), 10), 2)
    assert 1e-7 < part_seconds(plan, 0, 8) < 1

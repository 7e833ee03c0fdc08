from __future__ import annotations

import json

import pytest

from adam_mp.network.cuts import plan_partitions
from adam_mp.network.network import Network
from adam_mp.network.zoo import ZOO
from adam_mp.report.partitions import partition_facts, partition_text


def test_facts_and_text_of_a_cut():
    plan = plan_partitions(Network.build(ZOO["mnist"]((28, 28, 1), 10), (28, 28, 1), 10), 2)
    facts = json.loads(json.dumps(partition_facts(plan, 16, [5_000_000, 6_000_000], 1e-4)))
    assert [layer["name"] for layer in facts["layers"]] == ["conv1", "conv2", "dense1", "dense2"]
    sent = facts["parts"][0]["sent"]
    assert sent == pytest.approx(sum(layer["sent"] for layer in facts["layers"]) + facts["sent_by_others"])
    link = facts["links"][0]
    assert facts["pictures"] > 0
    assert link["seconds"] == pytest.approx((sent + facts["pictures"]) * 8 / 1e9)
    assert link["share"] == pytest.approx(link["seconds"] / (link["seconds"] + 1e-4))
    text = partition_text("mnist", facts)
    assert "mnist over 2 partitions" in text
    assert "6.0 MB for weights, gradient, activations and messages" in text
    assert "100 Gbit/s" in text

"""A cut of a network over partitions, as text: layer by layer which way it is cut, and what each partition has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from adam_mp.errors import several
from adam_mp.memory.segment import megabytes
from adam_mp.network.partition import PartitionPlan
from adam_mp.network.traffic import input_bytes, part_costs, traffic_of
from adam_mp.report.text import count, table

GBITS = (1, 10, 100)
_GBIT = 1e9 / 8  # bytes a second


def partition_facts(plan: PartitionPlan, batch: int, bytes_of: Sequence[int], seconds: float) -> dict[str, Any]:
    """Return a cut as plain values for JSON.

    `bytes_of` is the memory of each partition, `seconds` the work of the slowest one for an image. Bytes and seconds
    are those of an image in batches of `batch`. The link is what its slowest partition sends, which receives as much
    meanwhile; it costs `share` of the time if nothing is computed while it sends. The first partition also sends
    `pictures`, the images as far as the others read them.
    """
    traffic, costs = traffic_of(plan), part_costs(plan, batch)
    pictures = sum(input_bytes(plan, part) for part in range(1, plan.parts))
    sent = max(costs[0].sent + pictures, *(cost.sent for cost in costs[1:]))
    shapes = dict(zip(plan.network.names, plan.network.shapes[1:], strict=True))
    links = [(gbit, sent / (gbit * _GBIT)) for gbit in GBITS]
    return {
        "partitions": plan.parts,
        "batch": batch,
        "layers": [
            {
                "name": name, "way": way, "output_shape": shapes[name],
                "parameters": max(_parameters(plan, name, part) for part in range(plan.parts)),
                "sent": max(traffic[name].per_image(batch)),
            }
            for name, way in plan.ways.items()
        ],
        "sent_by_others": max(
            sum(each.per_image(batch)[part] for name, each in traffic.items() if name not in plan.ways)
            for part in range(plan.parts)
        ),
        "parts": [
            {
                "parameters": cost.parameters, "bytes": size, "sent": cost.sent,
                "connections": cost.connections / plan.network.connections,
            }
            for cost, size in zip(costs, bytes_of, strict=True)
        ],
        "seconds": seconds,
        "pictures": pictures,
        "links": [{"gbit": gbit, "seconds": link, "share": link / (link + seconds)} for gbit, link in links],
    }  # fmt: skip


def partition_text(name: str, facts: Mapping[str, Any]) -> str:
    """Return the text to show, from `partition_facts`."""
    rows = [("layer", "cut by", "output", "parameters each", "kB sent")]
    for layer in facts["layers"]:
        shape = "x".join(map(str, layer["output_shape"]))
        rows.append((layer["name"], layer["way"], shape, f"{layer['parameters']:,}", f"{layer['sent'] / 1e3:,.1f}"))
    if facts["sent_by_others"]:
        rows.append(("other layers", "as their input", "", "", f"{facts['sent_by_others'] / 1e3:,.1f}"))
    parts, batch = several(facts["partitions"], "partition"), facts["batch"]
    return "\n".join(
        [
            f"{name} over {parts}; bytes and seconds are those of an image, in batches of {batch}",
            table(rows),
            *(_part_line(number, part) for number, part in enumerate(facts["parts"], 1)),
            f"on several machines, partition 1 also sends {facts['pictures'] / 1e3:,.0f} kB of pictures",
            f"the slowest partition's work takes {1e3 * facts['seconds']:.2f} ms on a core of this machine",
            *(_link_line(link, facts["seconds"]) for link in facts["links"]),
        ]
    )


def _part_line(number: int, part: Mapping[str, Any]) -> str:
    has = f"{count(part['parameters'])} parameters, {part['connections']:.1%} of the connections"
    takes = f"{megabytes(part['bytes'])} for weights, gradient, activations and messages"
    return f"partition {number}: {has}; {takes}; sends {part['sent'] / 1e3:,.0f} kB"


def _link_line(link: Mapping[str, Any], seconds: float) -> str:
    takes = f"{1e3 * link['seconds']:.2f} ms on the way, {link['share']:.0%} of the time with one batch in flight"
    more = "hidden by work" if link["seconds"] <= seconds else f"{link['seconds'] / seconds:.1f} times the work even"
    return f"  {link['gbit']:>3} Gbit/s: {takes}; {more} with several"


def _parameters(plan: PartitionPlan, node: str, part: int) -> int:
    """Return how many parameters of a node a partition has."""
    own = plan.graphs[part].parameters.items()
    return sum(math.prod(shape) for name, shape in own if name.rpartition(".")[0] == node)

"""What travels by couriers gives, bit for bit, the gradients of what lies in one memory, on random graphs.

`compute/test_partitioned` holds those against the gradients of one process.
"""

from __future__ import annotations

import tempfile

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from adam_mp.memory.group import TRAIN, GroupShape, Work
from adam_mp.network.cuts import possible_ways
from adam_mp.network.part_layers import VALUES
from adam_mp.network.partition import partition
from adam_mp.network.traffic import messages_of
from tests.compute.graphs import data_for, networks, weights_for
from tests.compute.partitions import gradients_of_parts
from tests.partitions.mesh import Mesh


@given(networks(dropout=True), st.integers(2, 4), st.data())
@settings(max_examples=25)
def test_random_graphs_have_the_gradients_of_one_memory(network, parts, data):
    ways = {name: data.draw(st.sampled_from(ways), name) for name, ways in possible_ways(network, parts).items()}
    plan = partition(network, parts, ways)
    images, labels = data_for(network, data.draw(st.integers(2, 5)))
    posts = tuple(dict.fromkeys(each for _, each in messages_of(plan)))
    scored = tuple(each for each in posts if each.purpose == VALUES)

    def shape(here: int) -> GroupShape:
        return GroupShape(parts, 2, len(images), network.input_shape, posts, scored, here)

    with tempfile.TemporaryDirectory(prefix="mesh") as folder:
        mesh = Mesh(shape, folder)
        try:
            mesh.gather()
            for number in range(2):
                mesh.members[0].announce(Work(TRAIN, len(images)))
                mesh.until(lambda number=number: all(m.announced == number + 1 for m in mesh.members), "the work")
                for member in mesh.members:
                    member.mails[number % 2].begin(number)
                how = {"real": np.float32, "key": number}
                batch = (plan, weights_for(network), images.astype(np.float32), labels)
                mails = [member.mails[number % 2] for member in mesh.members]
                scores, losses, gradients = gradients_of_parts(*batch, **how, mails=mails, between=mesh.step)
                expected = gradients_of_parts(*batch, **how)
                np.testing.assert_array_equal(scores, expected[0])
                assert losses == expected[1]
                for name, gradient in gradients.items():
                    np.testing.assert_array_equal(gradient, expected[2][name], name)
        finally:
            mesh.close()

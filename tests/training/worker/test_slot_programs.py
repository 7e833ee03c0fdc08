from __future__ import annotations

import numpy as np

from adam_mp.memory.wanted import find_oldest
from adam_mp.params.replica.factors import FactorShape
from adam_mp.training.worker.slot_programs import SlotPrograms
from tests.training.worker.conftest import BATCH


def test_a_program_is_made_once_for_a_slot_and_a_number_of_images(make_world):
    world = make_world()
    (worker,) = world.workers
    for _ in range(2):
        world.server.fill_rings()
    (ring,) = world.memory.rings
    batch = find_oldest([ring])
    programs = SlotPrograms(worker.context, None)
    made = programs.of(batch)
    assert programs.of(batch) is made
    shorter = batch._replace(tag=batch.tag._replace(images=BATCH - 1))
    assert programs.of(shorter) is not made
    ring.consume()
    assert programs.of(find_oldest([ring])) is not made
    assert programs.of(batch) is made


def test_it_has_the_inputs_and_errors_of_the_layers_that_are_asked_for(make_world):
    world = make_world()
    (worker,) = world.workers
    world.server.fill_rings()
    batch = find_oldest(world.memory.rings)
    layout = world.store.layout
    number, tensor = next(each for each in enumerate(layout.tensors) if len(each[1].shape) == 2)
    program, factors = SlotPrograms(worker.context, FactorShape.of(layout, [number], BATCH)).of(batch)
    program.run_forward()
    program.run_backward()
    ((inputs, errors),) = factors
    assert (inputs.shape, errors.shape) == ((BATCH, tensor.shape[0]), (BATCH, tensor.shape[1]))
    np.testing.assert_array_equal(inputs, batch.ring.slots[batch.slot].images.reshape(BATCH, -1))
    assert np.abs(errors).max() > 0

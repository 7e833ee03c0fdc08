"""The sizes of a group's memory, from the cut of its model and the settings."""

from __future__ import annotations

import itertools

from adam_mp.compute.part_storage import PartStorage
from adam_mp.compute.part_updates import update_messages
from adam_mp.memory.group import GroupShape
from adam_mp.network.part_layers import VALUES
from adam_mp.network.traffic import messages_of
from adam_mp.training.settings.settings import TrainSettings


def group_shape(storage: PartStorage, settings: TrainSettings, here: int | None) -> GroupShape:
    """Return the sizes; `here` is the one partition of this machine, counted from 0, None if all are on it.

    Machines name a message by its place in the list of all. So the list is the same for each `here`.
    """
    plan, apart = storage.plan, here is not None
    scored = tuple(each for _, each in messages_of(plan) if each.purpose == VALUES)
    updates = (update_messages(storage, part, bool(settings.clip_norm), apart) for part in range(plan.parts))
    trained = {**dict.fromkeys(each for _, each in messages_of(plan)), **dict.fromkeys(itertools.chain(*updates))}
    shape = plan.network.input_shape
    return GroupShape(plan.parts, settings.in_flight, settings.batch_size, shape, tuple(trained), scored, here)

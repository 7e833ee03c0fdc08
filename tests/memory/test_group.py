from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from adam_mp.memory.group import SCORE, TRAIN, Group, GroupMemory, GroupShape, Work
from adam_mp.network.part_layers import ERRORS, GRADIENT, SQUARES, VALUES, Message

MESSAGES = (
    Message("a", VALUES, 0, 1, 5), Message("a", ERRORS, 1, 0, 5), Message("n", VALUES, 0, 1, 3, of_batch=True),
    Message("update", GRADIENT, 1, 0, 7, of_batch=True), Message("update", SQUARES, 1, 0, 1, of_batch=True),
)  # fmt: skip
SHAPE = GroupShape(2, 2, 4, (3, 2, 1), MESSAGES, MESSAGES[:1])


@pytest.fixture
def members():
    memory = GroupMemory.create(SHAPE, 3)
    yield memory, [Group.attach(memory.handle(1), part) for part in range(2)]
    memory.close()


def test_a_message_arrives_with_the_work_for_which_it_was_sent(members):
    _, (first, second) = members
    here, there = first.mails[0], second.mails[0]
    for work in (0, 2, 4):
        here.begin(work)
        there.begin(work)
        for message in MESSAGES:
            assert not there.arrived(message)
            here.array(message)[...] = work + message.numbers
            here.send(message)
            assert there.arrived(message)
            assert (there.array(message) == work + message.numbers).all()


def test_arrays_have_their_shapes_and_lie_apart(members):
    memory, (first, _) = members
    assert [first.mails[0].array(each).shape for each in MESSAGES] == [(4, 5), (4, 5), (3,), (7,), (1,)]
    kinds = [first.mails[0].array(each).dtype for each in MESSAGES]
    assert kinds == [np.float32, np.float32, np.float64, np.float32, np.float64]
    other = Group.attach(memory.handle(0), 0)
    for number, mail in enumerate((first.mails[0], first.mails[1], other.mails[0], other.mails[1])):
        for message in MESSAGES:
            mail.array(message)[...] = number
    first.pictures[...], first.mails[2].array(MESSAGES[0])[...] = 9, 8
    for number, mail in enumerate((first.mails[0], first.mails[1], other.mails[0], other.mails[1])):
        assert all((mail.array(message) == number).all() for message in MESSAGES)


def test_a_message_and_its_answer_have_one_array_and_words_of_their_own(members):
    _, (first, second) = members
    value, error = MESSAGES[:2]
    here, there = first.mails[0], second.mails[0]
    here.begin(0)
    there.begin(0)
    here.array(value)[...] = 3
    here.send(value)
    assert not here.arrived(error)
    there.array(error)[...] = 4
    there.send(error)
    assert (here.array(error) == 4).all()
    assert [each.home for each in MESSAGES] == [value, value, *MESSAGES[2:]]
    with_answers = dataclasses.replace(SHAPE, messages=(*MESSAGES, Message("n", ERRORS, 1, 0, 3, of_batch=True)))
    assert with_answers.lane_bytes(0) == SHAPE.lane_bytes(0) + 64  # one more word, no more arrays


def test_works_are_announced_in_order_and_end_when_all_have_ended_them(members):
    _, (leader, other) = members
    works = [Work(TRAIN, 4, 1, 7, 0, 2, 100), Work(SCORE, 3)]
    assert [leader.announce(work) for work in works] == [0, 1]
    assert other.announced == 2
    assert [other.work(number) for number in range(2)] == works
    leader.end(1)
    assert other.ended() == 0
    other.end(0)
    assert leader.ended() == 1


def test_members_go_on_only_when_all_have_dropped_what_they_did(members):
    memory, (leader, other) = members
    for generation in range(3):
        assert leader.generation == other.generation == generation
        leader.acknowledge(generation)
        assert not leader.all_acknowledged(generation)
        other.acknowledge(generation)
        assert leader.all_acknowledged(generation)
        assert other.resumed_at(generation) is None
        leader.announce(Work(TRAIN, 1))
        leader.resume(generation)
        leader.announce(Work(TRAIN, 2))
        assert other.resumed_at(generation) == 2 * generation + 1
        memory.groups[1].renew()
    assert memory.groups[0].generation == 0

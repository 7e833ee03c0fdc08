from __future__ import annotations

import numpy as np
import pytest

from adam_mp.memory.group import SCORE, TRAIN, GroupShape, Work
from adam_mp.network.part_layers import ERRORS, GRADIENT, SQUARES, VALUES, Message
from adam_mp.network.spread import Interval
from adam_mp.partitions import courier
from adam_mp.partitions.frames import state_payload
from adam_mp.transport import messages
from adam_mp.transport.messages import Kind
from tests.partitions.mesh import RUN, Mesh

BATCH, IMAGE = 4, (6, 2, 1)
POSTS = (
    Message("a", VALUES, 0, 1, 5), Message("a", ERRORS, 1, 0, 5), Message("b", VALUES, 1, 2, 20_000),
    Message("c", VALUES, 2, 0, 3, of_batch=True), Message("update", GRADIENT, 1, 0, 7, of_batch=True),
    Message("update", SQUARES, 2, 1, 1, of_batch=True),
)  # fmt: skip
ROWS = (Interval(0, 6), Interval(1, 4), Interval(3, 6))


def shape(here: int) -> GroupShape:
    return GroupShape(3, 2, BATCH, IMAGE, POSTS, POSTS[:1], here)


@pytest.fixture(params=[courier._PIECE, 40], ids=["whole", "pieces"])
def mesh(tmp_path, monkeypatch, request):
    monkeypatch.setattr(courier, "_PIECE", request.param)
    monkeypatch.setattr(courier, "_PICTURES", min(request.param, courier._PICTURES))
    made = Mesh(shape, tmp_path, ROWS)
    yield made
    made.close()


def test_a_batch_comes_with_the_rows_that_each_partition_reads(mesh):
    mesh.gather()
    slot, leader = mesh.slots[0], mesh.members[0]
    slot.images[...] = np.arange(slot.images.size).reshape(slot.images.shape)
    slot.labels[:], slot.mixed[0], mesh.boards[0].rate_share = (3, 1, 4, 1), 0.25, 0.5
    number = leader.announce(Work(TRAIN, 3, 1, 7, 0, 0, 100, 90))
    mesh.until(lambda: all(member.announced == number + 1 for member in mesh.members), "all hear of the work")
    for part in (1, 2):
        member = mesh.members[part]
        work = member.work(number)
        arrived = member.arrivals[work.slot]
        assert work == Work(TRAIN, 3, 1, 7, 0, number % 2, 100, 90)
        rows = slice(*ROWS[part])
        np.testing.assert_array_equal(arrived.images[:3, rows], slot.images[:3, rows])
        assert not arrived.images[3:].any()
        assert arrived.labels[:3].tolist() == [3, 1, 4]
        assert (float(arrived.mixed[0]), mesh.boards[part].rate_share) == (0.25, 0.5)
    for part, member in enumerate(mesh.members):
        assert leader.ended() == 0
        member.end(number)
        mesh.until(lambda part=part, number=number: leader.ended_by(part) == number + 1, "the leader hears of the end")
    assert leader.ended() == number + 1


def test_pictures_to_evaluate_come_with_their_work(mesh):
    mesh.gather()
    leader = mesh.members[0]
    for value in (1, 2):
        leader.pictures[...] = value
        number = leader.announce(Work(SCORE, BATCH))
        mesh.until(lambda number=number: mesh.members[2].announced == number + 1, "the work")
        assert (mesh.members[2].pictures[:, 3:6] == value).all()
        assert not mesh.members[2].pictures[:, :3].any()
        for member in mesh.members:
            member.end(number)
        mesh.until(lambda number=number: leader.ended() == number + 1, "its end")


def test_messages_reach_the_machine_that_reads_them_and_no_other(mesh):
    mesh.gather()
    for work in range(4):
        images = 1 + work
        number = mesh.members[0].announce(Work(TRAIN, images))
        mesh.until(lambda number=number: all(m.announced == number + 1 for m in mesh.members), "the work")
        lane = number % 2
        for member in mesh.members:
            member.mails[lane].begin(number)
        for post in POSTS:
            here, there = (mesh.members[part].mails[lane] for part in (post.sender, post.receiver))
            assert not there.arrived(post)
            here.array(post)[...] = number + post.numbers
            here.send(post)
            mesh.until(lambda there=there, post=post: there.arrived(post), str(post))
            got = there.array(post) if post.of_batch else there.array(post)[:images]
            assert (got == number + post.numbers).all()
        for member in mesh.members:
            member.end(number)
        mesh.until(lambda number=number: mesh.members[0].ended() == number + 1, "its end")
    others = [post for post in POSTS if 0 not in (post.sender, post.receiver)]
    with pytest.raises(KeyError):
        mesh.members[0].mails[0].array(others[0])


@pytest.mark.parametrize("part", [0, 1])
def test_a_courier_that_dies_ends_the_generation_and_what_was_on_its_way_is_announced_again(mesh, part):
    before = mesh.gather()
    leader = mesh.members[0]
    leader.announce(Work(TRAIN, 1, 5))
    mesh.until(lambda: mesh.members[1].announced == 1, "the work")
    mesh.stop(part)
    mesh.memories[part].groups[0].renew()  # as the supervisor does
    mesh.start(part)
    mesh.until(lambda: all(member.generation > before for member in mesh.members), "a new generation everywhere")
    generation = mesh.gather()
    assert generation > before
    assert {member.resumed_at(generation) for member in mesh.members} == {1}
    leader.announce(Work(TRAIN, 1, 5))
    mesh.until(lambda: all(member.announced == 2 for member in mesh.members), "the work again")


def test_a_message_that_is_sent_while_the_courier_looks_whether_the_group_goes_on_is_not_lost(mesh, monkeypatch):
    leader, looked = mesh.members[0], mesh.couriers[0].group.resumed_at

    def resumed_at(generation):
        """Look; then, before the courier does anything with the answer, the leader resumes and sends a message."""
        answer = looked(generation)
        if answer is None and leader.all_acknowledged(generation):
            leader.resume(generation)
            leader.mails[0].begin(leader.announce(Work(TRAIN, 1)))
            leader.mails[0].send(POSTS[0])
        return answer

    monkeypatch.setattr(mesh.couriers[0].group, "resumed_at", resumed_at)
    receiver = mesh.members[1].mails[0]
    receiver.begin(0)

    def arrived() -> bool:
        for member in mesh.members:
            member.acknowledge(member.generation)
        return receiver.arrived(POSTS[0])

    mesh.until(arrived, "the message", 5)


def test_a_message_of_a_void_work_never_leaves(mesh):
    """Its array may be in use for another message by then."""
    mesh.gather()
    leader, sender, receiver = mesh.members[0], mesh.members[1].mails[0], mesh.members[0].mails[0]
    for _ in range(2):
        leader.announce(Work(TRAIN, 1))
    mesh.until(lambda: all(member.announced == 2 for member in mesh.members), "the works")
    for member in mesh.members:
        member.note_resumed(member.generation, 2)
    before = receiver.array(POSTS[1]).copy()
    sender.begin(0)
    sender.array(POSTS[1])[...] = 9
    sender.send(POSTS[1])
    mesh.step()
    sender.begin(2)
    receiver.begin(2)
    sender.send(POSTS[4])
    mesh.until(lambda: receiver.arrived(POSTS[4]), "a message of a work that counts")
    receiver.begin(0)
    assert not receiver.arrived(POSTS[1])
    np.testing.assert_array_equal(receiver.array(POSTS[1]), before)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Kind.PART, {"shard": 4, "version": 8 << 1 | 1}),  # the end of a message of which the beginning is lost
        (Kind.INPUT, {"version": 2}),
    ],
)
def test_a_piece_that_comes_alone_begins_a_new_generation(mesh, kind, fields):
    before = mesh.gather()
    sender, receiver = (1, 0) if kind == Kind.PART else (0, 1)
    there = mesh.couriers[sender]
    size = 20 if kind == Kind.PART else 4 * ROWS[receiver].size * 2
    message = messages.Message(
        kind, bytes(size), run=RUN, sender=sender + 1, map_epoch=before, sequence=5, group=0, **fields
    )
    assert there._dialer.send(there._peers[receiver].place, message) is not None
    mesh.until(lambda: all(member.generation > before for member in mesh.members), "a new generation everywhere")
    assert not mesh.members[receiver].mails[0].sent().any()


def test_a_broken_connection_alone_begins_a_new_generation(mesh):
    before = mesh.gather()
    there = mesh.couriers[1]
    there._dialer.renew(there._peers[2].place)
    mesh.until(lambda: all(member.generation > before for member in mesh.members), "a new generation everywhere")
    mesh.gather()


def test_messages_of_other_runs_and_senders_and_nonsense_change_nothing(mesh):
    generation = mesh.gather()
    there, peer = mesh.couriers[1], mesh.couriers[1]._peers[0]
    leader = mesh.members[0]
    words = [mail.sent().copy() for mail in leader.mails]
    fields = {"run": RUN, "sender": 2, "map_epoch": generation}
    for message in (
        messages.Message(Kind.GROUP, state_payload((99, 5, 5)), run=RUN + 1, sender=2),
        messages.Message(Kind.GROUP, state_payload((99, 5, 5)), run=RUN, sender=9),
        messages.Message(Kind.GROUP, b"12", **fields),
        messages.Message(Kind.PART, bytes(20), shard=10_000, sequence=3, **fields),
        messages.Message(Kind.PART, bytes(20), shard=1, sequence=3, group=77, **fields),
        messages.Message(Kind.PART, bytes(20), shard=0, sequence=3, **fields),
        messages.Message(Kind.PART, bytes(21), shard=1, sequence=3, version=1 << 40, **fields),
        messages.Message(Kind.PART, bytes(8000), shard=1, sequence=3, **fields),
        messages.Message(Kind.PART, bytes(20), shard=1, sequence=3, **{**fields, "map_epoch": generation + 1}),
        messages.Message(Kind.WORK, bytes(80), sequence=0, **fields),
        messages.Message(Kind.INPUT, bytes(80), sequence=0, **fields),
        messages.Message(Kind.READ, bytes(80), sequence=0, **fields),
    ):
        assert there._dialer.send(peer.place, message) is not None
    mesh.until(lambda: mesh.couriers[0]._listener.statistics().received > 12, "they are received")
    for _ in range(20):
        mesh.step()
    assert leader.generation == generation
    assert leader.announced == 0
    assert all((mail.sent() == before).all() for mail, before in zip(leader.mails, words, strict=True))

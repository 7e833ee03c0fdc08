"""What a run keeps, on a disk that refuses."""

from __future__ import annotations

import dataclasses
import functools
import threading
import time
import weakref

import pytest

from adam_mp.compute.model import MODEL_FILE, load
from adam_mp.errors import DiskError
from adam_mp.training.folder import keeper as keepers
from adam_mp.training.folder.checkpoint import read_checkpoint
from adam_mp.training.folder.keeper import Keeper
from tests.compute.test_model import make
from tests.training.folder.test_checkpoint import make as make_checkpoint
from tests.training.folder.test_checkpoint import read_spaces


@pytest.fixture
def keeper(tmp_path):
    made = Keeper(tmp_path, lambda text: None, remembers=False)
    yield made
    made.close()


@pytest.fixture
def refusing(monkeypatch):
    """Whether the disk refuses models: a list that is empty when it does not."""
    refuses, write_model = [True], keepers.write_model

    def write(path, model):
        if refuses:
            raise OSError(28, "No space left on device")
        write_model(path, model)

    monkeypatch.setattr(keepers, "write_model", write)
    return refuses


def checkpoint_of(updates, place):
    """Take a checkpoint, over the arrays in `place` if there are some."""
    made = make_checkpoint(updates)
    if place is None:
        return made
    for name, space in made.spaces.items():
        place[name][...] = space
    return dataclasses.replace(made, spaces=place)


def model_of(epoch, place):
    """Take a model whose weights are all `epoch`, over those in `place` if there are some."""
    made = make()
    weights = place if place is not None else made.weights
    for tensor in weights.values():
        tensor[...] = epoch
    return dataclasses.replace(made, epoch=epoch, weights=weights)


def flush(keeper):
    assert keeper.say_what_is_kept()


def test_a_refused_model_is_tried_again_with_each_checkpoint(keeper, refusing, tmp_path):
    keeper.save_model(lambda place: dataclasses.replace(make(), epoch=3))
    keeper.keep(functools.partial(checkpoint_of, 7))
    flush(keeper)
    assert not (tmp_path / MODEL_FILE).exists()
    assert read_checkpoint(tmp_path).updates == 7
    refusing.clear()
    keeper.keep(functools.partial(checkpoint_of, 8))
    flush(keeper)
    assert load(tmp_path).epoch == 3
    (tmp_path / MODEL_FILE).unlink()
    keeper.keep(functools.partial(checkpoint_of, 9))
    flush(keeper)
    assert not (tmp_path / MODEL_FILE).exists()  # what was written is not written again


def test_a_model_that_is_slow_to_write_is_written_once(keeper, monkeypatch):
    begun, write_model = threading.Event(), keepers.write_model
    written = []

    def write(path, model):
        begun.set()
        time.sleep(0.05)
        write_model(path, model)
        written.append(model.epoch)

    monkeypatch.setattr(keepers, "write_model", write)
    for epoch in (1, 2):
        begun.clear()
        keeper.save_model(functools.partial(model_of, epoch))
        assert begun.wait(10)
        keeper.keep(functools.partial(checkpoint_of, epoch))
        flush(keeper)
    assert load(keeper.finish(make)).epoch == 2
    assert written == [1, 2]


def test_a_disk_that_does_not_take_the_model_is_no_wrong_input(keeper, refusing):
    with pytest.raises(DiskError, match=r"model\.safetensors: No space left on device; free some; once it can"):
        keeper.finish(make)
    assert DiskError.exit_code == 1


def alive(places):
    return len([1 for place in places if place() is not None])


@pytest.mark.parametrize("remembers", [False, True])
def test_two_copies_of_a_kind_at_most(tmp_path, monkeypatch, remembers):
    """However slow the disk, and what was refused or taken again included; what is written is never changed then."""
    begun, turns, done, places = *(threading.Semaphore(0) for _ in range(3)), []
    write_checkpoint, write_model = keepers.write_checkpoint, keepers.write_model

    def slowly(write):
        def written(path, kept):
            begun.release()
            assert turns.acquire(timeout=30)
            write(path, kept)
            done.release()

        return written

    monkeypatch.setattr(keepers, "write_checkpoint", slowly(write_checkpoint))
    monkeypatch.setattr(keepers, "write_model", slowly(write_model))

    def take(made, numbers, place):
        assert alive(places) <= 1 + (place is not None)
        kept = made(numbers, place)
        arrays = kept.spaces["weights"] if hasattr(kept, "spaces") else kept.weights["dense1.weight"]
        if place is None:
            places.append(weakref.ref(arrays))
        return kept

    def keep_many(keep, made, check):
        """Keep six; while one is being written two more are taken, and the newer of them is the next to be written."""
        for number, written in enumerate((None, 1, None, 2, None, 4), start=1):
            keep(functools.partial(take, made, number))
            if written is not None:
                turns.release()
                assert done.acquire(timeout=30)
                assert check() == written
            if number not in (3, 5):
                assert begun.acquire(timeout=30)
        turns.release()
        flush(keeper)
        assert check() == 6
        assert done.acquire(timeout=30)

    def keep(take):
        keeper.keep(take)
        keeper.write_last(lambda last: dataclasses.replace(last, progress={"seconds": 9.0}))  # the same numbers

    keeper = Keeper(tmp_path, lambda text: None, remembers)
    try:
        keep_many(keep, checkpoint_of, lambda: check_checkpoint(tmp_path))
        assert alive(places) == int(remembers)
        places.clear()
        keep_many(keeper.save_model, model_of, lambda: check_model(tmp_path))
        assert alive(places) == 0
    finally:
        turns.release(20)
        keeper.close()


def check_checkpoint(folder):
    """Return which one is on disk, after a look at its numbers."""
    stored = read_checkpoint(folder)
    written = make_checkpoint(stored.updates)
    for name, space in read_spaces(stored).items():
        assert (space == written.spaces[name]).all()
    return stored.updates


def check_model(folder):
    model = load(folder)
    assert all((tensor == model.epoch).all() for tensor in model.weights.values())
    return model.epoch

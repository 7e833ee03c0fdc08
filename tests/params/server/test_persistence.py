from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from adam_mp.errors import CheckpointError, RunFolderError, TransportError
from adam_mp.memory.layout import Layout
from adam_mp.params.server import persistence
from adam_mp.params.server.persistence import SnapshotFolder, read_facts, write_facts
from adam_mp.params.server.shard_table import Delta, ShardTable

LAYOUT = Layout.of({"a": (600, 700), "b": (50,)})
NUMBERS = range(len(LAYOUT.shards))


@pytest.fixture
def table():
    made = []

    def make():
        made.append(ShardTable(LAYOUT, {0: NUMBERS}))
        return made[-1]

    yield make
    for each in made:
        each.close()


def ones(number, value=1.0):
    return np.full(LAYOUT.shards[number].size, value, np.float32)


def test_a_restarted_server_has_weights_and_sequences_of_the_snapshot(table, tmp_path):
    first, folder = table(), SnapshotFolder(tmp_path, 0.0)
    for number in NUMBERS:
        first.fill(number, ones(number))
        first.apply_deltas(number, [Delta(7, 3, ones(number))])
    folder.step(first, time.monotonic(), all_of_it=True)
    folder.close(first)
    second, again = table(), SnapshotFolder(tmp_path, 0.0)
    assert again.load(second, 0) == len(NUMBERS)
    for number in NUMBERS:
        assert np.array_equal(second.entries[number].weights, ones(number, 2.0))
        assert second.apply_deltas(number, [Delta(7, 3, ones(number))]) == [False]
        assert second.apply_deltas(number, [Delta(7, 4, ones(number))]) == [True]
        assert second.entries[number].version >> 38 != first.entries[number].version >> 38
    again.close(None)


def test_several_updates_fold_into_one_writing(table, tmp_path):
    first, folder = table(), SnapshotFolder(tmp_path, 5.0)
    first.fill(0, ones(0))
    now = time.monotonic()
    for sequence in range(1, 50):
        first.apply_deltas(0, [Delta(1, sequence, ones(0))])
        folder.step(first, now + sequence / 1000)
    assert folder.statistics(time.monotonic()).written == 0
    assert folder.statistics(time.monotonic()).dirty == 1
    folder.step(first, now + 6)
    folder.close(None)
    assert folder.statistics(time.monotonic()).written == 1


def test_shards_that_the_server_has_no_more_are_not_written(tmp_path):
    table, folder = ShardTable(LAYOUT, {0: [0], 1: [1]}), SnapshotFolder(tmp_path, 5.0)
    for number in (0, 1):
        table.fill(number, ones(number))
    folder.step(table, 0.0)  # notes that they have changed
    table.drop(0)
    folder.step(table, 6.0)
    folder.close(table)
    assert [path.name for path in tmp_path.iterdir()] == ["shard-000001.safetensors"]
    table.close()


@pytest.mark.parametrize("cut", [0, 1, 100, 5000, -1])
def test_a_damaged_file_is_left_out_and_named(table, tmp_path, cut):
    first, folder = table(), SnapshotFolder(tmp_path, 0.0)
    for number in NUMBERS:
        first.fill(number, ones(number))
    folder.close(first)
    path = tmp_path / "shard-000000.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    second, again = table(), SnapshotFolder(tmp_path, 0.0)
    assert again.load(second, 0) == len(NUMBERS) - 1
    assert "shard-000000" in again.trouble
    assert second.entries[0].version == 0
    again.close(None)


def test_the_snapshot_of_another_version_is_left_out_with_a_word(table, tmp_path, monkeypatch):
    first = table()
    with monkeypatch.context() as older:
        older.setattr(persistence, "_FORMAT", "adam_mp.shard.1")
        folder = SnapshotFolder(tmp_path, 0.0)
        for number in NUMBERS:
            first.fill(number, ones(number))
        folder.close(first)
    again = SnapshotFolder(tmp_path, 0.0)
    assert again.load(table(), 0) == 0
    assert "'adam_mp.shard.1', expected 'adam_mp.shard.2'; this shard begins without it, as do 2 more" in again.trouble
    again.close(None)


def test_the_snapshot_of_another_network_is_not_taken(table, tmp_path):
    other = Layout.of({"a": (600, 701), "b": (50,)})
    stranger, folder = ShardTable(other, {0: range(len(other.shards))}), SnapshotFolder(tmp_path, 0.0)
    for number in range(len(other.shards)):
        stranger.fill(number, np.ones(other.shards[number].size, np.float32))
    folder.close(stranger)
    stranger.close()
    again = SnapshotFolder(tmp_path, 0.0)
    assert again.load(table(), 0) == 0
    again.close(None)


def test_a_disk_that_refuses_is_named_and_serving_goes_on(table, tmp_path):
    first, folder = table(), SnapshotFolder(tmp_path / "gone", 0.0)
    (tmp_path / "gone").rmdir()
    first.fill(0, ones(0))
    folder.close(first)
    assert folder.statistics(time.monotonic()).failed == 1
    assert "lacks the newest updates of 1 shard: No such file" in folder.trouble
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="cannot use snapshot folder"):
        SnapshotFolder(tmp_path / "file" / "folder", 0.0)


def test_shards_of_another_run_are_not_taken(table, tmp_path):
    first, folder = table(), SnapshotFolder(tmp_path, 0.0)
    assert folder.load(first, 7) == 0
    for number in NUMBERS:
        first.fill(number, ones(number))
    folder.close(first)
    for run, taken in ((8, 0), (7, len(NUMBERS))):
        again = SnapshotFolder(tmp_path, 0.0)
        assert again.load(table(), run) == taken
        assert (again.trouble is None) == bool(taken)
        again.close(None)
    assert "of another run" in (trouble_of(tmp_path, table(), 8) or "")


def trouble_of(path, table, run):
    folder = SnapshotFolder(path, 0.0)
    folder.load(table, run)
    folder.close(None)
    return folder.trouble


def test_what_the_disk_refused_is_written_once_it_does_not(table, tmp_path):
    place = tmp_path / "gone"
    first, folder = table(), SnapshotFolder(place, 0.0)
    place.rmdir()
    place.touch()
    first.fill(0, ones(0))
    folder.note({"identity": 5})
    told = []
    for tries in (1, 2, 3):
        folder.step(first, time.monotonic())
        wait_until(lambda tries=tries: folder.statistics(time.monotonic()).failed > tries and not folder._busy)
        told.append(folder.trouble)
        folder.trouble = None
    assert [text is None for text in told] == [False, True, True]  # said once
    assert folder.outdated
    place.unlink()
    folder.note({"identity": 5})
    folder.step(first, time.monotonic())
    folder.close(first)
    assert (folder.statistics(time.monotonic()).dirty, folder.outdated) == (0, False)
    second, again = table(), SnapshotFolder(place, 0.0)
    assert again.load(second, 0) == 1
    again.close(None)


class HeldDisk:
    """A disk that writes shards and facts only while it is let."""

    def __init__(self, monkeypatch):
        self.free, self.writing = threading.Event(), threading.Event()
        for name in ("write_tensors", "write_facts"):
            monkeypatch.setattr(persistence, name, self._held(getattr(persistence, name)))

    def _held(self, write):
        def held(*arguments):
            self.writing.set()
            assert self.free.wait(60)
            write(*arguments)

        return held

    def hold_three(self, folder, table):
        """Have one shard being written and two waiting, all of which change once more."""
        for number in range(3):
            table.fill(number, ones(number))
            folder.step(table, time.monotonic())
            wait_until(self.writing.is_set)
        for number in range(3):
            table.apply_deltas(number, [Delta(7, 3, ones(number))])
            folder.step(table, time.monotonic())
        assert folder.statistics(time.monotonic()).dirty == 3


def test_a_clean_stop_writes_what_changed_while_it_was_written(table, tmp_path, monkeypatch):
    first, folder, disk = table(), SnapshotFolder(tmp_path, 0.0), HeldDisk(monkeypatch)
    disk.hold_three(folder, first)
    threading.Timer(0.3, disk.free.set).start()
    folder.close(first)
    assert folder.trouble is None
    second, again = table(), SnapshotFolder(tmp_path, 0.0)
    assert again.load(second, 0) == 3
    for number in range(3):
        assert np.array_equal(second.entries[number].weights, ones(number, 2.0))
        assert second.entries[number].applied == {7: 3}
    again.close(None)


def test_a_clean_stop_writes_the_facts_though_the_writer_has_no_room(table, tmp_path, monkeypatch):
    first, folder, disk = table(), SnapshotFolder(tmp_path, 0.0), HeldDisk(monkeypatch)
    disk.hold_three(folder, first)
    assert not folder.note({"identity": 5})
    threading.Timer(0.3, disk.free.set).start()
    folder.close(first, {"identity": 6})
    assert read_facts(tmp_path) == {"identity": 6}


def test_a_disk_that_takes_too_long_at_a_stop_is_named(table, tmp_path, monkeypatch):
    monkeypatch.setattr(persistence, "_CLOSING", 0.2)
    first, folder, disk = table(), SnapshotFolder(tmp_path, 0.0), HeldDisk(monkeypatch)
    disk.hold_three(folder, first)
    folder.close(first)
    assert folder.trouble == f"{tmp_path} lacks the newest updates of 3 shards: the disk did not take them in 0.2 s"
    disk.free.set()


def test_a_disk_that_refuses_at_a_stop_is_named_with_what_it_lacks(table, tmp_path):
    first, folder = table(), SnapshotFolder(tmp_path / "gone", 0.0)
    (tmp_path / "gone").rmdir()
    for number in range(3):
        first.fill(number, ones(number))
    folder.close(first)
    expected = f"{tmp_path / 'gone'} lacks the newest updates of 3 shards: No such file or directory"
    assert folder.trouble == expected


class Unwalked(dict):
    """The shards of a table, which nobody may go through."""

    def items(self):
        raise AssertionError("walked through all shards")

    values = keys = __iter__ = items


def test_a_look_costs_what_changed(table, tmp_path, monkeypatch):
    first, folder = table(), SnapshotFolder(tmp_path, 5.0)
    for number in NUMBERS:
        first.fill(number, ones(number))
    entries, now = first.entries, time.monotonic()
    first.entries = Unwalked(entries)
    folder.step(first, now)
    folder.step(first, now + 1)
    assert folder.statistics(time.monotonic()).dirty == len(NUMBERS)
    folder.step(first, now + 6)
    wait_until(lambda: folder.statistics(time.monotonic()).written > 0)
    first.apply_factors(0, 0, 1, 1, np.ones(16 + 600 + 700, np.float32))
    first.entries = entries
    folder.close(first)
    assert folder.statistics(time.monotonic()).dirty == 0


def test_a_shard_of_another_table_that_the_disk_refused_is_not_written(table, tmp_path):
    first, folder = table(), SnapshotFolder(tmp_path / "gone", 0.0)
    (tmp_path / "gone").rmdir()
    first.fill(0, ones(0))
    folder.step(first, time.monotonic())
    wait_until(lambda: folder.statistics(time.monotonic()).failed and not folder._busy)
    (tmp_path / "gone").mkdir()
    second = table()
    folder.load(second, 0)
    folder.step(second, time.monotonic())
    folder.close(second)
    assert list((tmp_path / "gone").iterdir()) == []


def test_shards_that_another_server_has_now_are_not_written(table, tmp_path):
    first, folder = table(), SnapshotFolder(tmp_path, 5.0)
    now = time.monotonic()
    first.fill(0, ones(0))
    folder.step(first, now)
    first.drop(0)
    folder.step(first, now + 6)
    assert folder.statistics(now + 6).dirty == 0
    folder.close(first)
    assert (folder.trouble, list(tmp_path.iterdir())) == (None, [])


def wait_until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_facts_are_whole_or_named(tmp_path):
    assert read_facts(tmp_path) == {}
    write_facts(tmp_path, {"identity": 5})
    assert read_facts(tmp_path) == {"identity": 5}
    (tmp_path / "identity.json").write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        read_facts(tmp_path)


@pytest.mark.parametrize("encoding", [0, 1, 2])
def test_queued_deltas_are_folded(table, encoding):
    first = table()
    first.fill(0, ones(0, 10.0))
    value = np.full(LAYOUT.shards[0].size, 1.5, np.float32)
    numbers = {0: value, 1: value.astype(np.float16), 2: (value.view(np.uint32) >> 16).astype(np.uint16)}[encoding]
    deltas = [Delta(sender, 1, numbers, encoding) for sender in range(1, 7)]
    assert first.apply_deltas(0, [*deltas, deltas[0]]) == [True] * 6 + [False]
    assert np.array_equal(first.entries[0].weights, ones(0, 19.0))
    assert (first.statistics().folded, first.statistics().repeated) == (1, 1)


def test_deltas_of_another_size_change_nothing(table):
    first = table()
    first.fill(0, ones(0))
    with pytest.raises(TransportError, match="came with 3 numbers"):
        first.apply_deltas(0, [Delta(1, 1, ones(0)), Delta(2, 1, np.ones(3, np.float32))])
    assert np.array_equal(first.entries[0].weights, ones(0))
    with pytest.raises(TransportError, match="expected 16 and a multiple of"):
        first.apply_factors(0, 0, 1, 1, np.ones(100, np.float32))

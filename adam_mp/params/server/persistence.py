"""Delayed persistence: dirty shards go to a snapshot folder in the background (paper, section 3.3.3).

A shard's file holds its weights and the last sequence of each sender, so that a restarted parameter server knows which
updates it has applied. A file is whole or absent. A shard is written at most once in `seconds`, however many updates
came meanwhile. If the process is killed, the updates since the last writing are lost, which training tolerates; at a
clean stop all are written.

`identity.json` holds the server's identity and, for the first server, the coordinator's state. Each shard's file names
its run; the server does not use files of another run, and writes over them in time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import queue
import re
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adam_mp.compute.tensor_file import read_tensors, write_file, write_tensors
from adam_mp.errors import CheckpointError, RunFolderError, refusal, several
from adam_mp.params.server.server_memory import WAITING
from adam_mp.params.server.shard_table import ShardTable

_FORMAT = "adam_mp.shard.2"
_NAME = re.compile(r"shard-(\d{6})\.safetensors")
_FACTS = "identity.json"
_CLOSING = 60.0  # seconds


@dataclasses.dataclass(frozen=True)
class PersistenceStatistics:
    """Counters: shards `written`, writings that `failed`, and `dirty` shards, which changed since they were written.

    `window` is the age, in seconds, of the oldest change that is not copied for the writer yet. If the server is
    killed, the changes since then are lost, and those in copies that the disk has not taken.
    """

    written: int
    failed: int
    dirty: int
    window: float


@dataclasses.dataclass
class _Copy:
    number: int
    weights: np.ndarray
    applied: dict[int, int]
    run: int
    layout: int  # the layout's digest


class SnapshotFolder:
    """A parameter server's snapshot in `folder`. The server's loop calls `step`; a thread of this object writes.

    A shard is written at most once in `seconds`. `trouble` is a line for the user; the caller sets it to None once it
    is shown. `outdated` says that writing the last `identity.json` failed.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(f"cannot use snapshot folder {folder}: {refusal(error)}; name another") from None
        self._folder, self._seconds = folder, seconds
        self._run = 0
        self._queue: queue.Queue[_Copy | dict[str, Any] | None] = queue.Queue(WAITING)
        self._written = self._failed = 0
        self._since: dict[int, float] = {}  # shard -> when its first change since the last copy came; oldest first
        self._busy: set[int] = set()  # shards whose copy is queued or being written
        self._unwritten: deque[int] = deque()  # shards whose last writing failed
        self._newest_facts: dict[str, Any] | None = None
        self._facts_lock = threading.Lock()
        self._refusing = False  # whether the writer's last writing failed
        self._reason = ""  # why a writing failed last
        self._progress = threading.Event()  # set whenever the writer has finished a job
        self.trouble: str | None = None
        self.outdated = False
        self._thread = threading.Thread(target=self._write_all, name="snapshot", daemon=True)
        self._thread.start()

    def load(self, table: ShardTable, run: int) -> int:
        """Fill the table with the snapshot's shards of `run` and of its layout; return how many.

        Files that are damaged, of an older format or of another run are skipped, and `trouble` names them. From now on
        shards are written as those of `run`.
        """
        loaded, others, unusable, self._run = 0, 0, list[str](), run
        self._since.clear()  # these shards are of an earlier table
        for path in sorted(self._folder.iterdir()):
            match = _NAME.fullmatch(path.name)
            if match is None or int(match[1]) not in table.entries:
                continue
            try:
                tensors, metadata = read_tensors(path, _FORMAT)
                if metadata.get("run") != str(run):
                    others += 1
                    continue
                if int(metadata["layout"]) != table.layout.digest:
                    continue  # the shard is of another network; a newer copy will be written over it
                applied = {int(sender): int(last) for sender, last in json.loads(metadata["applied"]).items()}
                if tensors["weights"].shape != table.entries[int(match[1])].weights.shape:
                    continue
            except (CheckpointError, KeyError, ValueError, AttributeError) as error:
                unusable.append(f"{path}: {error}")
                continue
            table.restore(int(match[1]), tensors["weights"], applied)
            loaded += 1
        if unusable:
            more = f", as do {len(unusable) - 1} more" if len(unusable) > 1 else ""
            self.trouble = f"{unusable[0]}; this shard begins without it{more}"
        elif others:
            self.trouble = f"{self._folder}: {several(others, 'shard')} of another run: not used, but written over"
        return loaded

    def step(self, table: ShardTable, now: float, all_of_it: bool = False) -> None:
        """Copy shards that should be written now and hand the copies to the writer, as many as it has room for.

        `all_of_it` hands over all changed shards, waiting for room. `now` is time.monotonic().
        """
        while self._unwritten:
            number = self._unwritten.popleft()
            if number in table.entries and table.entries[number].version:  # else only an earlier table had it
                table.changed.add(number)
        for number in table.changed:
            self._since.setdefault(number, now)
        table.changed.clear()
        for number in self._due(now, all_of_it):
            entry = table.entries.get(number)
            del self._since[number]
            if entry is None:
                continue  # its group was given to other servers
            self._busy.add(number)
            copy = _Copy(number, entry.weights.copy(), dict(entry.applied), self._run, table.layout.digest)
            self._queue.put(copy, timeout=_CLOSING)

    def _due(self, now: float, all_of_it: bool) -> list[int]:
        """Return the shards to copy now: those changed `seconds` ago for which the writer has room, or all changed.

        A shard whose older copy the writer still has is left for later.
        """
        if all_of_it:
            return [number for number in self._since if number not in self._busy]
        old = itertools.takewhile(lambda changed: now - changed[1] >= self._seconds, self._since.items())
        free = (number for number, _ in old if number not in self._busy)
        return list(itertools.islice(free, max(0, WAITING - self._queue.qsize())))

    def note(self, facts: dict[str, Any]) -> bool:
        """Have `facts` written to `identity.json` in the background; False if the writer has no room now."""
        self._newest_facts = facts
        try:
            self._queue.put_nowait(facts)
        except queue.Full:
            return False
        return True

    def write_now(self, facts: dict[str, Any]) -> bool:
        """Write `facts` to `identity.json` before this returns; False if the disk refuses. The caller tries again."""
        self._newest_facts = facts
        try:
            with self._facts_lock:
                write_facts(self._folder, facts)
        except OSError as error:
            if not self._refusing:
                self.trouble = f"cannot write a snapshot to {self._folder}: {refusal(error)}; trying again"
            return False
        return True

    def statistics(self, now: float) -> PersistenceStatistics:
        """Return the counters as of `now`."""
        oldest = next(iter(self._since.values()), None)
        window = 0.0 if oldest is None else now - oldest
        return PersistenceStatistics(self._written, self._failed, len(self._since.keys() | self._busy), window)

    def close(self, table: ShardTable | None, facts: dict[str, Any] | None = None) -> None:
        """Write all changed shards and `facts`, and end the writer. Afterwards `trouble` says what is not on disk.

        If the disk takes longer than a minute for one shard, give up.
        """
        with contextlib.suppress(queue.Full):
            if table is None or self._write_rest(table):
                if facts is not None:
                    self._newest_facts = facts
                    self._queue.put(facts, timeout=_CLOSING)
                self._queue.put(None, timeout=_CLOSING)
                self._thread.join(_CLOSING)
        if self._thread.is_alive():
            self._tell_missing(len(self._since.keys() | self._busy), f"the disk did not take them in {_CLOSING:g} s")
        elif self._unwritten or self.outdated:
            self._tell_missing(len(set(self._unwritten)), self._reason)

    def _write_rest(self, table: ShardTable) -> bool:
        """Queue all changed shards, each after its older copy is written; False if the disk takes too long."""
        while True:
            self._progress.clear()
            self.step(table, time.monotonic(), all_of_it=True)
            if not self._since:
                return True
            if not self._progress.wait(_CLOSING):
                return False

    def _tell_missing(self, shards: int, reason: str) -> None:
        what = f"the newest updates of {shards} shard{'s' * (shards != 1)}" if shards else f"the newest {_FACTS}"
        self.trouble = f"{self._folder} lacks {what}: {reason}"

    def _write_all(self) -> None:
        while (job := self._queue.get()) is not None:
            try:
                self._write(job)
                self._refusing = False
            except Exception as error:  # this thread must go on: it is the only writer
                self._failed += 1
                if isinstance(job, _Copy):
                    self._unwritten.append(job.number)
                else:
                    self.outdated = True
                if not self._refusing:  # the writer tries again and again; tell the user once
                    self.trouble = f"cannot write a snapshot to {self._folder}: {refusal(error)}; trying again"
                self._refusing, self._reason = True, refusal(error)
            finally:
                if isinstance(job, _Copy):
                    self._busy.discard(job.number)
                self._progress.set()

    def _write(self, job: _Copy | dict[str, Any]) -> None:
        if isinstance(job, dict):
            self.outdated = False
            with self._facts_lock:
                if job is self._newest_facts:  # else newer ones follow, or were written at once
                    write_facts(self._folder, job)
            return
        metadata = {
            "format": _FORMAT,
            "run": str(job.run),
            "layout": str(job.layout),
            "applied": json.dumps({str(sender): last for sender, last in job.applied.items()}),
        }
        write_tensors(self._folder / f"shard-{job.number:06d}.safetensors", {"weights": job.weights}, metadata)
        self._written += 1


def write_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write `identity.json`, whole or not at all. Raises OSError if the disk refuses."""
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / _FACTS, json.dumps(facts).encode())


def read_facts(folder: Path) -> dict[str, Any]:
    """Return the content of `identity.json`, {} if there is no file. Raises CheckpointError or RunFolderError."""
    try:
        facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        if not isinstance(facts, dict):
            raise ValueError("not an object")
        return facts
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise RunFolderError(f"cannot use snapshot folder {folder}: {refusal(error)}; name another") from None
    except ValueError as error:
        raise CheckpointError(f"{folder / _FACTS} is damaged: {error}; remove {folder} to start without it") from None

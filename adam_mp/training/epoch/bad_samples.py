"""Bad samples, whose images cannot be read or decoded: counted, named in `bad_samples.jsonl`, and left out.

With `--strict` the first of them ends the run. If a class has no other images to train on, a line says so.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adam_mp.data.reading.account import some
from adam_mp.data.reading.dataset import DataSet
from adam_mp.data.reading.faults import BadSample, Fault
from adam_mp.errors import DataError, refusal, several
from adam_mp.training.folder.run_folder import BAD_SAMPLES_FILE

_PASSING = [int(Fault.MISSING), int(Fault.UNREADABLE), int(Fault.NO_MEMORY)]
_EXPLAINED = 1000  # samples whose figures are named, for which their files are read again


class BadSamples:
    """The bad samples of a run. Processes write a sample's Fault into `flags`, uint8 [samples]; the supervisor looks.

    Files that were left out when the data set was loaded are named at once. A resumed run reads from
    `bad_samples.jsonl` which samples are known. A sample whose file was missing or unreadable is tried again in the
    next epoch, because disks and networks recover.
    """

    def __init__(
        self,
        dataset: DataSet,
        flags: np.ndarray | None,
        folder: Path | None,
        strict: bool,
        notice: Callable[[str], None],
        training: np.ndarray | None = None,
    ) -> None:
        self._training, self._without = training, set[int]()  # classes of which no image to train on is good
        self._told = set[str]()  # parts
        self._dataset, self._strict, self._notice = dataset, strict, notice
        self._path = None if folder is None else folder / BAD_SAMPLES_FILE
        self._flags: np.ndarray = np.zeros(0, np.uint8) if flags is None else flags
        self._seen = np.zeros_like(self._flags)
        known = self._read()
        self._named = {line["sample"] for line in known}
        for line in known:
            number, fault = line.get("number"), Fault.__members__.get(str(line.get("fault")))
            if isinstance(number, int) and 0 <= number < len(self._flags) and fault is not None:
                self._flags[number] = self._seen[number] = fault
        # If the data have moved since, files that were left out have other paths now, so their last names count.
        before = {(line.get("fault"), os.path.basename(line["sample"])) for line in known if line.get("number") is None}
        new = [bad for bad in dataset.rejected if (bad.fault.name, os.path.basename(bad.path)) not in before]
        self._write([(bad, None) for bad in new])

    @property
    def count(self) -> int:
        """How many bad samples are named so far, files that were left out when the data set was loaded included."""
        return len(self._named)

    def forgive(self) -> None:
        """Have the samples tried again whose files were missing or unreadable. To be called between two epochs."""
        self.step()  # names them before their flags are cleared
        passing = np.isin(self._flags, _PASSING)
        self._flags[passing] = self._seen[passing] = Fault.GOOD

    def failed_in(self, batches: np.ndarray, sample_order: np.ndarray, size: int) -> dict[int, int]:
        """Return batch -> number of its bad samples, for those of `batches` that have any.

        `sample_order` int64 [samples of the epoch] has the samples' numbers; each `size` of them are a batch.
        """
        if not len(self._flags) or not len(batches):
            return {}
        places = batches[:, None] * size + np.arange(size)
        bad = self._flags[sample_order[np.minimum(places, len(sample_order) - 1)]] != 0
        counts = np.count_nonzero(bad & (places < len(sample_order)), axis=1)
        return dict(zip(batches[counts > 0].tolist(), counts[counts > 0].tolist(), strict=True))

    def step(self) -> None:
        """Name the samples that processes have flagged since the last look. With `strict`, raises DataError instead."""
        numbers = np.flatnonzero(self._flags != self._seen)
        if not numbers.size:
            return
        faults = self._flags[numbers].copy()
        self._seen[numbers] = faults
        found = [
            (self._dataset.bad_sample(number, Fault(fault), len(self._named) < _EXPLAINED), number)
            for number, fault in zip(numbers.tolist(), faults.tolist(), strict=True)
        ]
        if self._strict:
            bad = found[0][0]
            raise DataError(f"{bad.path}: {bad.reason}; mend or remove it, or leave out --strict")
        self._write(found)
        self._tell_classes(numbers)

    def _tell_classes(self, numbers: np.ndarray) -> None:
        """Tell once of each class of the samples `numbers` that it has no good image to train on any more."""
        if self._training is None:
            return
        labels, names = self._dataset.train.labels, self._dataset.class_names
        good = np.bincount(labels[self._training], self._flags[self._training] == 0, self._dataset.classes)
        hit = np.unique(labels[np.intersect1d(numbers, self._training)])
        for label in hit[good[hit] == 0].tolist():
            if label not in self._without:
                self._without.add(label)
                self._notice(
                    f"the class {names[label] if names else label} has no image left to train on: all of its "
                    f"{np.count_nonzero(labels[self._training] == label):,} cannot be read (see {BAD_SAMPLES_FILE})"
                )

    def tell_left_out(self, part: str, numbers: np.ndarray) -> None:
        """Tell once how many of the samples `numbers` of a part, "validation" or "test", no figure counts."""
        bad = numbers[self._flags[numbers] != 0] if len(self._flags) else numbers[:0]
        if not bad.size or part in self._told:
            return
        self._told.add(part)
        labels, names = self._dataset.labels, self._dataset.class_names
        lost = np.setdiff1d(labels[bad], labels[np.setdiff1d(numbers, bad)]).tolist()
        none_of = f", among them all of the class {some(names[label] if names else label for label in lost)}"
        self._notice(
            f"{bad.size:,} of {several(len(numbers), f'{part} image')} could not be used, and count neither way"
            f"{none_of if lost else ''}; {self._dataset.worst_of(bad, self._flags[bad])}"
        )

    def _write(self, found: Sequence[tuple[BadSample, int | None]]) -> None:
        new = [(bad, number) for bad, number in found if bad.path not in self._named]
        self._named.update(bad.path for bad, _ in new)
        if self._path is None or not new:
            return
        try:
            with open(self._path, "a", encoding="utf-8", errors="backslashreplace") as file:
                for bad, number in new:
                    line = {"sample": bad.path, "fault": bad.fault.name, "reason": bad.reason, "number": number}
                    file.write(json.dumps(line) + "\n")
        except OSError as error:
            self._notice(f"cannot write {self._path}: {refusal(error)}; the run goes on without it")

    def _read(self) -> list[dict[str, Any]]:
        """Return the lines that an earlier part of the run wrote; a line that a kill cut short is left out."""
        if self._path is None or not self._path.exists():
            return []
        lines = []
        for text in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and isinstance(line.get("sample"), str):
                lines.append(line)
        return lines

"""What can be wrong with a sample. The numbers stand in shared memory; the words go to `bad_samples.jsonl`."""

from __future__ import annotations

import dataclasses
import enum


class Fault(enum.IntEnum):
    """Why a sample cannot be trained on; GOOD where nothing is known against it."""

    GOOD = 0
    MISSING = 1
    UNREADABLE = 2
    EMPTY = 3
    NOT_AN_IMAGE = 4
    DAMAGED = 5
    TOO_LARGE = 6
    CRASHED = 7
    BAD_ITEM = 8
    NO_LABEL = 9
    LINK = 10
    NO_IMAGE = 11


REASONS = {
    Fault.MISSING: "there is no such file",
    Fault.UNREADABLE: "the file cannot be read",
    Fault.EMPTY: "the file is empty",
    Fault.NOT_AN_IMAGE: "not an image of a known kind (JPEG, PNG, BMP, WebP)",
    Fault.DAMAGED: "the image is damaged or cut short",
    Fault.TOO_LARGE: "the image declares more pixels than the limit, or its file is larger than they could be",
    Fault.CRASHED: "decoding it killed the process, twice",
    Fault.BAD_ITEM: "the data set's __getitem__ failed or gave something else than an image and a label",
    Fault.NO_LABEL: "no label that is a whole number, or one that disagrees",
    Fault.LINK: "a link to a folder, or out of the data folder; give --follow-links to follow it",
    Fault.NO_IMAGE: "the class folder has no image",
}


class SampleError(Exception):
    """A sample cannot be had; its fault tells why. Never leaves the data layer."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(REASONS[fault])
        self.fault = fault


@dataclasses.dataclass(frozen=True)
class BadSample:
    """A sample that was skipped: where it is, and why."""

    path: str
    fault: Fault

    @property
    def reason(self) -> str:
        """The fault in words."""
        return REASONS[self.fault]

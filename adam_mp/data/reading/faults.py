"""What can be wrong with a sample. Processes note the fault's number in shared memory; users read its reason in words.

Reasons go to `bad_samples.jsonl` in the run folder.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
from collections.abc import Sequence


class Fault(enum.IntEnum):
    """Why a sample cannot be used; GOOD if no fault of it is known."""

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
    HIDDEN = 12
    NO_CLASS = 13
    DUPLICATE = 14
    UNSUPPORTED = 15
    GUARDED = 16
    TOO_MANY_BYTES = 17
    NO_MEMORY = 18
    ABOVE_WHITE = 19
    BELONGS = 20
    OTHER_LABEL = 21


REASONS = {
    Fault.MISSING: "there is no such file",
    Fault.UNREADABLE: "the file cannot be read",
    Fault.EMPTY: "the file is empty",
    Fault.NOT_AN_IMAGE: "not an image of a known kind (JPEG, PNG, BMP, WebP)",
    Fault.DAMAGED: "the image is damaged or cut short",
    Fault.TOO_LARGE: "the image has more pixels than the limit; --pixel-limit raises it",
    Fault.CRASHED: "decoding it killed the process, twice",
    Fault.BAD_ITEM: "the data set's __getitem__ failed or gave something else than an image and a label",
    Fault.NO_LABEL: "no label that is a class's number or name as those of the others are, or .cls and .json disagree",
    Fault.LINK: "a link to a folder, or out of the data folder; give --follow-links to follow it",
    Fault.NO_IMAGE: "the class folder has no image",
    Fault.UNSUPPORTED: "an image of a kind that is not supported, such as lossless or 12-bit JPEG; save it in another",
    Fault.GUARDED: "the image library refuses an image so large in this format, whatever the limit; save it as PNG",
    Fault.TOO_MANY_BYTES: "the file has more bytes than an image within the limit can take; --pixel-limit raises it",
    Fault.NO_MEMORY: "there was not enough memory to decode the image",
    Fault.ABOVE_WHITE: "a grey image of 16 bits has values above white (see --white), which was measured on others",
    Fault.HIDDEN: "its name begins with a dot, as those of hidden files do",
    Fault.NO_CLASS: "an image that is in no class folder",
    Fault.BELONGS: "by its name a mask or the like of the image beside it, as 1_mask.png of 1.png",
    Fault.OTHER_LABEL: "the item has another label than its object lists in .targets or .labels, or than it had before",
    Fault.DUPLICATE: "the sample has such a member already",
}

# Advice to the user, for faults whose reason does not already say what to do.
REMEDIES = {
    Fault.UNREADABLE: "look at its permissions",
    Fault.HIDDEN: "rename it",
    Fault.BELONGS: "if it is an image of the class, rename it",
    Fault.NO_CLASS: "move it into the folder of its class",
    Fault.OTHER_LABEL: "give an object that lists the labels of its items, or no labels",
}


class SampleError(Exception):
    """A sample cannot be read or decoded; `fault` says why. Code outside `data/` never sees this error.

    The message is `detail`, with the figures of this sample, or the fault's reason in words.
    """

    def __init__(self, fault: Fault, detail: str = "") -> None:
        super().__init__(detail or REASONS[fault])
        self.fault = fault


@dataclasses.dataclass(frozen=True)
class BadSample:
    """A sample that was left out: where it is, and why. `said` is the reason where more is known than the fault."""

    path: str
    fault: Fault
    said: str = ""

    @property
    def reason(self) -> str:
        """The reason in words."""
        return self.said or REASONS[self.fault]


def summary_of(faults: Sequence[tuple[str, SampleError]]) -> str:
    """Return the most frequent reason among faults of samples, each with its place, and one of them as the example."""
    counts = collections.Counter(error.fault for _, error in faults)
    worst, times = counts.most_common(1)[0]
    place, error = next(each for each in faults if each[1].fault is worst)
    return f"{times:,} of {len(faults):,}: {error} ({place})"

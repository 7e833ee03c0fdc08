"""How deep the pixels of a data set are: what grey values of 16 bits mean is decided once for all its images.

Cameras, microscopes and scanners write 10, 12 or 14 bits into 16. Some images, spread over all, say how many bits are
in use, and their largest possible value becomes white in all images, of training and of `predict` alike. If another
image has larger values, it is left out: they would all become white, which nobody asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from adam_mp.data.reading.containers import is_deep_colour, is_deep_grey
from adam_mp.data.reading.decoding import brightest
from adam_mp.data.reading.faults import SampleError
from adam_mp.data.reading.options import WHITE, LoadOptions
from adam_mp.data.reading.records import RecordTable

_BYTE = 8
_READERS = 4  # threads
_DARKER = 16  # times that the largest value to train on may be that of another part without a line


class Depths:
    """Collects how deep the images of a data set are; `deep` is how many grey images of 16 bits were seen first."""

    def __init__(self) -> None:
        self._plain = self.deep = self._colour = self._brightest = self._more = 0

    def look(self, content: bytes, options: LoadOptions) -> None:
        """Look at an encoded image; its pixels are decoded only if it is grey and deep, and the scale is not known."""
        if not is_deep_grey(content):
            self._plain += 1
            self._colour += is_deep_colour(content)
            return
        self.deep += 1
        if options.white is None:
            self._brightest = max(self._brightest, brightest(content, options) or 0)

    def add_part(self, part: Depths, what: str) -> list[str]:
        """Add what was seen of another part, which lines call `what`; return a line if its values seem to be others."""
        told = []
        darker, brighter = sorted((self._brightest, part._brightest))
        if darker and brighter >= _DARKER * darker:
            told.append(
                f"grey images of 16 bits {what} have other values than those to train on: the largest seen is "
                f"{part._brightest:,}, of those {self._brightest:,}; if they have more or fewer bits, scale them alike"
            )
        self._plain, self.deep = self._plain + part._plain, self.deep + part.deep
        self._colour, self._brightest = self._colour + part._colour, max(self._brightest, part._brightest)
        return told

    def measures(self, options: LoadOptions) -> bool:
        """Tell whether there are deep images whose scale must be measured."""
        return self.deep > 0 and options.white is None

    def look_at_more(self, samples: Sequence[int], table: RecordTable, options: LoadOptions) -> None:
        """Look for larger values in further samples; those that cannot be read are reported when they are trained."""

        def largest(sample: int) -> int:
            try:
                return brightest(table.read(sample, options.byte_limit), options) or 0
            except SampleError:
                return 0

        with ThreadPoolExecutor(_READERS, thread_name_prefix="depths") as readers:
            self._brightest = max([self._brightest, *readers.map(largest, samples)])
        self._more = len(samples)

    def white(self, options: LoadOptions) -> float | None:
        """Return the value that becomes 255: as `options` say, or the largest of the bits in use; None if none is deep.

        At least 8 bits are in use.
        """
        if not self.deep or options.white is not None:
            return options.white
        if not self._brightest:
            return WHITE  # all black, or damaged: nothing was measured
        return float((1 << max(_BYTE, self._brightest.bit_length())) - 1)

    def notices(self, options: LoadOptions) -> list[str]:
        """Return lines that say what deep values become, with the options that `white` completed."""
        lines = []
        if self.deep:
            measured = f", the largest seen is {self._brightest:,}" if self._brightest else ""
            white = options.white or WHITE
            beyond = "" if options.clipped or white >= WHITE else ", and images with larger values are left out"
            lines.append(
                f"grey images of 16 bits: values 0 to {white:,.0f} become 0 to 255, in all images alike{measured}"
                f"{beyond} (--white sets another value)"
            )
            if self._plain:
                lines.append(
                    f"{self._plain:,} of the first {self._plain + self.deep:,} images have 8 bits, the others 16: a "
                    "value of 255 in the former is as bright as white in the latter"
                )
        if self._colour:
            lines.append("colour images of 16 bits are read with the upper 8 bits of each value")
        return lines

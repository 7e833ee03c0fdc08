"""How deep the pixels of a data set are: what grey values of 16 bits mean is decided once for all its images.

Cameras, microscopes and scanners write 10, 12 or 14 bits into 16. The first images say how many bits are in use, and
their largest possible value becomes white in all images, of training and of `predict` alike.
"""

from __future__ import annotations

from adam_mp.data.reading.containers import is_deep_colour, is_deep_grey
from adam_mp.data.reading.decoding import brightest
from adam_mp.data.reading.options import WHITE, LoadOptions

_BYTE = 8


class Depths:
    """Collects how deep the images of a data set are."""

    def __init__(self) -> None:
        self._plain = self._deep = self._colour = self._brightest = 0

    def look(self, content: bytes, options: LoadOptions) -> None:
        """Look at an encoded image; its pixels are decoded only if it is grey and deep, and the scale is not known."""
        if not is_deep_grey(content):
            self._plain += 1
            self._colour += is_deep_colour(content)
            return
        self._deep += 1
        if options.white is None:
            self._brightest = max(self._brightest, brightest(content, options) or 0)

    def white(self, options: LoadOptions) -> float | None:
        """Return the value that becomes 255: as `options` say, or the largest of the bits in use; None if none is deep.

        At least 8 bits are in use.
        """
        if not self._deep or options.white is not None:
            return options.white
        if not self._brightest:
            return WHITE  # all black, or damaged: nothing was measured
        return float((1 << max(_BYTE, self._brightest.bit_length())) - 1)

    def notices(self, options: LoadOptions) -> list[str]:
        """Return lines that say what deep values become, with the options that `white` completed."""
        lines = []
        if self._deep:
            measured = f", the largest seen is {self._brightest:,}" if self._brightest else ""
            lines.append(
                f"grey images of 16 bits: values 0 to {options.white or WHITE:,.0f} become 0 to 255, in all images "
                f"alike{measured} (--white sets another value)"
            )
            if self._plain:
                lines.append(
                    f"{self._plain:,} of the first {self._plain + self._deep:,} images have 8 bits, the others 16: a "
                    "value of 255 in the former is as bright as white in the latter"
                )
        if self._colour:
            lines.append("colour images of 16 bits are read with the upper 8 bits of each value")
        return lines

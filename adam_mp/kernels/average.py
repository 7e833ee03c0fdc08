"""The move of an average of weights towards the weights: one pass over flat arrays, in place and without a lock."""

from __future__ import annotations

from adam_mp.kernels.compilation import kernel


@kernel("void(R[::1], R[::1], f8)")
def move_average(average, w, share):
    """`average += share * (w - average)`, both [n]; where the two are equal, nothing changes, whatever the share.

    Each number is read and written by itself. So a pass that is cut short leaves every number between what it was and
    the weight, and of two passes at the same time, one number may miss one of the moves.
    """
    part = w.dtype.type(share)
    for i in range(w.size):
        average[i] += part * (w[i] - average[i])

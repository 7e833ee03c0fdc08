"""Dense layers: one `gemm` forward, one for each gradient, and the update straight into shared weights."""

from __future__ import annotations

from adam_mp.kernels.blas import gemm
from adam_mp.kernels.compilation import kernel


@kernel("void(R[:,::1], R[:,::1], R[::1], R[:,::1], b1)")
def dense_forward(x, weight, bias, out, rectify):
    """`out = x @ weight + bias`, then `max(out, 0)` if `rectify`; x [n, in], weight [in, out], bias [out]."""
    for i in range(out.shape[0]):
        for j in range(bias.size):
            out[i, j] = bias[j]
    gemm(x, False, weight, False, 1, 1, out)
    if rectify:
        for i in range(out.shape[0]):
            for j in range(bias.size):
                out[i, j] = max(out[i, j], 0)


@kernel("void(R[:,::1], R[:,::1], R[:,::1], R)")
def dense_backward_weight(x, error, gradient, beta):
    """`gradient = beta * gradient + x.T @ error`."""
    gemm(x, True, error, False, 1, beta, gradient)


@kernel("void(R[:,::1], R[:,::1], R[:,::1])")
def dense_backward_input(error, weight, x_error):
    """`x_error = error @ weight.T`."""
    gemm(error, False, weight, True, 1, 0, x_error)


@kernel("void(R[:,::1], R[:,::1], R[:,::1], f8[::1])")
def dense_update(x, error, weight, hyper):
    """Gradient descent straight into the shared weight, with no gradient in between (a rank-n update).

    `weight = (1 - lr * weight_decay) * weight - lr * x.T @ error` with `hyper = [lr, weight_decay, ...]`.
    """
    gemm(x, True, error, False, -hyper[0], 1 - hyper[0] * hyper[1], weight)

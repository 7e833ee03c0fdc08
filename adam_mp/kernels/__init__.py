"""Compiled arithmetic on plain arrays: numba and vector instructions, no classes, no shared state.

Images are `[n, height, width, channels]` (channels last), convolution weights `[kernel_h * kernel_w * channels, out]`,
dense weights `[in, out]`. Every kernel writes into arrays it is given and allocates nothing. Each is declared with the
types it accepts, in which `R` stands for the real type: float32 for training, float64 for gradient checks.

May import: `errors`.
"""

"""Compiled arithmetic on plain arrays, by numba and vector instructions. Kernels are functions without state.

Images are `[n, height, width, channels]` (channels last), convolution weights `[size * size * in_channels, channels]`,
dense weights `[inputs, outputs]`. A kernel writes into the arrays that it is given. Each is declared with the types
that it accepts, in which `R` stands for the real type: float32 for training, float64 for gradient checks. An `error`
is the gradient of the loss by a layer's output; `x_error` is the gradient by the layer's input.

- Products: `product` (matrix products), `tile` (their innermost loop), `edge` (their last two columns), `vector`
  (vector instructions), `sparse` (products with errors that are mostly 0).
- Layers: `conv`, `dense`, `pool`, `activation`, `dropout`, `normalization`, `loss`.
- Updates: `update` (the rules), `average` (of weights), `exchange` (deltas between replica and parameter server).
- Images: `warp` (augmentation in one pass), `draw` (its random draws), `sampling` (its inner loops), `shrink`,
  `statistics` (means and deviations).
- `finite` (whether weights are finite numbers).
- `atomic` (words that processes share), `random` (random numbers from a key), `compilation` (declare, compile, cache).

May import: `errors`.
"""

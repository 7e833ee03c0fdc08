"""A network bound to arrays: training context, forward and backward pass, update, and the trained model.

- `fusion`: which layers one operation computes together.
- `operation` (what an operation is), `operations`, `convolution`, `conv_backward`, `grouped`, `joining`, `normalizing`:
  bind kinds of layers to kernels; `partitioned` those that exchange values with other partitions, by `mail`.
  `part_storage`: where the tensors of a cut network lie; `part_updates`: who updates which of them.
  `part_measurement`: what a partition takes here. `calibration`: what norms know of the training images.
- `context`: puts the operations' kernel calls into a program, which runs without allocating memory; `lifetimes`: where
  in one memory values and errors lie.
- `choice`, `measurement`: which of several kernels a layer uses; timing them on this machine.
- `optimizer`, `expression`, `updates`: update rules; formulas that users write; binding a rule to a parameter store.
  `shares`: what of learning rate and weight decay each tensor takes. `clipping`: of gradients, by their norm.
- `model`, `tensor_file`: the trained network as a library object; files of named tensors; `scale`: whether images
  have the scale of those trained on; `views`: what a network is asked about of an image, and the mean of its answers.
- `unclear`, `columns`: images and features that are not what their array has.
- `gradient_check`: the backward pass against finite differences, for tests.

May import: `errors`, `machine`, `kernels`, `network`, `memory`.
"""

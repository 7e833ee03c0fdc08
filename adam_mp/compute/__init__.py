"""A network bound to arrays: training context, forward, backward, update, gradient check, and the trained model.

`operations` binds each kind of layer to its kernels, `context` strings them into a program of kernel calls that runs
without allocating, `optimizer` holds the update rules, `expression` what users write as formulas, `model` the trained
network as a library object, `model_file` its file.

May import: `errors`, `machine`, `kernels`, `network`, `memory`.
"""

"""A run's epochs: orders to the workers, validation, checkpoints, divergence, figures.

Read `machine` first: the pure machine that decides what a run does next. `driver` looks at the run for the machine and
does what it says, `supervisor` owns all that a run has. `guard` finds divergence, `accounts` counts an epoch,
`run_account` the run, `bad_samples` names images that cannot be read, `hints` tells which flag would speed up a run.
"""

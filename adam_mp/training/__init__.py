"""A run: workers, epochs and their quorum, schedules, checkpoints, and the supervisor over all.

Read `worker` first: it is the paper's training loop in one screen. `settings` holds everything a user can choose,
`trainer` is the library's entry, `machine` decides what an epoch does next, `session` owns memory and processes.

May import: `errors`, `machine`, `process`, `kernels`, `network`, `memory`, `transport`, `compute`, `data`, `params`. It
reports through `events`; how they are shown is the business of `report`.
"""

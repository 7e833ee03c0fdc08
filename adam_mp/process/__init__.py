"""Processes: how a child starts and ends with its supervisor, what signals ask for, what each process is doing.

Read `child` first: it starts a process that runs one function of adam_mp. `forking` has it forked from the run's
`fork_server`, by means of `sibling`; `entry` is what a child does first, however it started. `interruption` turns
signals into wishes that a supervisor looks at, `stacks` asks all its children what they are doing.

May import: `errors`, `machine`.
"""

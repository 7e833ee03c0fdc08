"""Processes: how a child starts and ends with its supervisor, what signals ask for, what each process is doing.

Read `child` first: it starts a process that runs one function of adam_mp. `interruption` turns signals into wishes that
a supervisor looks at, `stacks` asks all its children what they are doing.

May import: `errors`, `machine`.
"""

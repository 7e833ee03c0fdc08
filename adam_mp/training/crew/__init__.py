"""The processes of a run and the memory that they share.

`session` is both, from start to end: orders, evaluation, looking after the processes. `crew` starts, watches and
replaces the processes, `preparation` makes the memory and says what each process is told, `copies` copies weights to
checkpoints and back, `watchdog` ends a run in which nothing moves.
"""

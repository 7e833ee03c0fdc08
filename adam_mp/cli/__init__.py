"""The command line: each command has a thin module of its name, which parses flags, calls the library, and prints.

`main` finds the command and turns errors into one line; `options` makes flags from the settings. The commands: `train`,
`evaluate`, `predict`, `inspect`, `bench`, `show_data`, `serve_params`, `serve_data`, `status`, `keygen`, `doctor`.

May import everything. Exit codes: 0 done, 1 processes died or an internal error, 2 wrong input, 3 the loss diverged,
4 nothing moved, 5 the answer could not be written, 128 plus its number stopped by a signal, 141 nobody reads the
answer. Commands print by `adam_mp.process.output` alone.
"""

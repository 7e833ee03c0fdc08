"""The command line: one thin module a command; each parses, calls the library, and prints.

May import everything. Exit codes: 0 done, 1 processes died or an internal error, 2 wrong input, 3 the loss diverged,
4 nothing moved, 130 and 143 stopped by SIGINT and SIGTERM.
"""

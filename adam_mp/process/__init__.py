"""Child processes: how one starts, how it ends with its supervisor, and how it answers signals.

In this package the *supervisor* is the process that started a child. Read `child` first.

    child          the supervisor's view of a child: start it, ask it for its stacks, wait for it, end it
    forking        the supervisor's side of a fork server: start it, have it fork children, replace it
    fork_server    the fork server's own side: import what children need, then fork them on request
    sibling        how the fork server forks a child of its own parent, and gives it a name for `ps`
    interpreter    the command line of a Python that looks for modules where its parent does
    entry          what every child does first: tie its life to the supervisor's, then run its task
    early_deaths   how many early deaths of a process in a row are too many
    interruption   signals noted as requests that the supervisor looks at
    stacks         the Python stacks of the supervisor and all of its children, on demand
    folder_lock    a lock on a folder that ends with the process that has it
    output         all that a process prints: text that a stream does not take is dropped, and the process goes on

May import: `clash`, `errors`, `control_groups`, `machine`.
"""

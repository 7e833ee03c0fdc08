"""Everything in shared memory: its layout, its life and its death.

Who owns what. The supervisor alone creates segments; its children inherit them as open files and map them. A segment
has no name that outlives its processes: it is an anonymous memory file (on Linux), or a file that is deleted as soon as
it is opened. The kernel frees it when the last process that maps it is gone, however it went, so nothing can be
left in /dev/shm, and a small /dev/shm (64 MB in most containers) is no limit. Space is checked and taken at creation,
because a page that cannot be backed later is a bus error.

What dies with whom. Children die with the supervisor (`training.process`). A worker or data server that dies leaves
words behind that others repair: what it had leased is leased again (`ledger`), its ring is taken over by its
successor (`ring`), its half-written update of the weights is noise that training absorbs (`store`).

Nothing here blocks or takes a lock; who must wait polls with `waiting.Backoff`, so that no death of another process
can leave it waiting for a wake-up. May import: `errors`, `machine`, `kernels`, `network`.
"""

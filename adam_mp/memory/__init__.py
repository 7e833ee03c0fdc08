"""Everything in shared memory: its layout, its life and its death.

Who owns what. The supervisor alone creates segments; its children inherit them as open files and map them. A segment
has no name that outlives its processes: it is an anonymous memory file (on Linux), or a file that the supervisor
deletes as soon as it has opened it. The kernel frees a segment when the last process that maps it has ended, even by
`kill -9`. So nothing can be left in /dev/shm, and a small /dev/shm (64 MB in most containers) is no limit. Most
segments check and take their space at creation, because the first write to a page for which the system has no memory
would kill the process (SIGBUS). The cache takes its space as it fills.

What dies with whom. Children die with the supervisor (`process.entry`). When a worker or data server dies, others
repair what it left in shared memory. The supervisor frees its batches in the `ledger`, so that they are leased again.
Its successor takes over its `ring`. Its half-written update of the weights is noise that training absorbs (`store`).

Nothing here blocks or takes a lock. A process that must wait looks again and again (`waiting`), so the death of another
process can never leave it waiting for a wake-up.

Modules, each built on those above it:

    segment     makes, maps and frees a piece of shared memory; finds those of all runs on this machine
    layout      where each tensor is in the flat space; its shards and buckets
    arena       a segment with a header, counters and flat float32 spaces of one layout
    store       weights and optimizer state, which many processes update in place
    slots       head and tail of a queue with one producer and one consumer
    ring        the queue of batches from a data server to a worker
    ledger      which process has which batch of the epoch
    turns       which worker trains which batch, where that is fixed in advance
    wanted      finds a worker's next batch in its rings
    steps       gradients and marks of the synchronous steps of all workers
    doorbell    wakes a process that sleeps for input from several sides
    group       what partitions of one model send each other, and the batches on which they work together
    board       the supervisor's order to all workers, and the counters of each process
    staleness   the histogram of staleness
    run_memory  the segment with board, ledgers, turns, rings and data set of a run
    cache       decoded images, for all processes of a run
    exchange    what a synchronizer leaves to its successor: base, sent, states of shards, bucket map
    waiting     how long a process sleeps between two looks at shared memory

May import: `errors`, `machine`, `process`, `kernels`, `network`.
"""

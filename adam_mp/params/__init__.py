"""Parameter servers: one set of weights for many machines (paper, sections 3.2.3 and 3.3).

`bucket_map` says which server has which shard, `protocols` what a layer costs on the wire either way, `shard_table` is
a server's weights and how updates are applied once, `persistence` its snapshot on disk, `folder_lock` who has that,
`server` its loop, `traffic` what it counts, `announcements` what it says, `serving` its process.
`exchange` is a replica's side of the exchange, `synchronizer` the process that runs it. `coordinator` decides who is a
member, who has which bucket, who trains which batch; it is a pure state machine that the first server runs.
`statements` checks what it is told, `member` and `epoch_batches` are parts of its state, `membership` is how members
talk to it.

May import: `errors`, `machine`, `kernels`, `network`, `memory`, `transport`, `compute`, `data`.
"""

"""Parameter servers: one set of weights for many machines (paper, sections 3.2.3 and 3.3).

A server: `bucket_map` says which server has which shard, `shard_table` holds its weights and applies updates once,
`persistence` is its snapshot on disk, `server` its loop, `traffic` what it counts,
`announcements` what it says, `serving` its process. A replica's side: `protocols` says what a layer costs on the wire
either way, `exchange` has the rounds, `deltas` and `cut` what goes in them, `synchronizer` is the process. The run:
`coordinator` decides who is a member, who has which bucket, who trains which batch, a pure state machine that the first
server runs; `statements` and `news` are what it is told and tells, `member` and `epoch_batches` are parts of its state, `membership` is
how members talk to it.

May import: `errors`, `machine`, `kernels`, `network`, `memory`, `transport`, `compute`, `data`.
"""

"""Parameter servers: one set of weights for many machines (paper, sections 3.2.3 and 3.3).

A server: `bucket_map` says which server has which shard, `shard_table` holds its weights and applies updates once,
`persistence` is its snapshot on disk, `server` answers messages about shards, `traffic` is what it counts, `loop` hands
out what arrives, `serving` is the process. A replica's side: `protocols` says what a layer costs on the wire,
`exchange` has the rounds, `flights` the questions on their way, `matrices`, `deltas` and `cut` what goes in them,
`synchronizer` is the process. The run: `coordinator` decides who is a member, who has which bucket, who trains which
batch, a pure state machine; `coordinator_service` is its endpoint beside the first server, `statements` and `news` are
what it is told and tells, `membership` is how members talk to it.

May import: `errors`, `machine`, `kernels`, `network`, `memory`, `transport`, `compute`, `data`.
"""

"""One parameter server: its shards, its answers, its snapshots, its process.

- `serving`: the process. `loop`: hands each message to the server or, in the first server, to the coordinator.
- `server`: answers messages about shards. `admission`: which of these it takes. `run_view`: what it knows of its run.
- `shard_table`: the weights, and updates applied to them once each.
- `answers`: answers that wait to be sent. `buffers`: memory for payloads on their way.
- `persistence`: the snapshot on disk. `traffic`: statistics for `status`. `server_memory`: how much memory it needs.
"""

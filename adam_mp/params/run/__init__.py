"""Who is a member of a run of many machines, which parameter server owns which bucket, and who trains which batch.

- `coordinator`: the state machine that decides all of this; its parts are `roster` (the members, each a `member`),
  `course` (epochs), `epoch_batches` (leases), `server_places`, `leadership`, `update_counts` and `listening`.
- `coordinator_service`: reads messages for the coordinator, answers them, and has its state written.
- `statements`: what members tell the coordinator. `news`: what the coordinator tells them.
- `run_facts`: what all replicas must agree on. `bucket_map`: which server has which shard.
- `membership`: a member's side of the exchange of messages with the coordinator.
- `replies`, `announcements`: answers to messages; lines that a parameter server shows its user.
- `silences`: notices to the user of a peer that does not answer.
"""

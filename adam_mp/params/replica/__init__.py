"""A replica's side: its synchronizer exchanges the local store's weights with the parameter servers.

- `synchronizer`: the process. `exchange`: a round of requests about all shards, and what their answers change.
- `flights`: the requests that are sent and not answered yet, and those that wait.
- `protocols`: whether a layer's updates go as deltas or as activations, chosen by bytes.
- `deltas`: a shard's delta in its encoding on the wire.
- `factors`: the activations and errors that workers leave in their outboxes for the synchronizer.
- `matrices`: which shards of a round go as activations. `cut`: the weights with the outboxes' updates and no others.
"""

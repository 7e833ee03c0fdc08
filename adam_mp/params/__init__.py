"""Parameter servers: one set of weights for many machines (paper, sections 3.2.3 and 3.3).

- `run/`: the coordinator, which decides who is a member, which server has which bucket and who trains which batch; the
  messages between it and the members; the bucket map.
- `server/`: one parameter server, which holds shards of the weights and applies the updates that replicas send.
- `replica/`: a replica's synchronizer, which exchanges the replica's weights with the servers.

May import: `errors`, `machine`, `kernels`, `network`, `memory`, `transport`, `compute`, `data`.
"""

"""The elected controller: etcd keeps the bucket map of a run and says which server is its coordinator.

- `place`: where etcd is, as the flags give it. `etcd`: a client of etcd.
- `record`: what etcd holds about a run.
- `keeper`: a server's side of it, decisions alone. `keeper_thread`: carries them out beside the server's thread.
- `state`: the coordinator's state in etcd, from which another server goes on.

Without it the first parameter server is the coordinator for the whole run (`params.run`).
"""

"""A run of many machines, as one replica sees it, and the batches that a machine trains, alone or as a replica.

`leases` is the interface by which the epoch's driver asks which batches are trained here, with the answers of a machine
alone. `shared_leases` has those of a replica: `leased_batches` decides what it asks for and reports, `news` keeps what
the coordinator said, `rounds` are those of the exchange of weights. `joining` joins a run, `launch` starts the parts of
`train --servers`, `launched` finds them.
"""

"""A model that is cut over machines: what the leader tells the other partitions, and the run of each of them.

task (what a partition must know of the run), gathering (the leader waits for the others), exchanging (a partition's
exchange of weights with parameter servers), following (the supervisor of a partition on its own machine).
"""

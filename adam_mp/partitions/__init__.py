"""Partitions of one model on several machines: what brings their values, and who speaks for whom.

Each machine has a supervisor, one member of the group and a courier. Two kinds of connections lead from machine to
machine, with the run's keys on both:

    courier ─── courier         every pair: values between layers, works, how far each member is (`courier`)
    leader  ─── partition       the supervisors: joining, weights to read and write, the end (`leader_side`, `own_side`)

Modules, each built on those above it:

    frames       the messages of both kinds: their fields and payloads
    courier      the process that brings the memory of a group up to date with those of the other machines
    spaces       tensors of which other machines have a part, read and written as one
    own_side     a partition's line to the leader
    leader_side  the leader's lines to all partitions

May import: `errors`, `machine`, `process`, `kernels`, `network`, `memory`, `transport`, `compute`, `params`.
"""

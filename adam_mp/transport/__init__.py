"""Messages between the parts of a run: one interface, three ways to carry them.

Read `messages` first: every message is a fixed header, checked before anything else, and raw bytes behind it; nothing
that comes from outside is unpickled. `endpoint` is the interface: send, receive with a deadline, close; queues are
bounded, so who cannot get rid of messages is told so and nothing piles up. `tcp` carries them between machines
(ZeroMQ), `local` between processes of one machine (a message's bytes stay where they are in shared memory), `sim`
in memory, late, lost, doubled and out of order as a seed says, for tests.

May import: `errors`, `machine`, `kernels`, `memory`.
"""

"""Messages between the parts of a run: one interface, and what carries them.

Read `messages` first: every message is a fixed header, checked before anything else, and raw bytes behind it; nothing
that comes from outside is unpickled. `endpoint` is the interface: send, receive with a deadline, close; queues are
bounded, so who cannot get rid of messages is told so and nothing piles up. `zeromq` carries them
between machines (TCP) and between processes of one user (socket files), `sim` in memory, late, lost, doubled and out of
order as a seed says, for tests. `local` is no endpoint: it hands arrays over between two processes, in shared memory.
`forms` has the fields of control messages.

May import: `errors`, `machine`, `kernels`, `memory`.
"""

"""Messages between the parts of a run: what they hold, one interface to send and receive them, and its transports.

Every message is a fixed header, which the receiver checks before anything else, and a payload of raw bytes. Nothing
that comes from the network is unpickled. All queues are bounded: when a peer's queue is full, `send` returns None, and
the sender decides what to do. Read `messages` first.

    messages      the header, the kinds of messages, encoding and decoding
    forms         the fields of control messages: reading, checking and writing their JSON
    refusal       the message REFUSED: why a message was not taken
    endpoint      the interface of all transports: send, receive with a deadline, close
    zeromq        the transport over TCP and over socket files: a listener and a dialer
    connections   watches the connections of a ZeroMQ socket, and ends dead ones
    sim           a simulated transport for tests: late, lost, doubled and reordered messages, drawn from a seed
    local         no transport: a queue of arrays in shared memory between two processes
    places        where a part of a run listens: an address or a socket file
    addresses     HOST:PORT, and the rule that without keys nothing leaves this machine
    socket_files  unix:FILE, sockets that only the processes of one user can reach
    keys          the key file of a run

May import: `errors`, `machine`, `process`, `kernels`, `network`, `memory`.
"""

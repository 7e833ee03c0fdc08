"""Serving: the processes that make pictures, for a run on this machine or for runs on other machines.

On the machine that trains:

    server            the data server: fills the rings of the workers with batches
    last_resort       pictures that other machines make; the data server makes them itself while no machine answers
    remote            asks data servers on other machines for pictures (--data-from)

On a machine that serves pictures (`adam-mp serve-data`):

    picture_service   the data server for other machines: takes requests, sends answers
    makers            its picture makers: starts them, gives them requests, replaces those that die
    picture_maker     one picture maker: a process that makes the answers
    answer_slots      the shared memory in which picture makers write answers

On both:

    picture_messages  what the two machines send each other
    blame             leaves a sample out when two processes have died while they decoded it
"""

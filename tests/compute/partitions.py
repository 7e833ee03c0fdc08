"""Partitions in one process: their programs run segment by segment, in an order that a test may choose."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

import numpy as np

from adam_mp.compute.choice import KernelChoices, likely_choices
from adam_mp.compute.context import Program, TrainingContext
from adam_mp.compute.mail import Mail
from adam_mp.network.network import Network
from adam_mp.network.part_layers import Message
from adam_mp.network.partition import PartitionPlan


class LoopMail:
    """Messages between partitions of one process: each has one array, that of sender and receiver."""

    def __init__(self, batch: int, real: type) -> None:
        self.batch, self.real = batch, real
        self.arrays: dict[Message, np.ndarray] = {}
        self.sent: set[Message] = set()

    def array(self, message: Message) -> np.ndarray:
        if message not in self.arrays:
            kind = np.float64 if message.is_sum else self.real
            self.arrays[message] = np.full(message.shape(self.batch), np.nan, kind)
        return self.arrays[message]

    def send(self, message: Message) -> None:
        assert message not in self.sent, f"{message} was sent twice"
        self.sent.add(message)

    def arrived(self, message: Message) -> bool:
        return message in self.sent


def segments(program: Program, mail: Mail):
    """Run a program; yield before each wait whose messages have not arrived."""
    for calls, waits in ((program.forward, program.forward_waits), (program.backward, program.backward_waits)):
        due = {wait.call: wait.messages for wait in waits}
        for number, (function, arguments) in enumerate(calls):
            while not all(mail.arrived(message) for message in due.get(number, ())):
                yield
            function(*arguments)


def run_together(
    programs: list[Program], mails: Sequence[Mail], seed: int = 0, between: Callable[[], object] = bool
) -> None:  # fmt: skip
    """Run the programs of all partitions to their end, in a random order; fail if none goes on for 20 seconds."""
    running = {part: segments(program, mails[part]) for part, program in enumerate(programs)}
    draw, deadline = random.Random(seed), time.monotonic() + 20
    while running:
        part = draw.choice(list(running))
        if next(running[part], "ended") == "ended":
            del running[part]
        between()
        assert time.monotonic() < deadline, "no partition can go on"


def part_of(plan: PartitionPlan, name: str, tensor: np.ndarray, part: int) -> np.ndarray:
    """The part of a parameter that a partition has."""
    if name not in plan.columns:
        return tensor
    columns = plan.columns[name][part]
    return np.ascontiguousarray(tensor[..., columns.begin : columns.end])


def gradients_of_parts(
    plan: PartitionPlan, weights: dict[str, np.ndarray], images: np.ndarray, labels: np.ndarray,
    real: type = np.float64, block: int | None = None, key: int = 0, seed: int = 0,
    mails: Sequence[Mail] = (), between: Callable[[], object] = bool,
) -> tuple[list[np.ndarray], list[float], dict[str, np.ndarray]]:  # fmt: skip
    """(scores of each partition, loss of each, gradients of the whole network) of a batch."""
    mails = mails or (LoopMail(len(images), real),) * plan.parts
    contexts, programs = [], []
    for part, graph in enumerate(plan.graphs):
        own = {name: part_of(plan, name, tensor, part).astype(real) for name, tensor in weights.items()}
        choices = likely_choices(graph)
        choices = choices if block is None else KernelChoices(block, choices.ways_back)
        context = TrainingContext(graph, own, len(images), real, choices, mail=mails[part])
        context.set_dropout_key(key)
        contexts.append(context)
        programs.append(context.program(images, labels))
    run_together(programs, mails, seed, between)
    gradients = {}
    for name in weights:
        each = [context.gradients[name] for context in contexts]
        if name in plan.columns:
            gradients[name] = np.concatenate(each, axis=-1)
        elif name in plan.summed:
            gradients[name] = np.sum(each, axis=0)
        else:
            for other in each[1:]:
                np.testing.assert_array_equal(each[0], other, name)
            gradients[name] = each[0]
    return [program.scores for program in programs], [float(p.totals[0]) for p in programs], gradients


def gradients_of_whole(network: Network, weights, images, labels, real: type = np.float64, block=None, key: int = 0):
    """(scores, loss, gradients) of one process that has the whole network."""
    choices = likely_choices(network)
    choices = choices if block is None else KernelChoices(block, choices.ways_back)
    own = {name: tensor.astype(real) for name, tensor in weights.items()}
    context = TrainingContext(network, own, len(images), real, choices)
    context.set_dropout_key(key)
    program = context.program(images, labels)
    program.run_forward()
    program.run_backward()
    return program.scores, float(program.totals[0]), context.gradients

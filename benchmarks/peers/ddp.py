"""PyTorch's DistributedDataParallel over Gloo on one machine, LeNet, random images: python -m benchmarks.peers.ddp"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from typing import Any

import torch
import torch.distributed as distributed
import torch.multiprocessing as multiprocessing
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from adam_mp.network.initialization import initial_weights
from benchmarks.peers.torch_net import LAYOUTS, torch_twin
from benchmarks.step import zoo_network

_WARM = 10


def train(rank: int, arguments: Any, meeting: str, rates: Any) -> None:
    """One process: steps with averaged gradients, timed after a few."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=arguments.processes)
    network = zoo_network("lenet")
    layout = LAYOUTS[arguments.layout]
    model = DistributedDataParallel(torch_twin(network, initial_weights(network, 1)).to(memory_format=layout))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loss_of = nn.CrossEntropyLoss()
    images, labels = (
        torch.rand(arguments.batch, 1, 28, 28).to(memory_format=layout),
        torch.randint(0, 10, (arguments.batch,)),
    )
    start = 0.0
    for step in range(arguments.steps + _WARM):
        if step == _WARM:
            start = time.perf_counter()
        optimizer.zero_grad()
        loss_of(model(images), labels).backward()
        optimizer.step()
    rates[rank] = arguments.steps * arguments.batch / (time.perf_counter() - start)
    distributed.destroy_process_group()


def main() -> None:
    """Print one JSON object with the images per second of all processes together."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--layout", choices=("channels_first", "channels_last"), default="channels_first")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    rates = context.Array("d", arguments.processes, lock=False)
    with tempfile.TemporaryDirectory() as folder:
        meeting = os.path.join(folder, "meeting")
        processes = [
            context.Process(target=train, args=(rank, arguments, meeting, rates), daemon=True)
            for rank in range(arguments.processes)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(300)
            process.kill()
    if not all(rates):
        raise SystemExit("a process ended before its last step")
    print(json.dumps({"images_per_second": sum(rates)}))


if __name__ == "__main__":
    main()

"""PyTorch's Hogwild recipe on LeNet and MNIST: processes on one shared model, each with its own SGD.

Written as PyTorch's example has it, and given every advantage: the images are in shared memory as normalised tensors
from the start, one thread a process, each process takes a part of the images instead of all, no restarts, either
memory layout.

    python -m benchmarks.peers.hogwild --processes 2 --seconds 5
    python -m benchmarks.peers.hogwild --processes 2 --target 0.99
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import torch
import torch.multiprocessing as multiprocessing
from torch import nn

from adam_mp.data.reading.loading import load_data
from adam_mp.network.initialization import initial_weights
from benchmarks.peers.torch_net import LAYOUTS, torch_twin
from benchmarks.step import zoo_network


def tensors(part: Any, mean: float, deviation: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images [n, 1, 28, 28], normalised, and labels, both in shared memory."""
    images = (part.images.astype(np.float32).transpose(0, 3, 1, 2) - mean) / deviation
    return (
        torch.from_numpy(np.ascontiguousarray(images)).share_memory_(),
        torch.from_numpy(part.labels.astype(np.int64)).share_memory_(),
    )


def train(rank: int, arguments: Any, model: nn.Module, images: Any, labels: Any, counts: Any, epoch: Any) -> None:
    """One process: an epoch over its part whenever `epoch` goes up, until it is negative."""
    torch.set_num_threads(1)
    torch.manual_seed(rank)
    optimizer = torch.optim.SGD(model.parameters(), lr=arguments.rate, momentum=arguments.momentum)
    loss_of = nn.CrossEntropyLoss()
    layout = LAYOUTS[arguments.layout]
    done = 0
    while epoch.value >= 0:
        if epoch.value == done:
            time.sleep(0.001)
            continue
        for rows in torch.randperm(len(images))[rank :: arguments.processes].split(arguments.batch):
            optimizer.zero_grad()
            loss_of(model(images[rows].to(memory_format=layout)), labels[rows]).backward()
            optimizer.step()
            counts[rank] += len(rows)
            if epoch.value < 0:
                return
        done += 1


def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of images that are classified rightly."""
    with torch.no_grad():
        right = sum(
            int((model(x).argmax(1) == y).sum()) for x, y in zip(images.split(500), labels.split(500), strict=True)
        )
    return right / len(images)


def main() -> None:
    """Print one JSON object: images per second, or epochs and seconds to the target accuracy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--momentum", type=float, default=0.5)
    parser.add_argument("--layout", choices=("channels_first", "channels_last"), default="channels_first")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--target", type=float, help="train until this test accuracy instead of for some seconds")
    parser.add_argument("--epochs", type=int, default=12, help="at most")
    arguments = parser.parse_args()
    began = time.perf_counter()
    torch.set_num_threads(1)
    network = zoo_network("lenet")
    model = torch_twin(network, initial_weights(network, 1)).to(memory_format=LAYOUTS[arguments.layout])
    model.share_memory()
    data = load_data("mnist")
    mean, deviation = float(data.train.images.mean()), float(data.train.images.std())
    images, labels = tensors(data.train, mean, deviation)
    assert data.test is not None
    test = tensors(data.test, mean, deviation)
    context = multiprocessing.get_context("spawn")
    counts, epoch = context.Array("l", arguments.processes, lock=False), context.Value("l", 0, lock=False)
    processes = [
        context.Process(target=train, args=(rank, arguments, model, images, labels, counts, epoch), daemon=True)
        for rank in range(arguments.processes)
    ]
    for process in processes:
        process.start()
    if arguments.target is None:
        epoch.value = 1_000_000
        result = _speed(arguments, counts)
    else:
        result = _time_to_target(arguments, model, test, len(images), counts, epoch, began)
    epoch.value = -1
    for process in processes:
        process.join(20)
        process.kill()
    if arguments.target is not None and result["accuracy"] < arguments.target:
        raise SystemExit(f"{result['accuracy']:.2%} after {arguments.epochs} epochs, not {arguments.target:.2%}")
    print(json.dumps(result))


def _speed(arguments: Any, counts: Any) -> dict[str, float]:
    while min(counts) < 20 * arguments.batch:
        time.sleep(0.005)
    before, start = sum(counts), time.perf_counter()
    time.sleep(arguments.seconds)
    return {"images_per_second": (sum(counts) - before) / (time.perf_counter() - start)}


def _time_to_target(arguments: Any, model: Any, test: Any, images: int, counts: Any, epoch: Any, began: float) -> Any:
    reached = 0.0
    for number in range(1, arguments.epochs + 1):
        epoch.value = number
        while sum(counts) < number * images:
            time.sleep(0.001)
        reached = accuracy(model, *test)
        if reached >= arguments.target:
            break
    return {"epochs": number, "seconds": time.perf_counter() - began, "accuracy": reached}


if __name__ == "__main__":
    main()

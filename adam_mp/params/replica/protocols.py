"""How a layer's updates reach the parameter servers, chosen by bytes (paper, section 3.3; Poseidon's rule).

For a dense layer with M inputs and N outputs, and `k` images between two exchanges:

- *deltas*: the replica sends the change of the weights, M*N numbers, and gets M*N numbers back.
- *activations*: the replica sends the layer's inputs and errors of these images, k*(M+N) numbers. The server multiplies
  them, and the replica gets M*N numbers back. This needs plain gradient descent: any other rule has optimizer state,
  which the servers do not have.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence

from adam_mp.errors import SettingsError, shown
from adam_mp.memory.layout import Layout
from adam_mp.network.layers import Dense
from adam_mp.network.network import Network
from adam_mp.params.replica.factors import fits_message
from adam_mp.proposals import nearest

PROTOCOLS = ("auto", "deltas", "activations")
DELTAS, ACTIVATIONS = "deltas", "activations"


@dataclasses.dataclass(frozen=True)
class LayerProtocol:
    """The chosen protocol of a layer, and the payload bytes of an exchange with either, both directions together.

    `activations_bytes` is None if the layer cannot use activations.
    """

    layer: str
    protocol: str
    deltas_bytes: int
    activations_bytes: int | None


def choose_protocols(
    network: Network, images: int, groups: int, wanted: str, plain_descent: bool, delta_number_bytes: int = 4,
    apart: Collection[str] = (),
) -> tuple[LayerProtocol, ...]:  # fmt: skip
    """Choose a protocol for each layer with parameters; `images` is k, `wanted` one of `PROTOCOLS`.

    `groups` of buckets count into the bytes: each needs all errors, but only the inputs of its own rows. A layer whose
    activations of `images` do not fit a message uses deltas, and so does one whose weight is `apart`: it has a learning
    rate of its own, and activations are sent with one rate for all layers. Raises SettingsError for an unknown name, or
    for activations with an optimizer that keeps state.
    """
    if wanted not in PROTOCOLS:
        raise SettingsError(f"--protocol is {shown(wanted)}; {nearest(wanted, PROTOCOLS)}")
    if wanted == ACTIVATIONS and not plain_descent:
        raise SettingsError(
            "--protocol activations needs --optimizer sgd: other rules keep state that the servers do not have; "
            "use --protocol deltas"
        )
    chosen = []
    for name, node, shape in zip(network.names, network.nodes, network.input_shapes, strict=True):
        sizes = node.layer.parameters(shape)
        if not sizes:
            continue
        numbers = sum(math.prod(size) for size in sizes.values())
        deltas, activations = (delta_number_bytes + 4) * numbers, None
        dense = isinstance(node.layer, Dense) and name in network.tail  # whose activations the worker keeps
        alike = dense and f"{name}.weight" not in apart
        if alike and plain_descent and fits_message(images, *sizes["weight"]):
            inputs, outputs = sizes["weight"]
            rest = (delta_number_bytes + 4) * (numbers - inputs * outputs)
            activations = 4 * images * (inputs + groups * outputs) + 4 * inputs * outputs + rest
        better = activations is not None and activations < deltas
        protocol = (
            ACTIVATIONS
            if activations is not None and (wanted == ACTIVATIONS or (wanted == "auto" and better))
            else DELTAS
        )
        chosen.append(LayerProtocol(name, protocol, deltas, activations))
    return tuple(chosen)


def factor_tensors(layout: Layout, protocols: Sequence[LayerProtocol]) -> tuple[int, ...]:
    """Return the indices in `layout.tensors` of the matrices whose updates go as activations, ascending."""
    names = {f"{each.layer}.weight" for each in protocols if each.protocol == ACTIVATIONS}
    return tuple(index for index, tensor in enumerate(layout.tensors) if tensor.name in names)

"""adam_mp: deep networks trained fast on CPUs, by many processes on one shared set of weights, without locks.

An implementation of Project Adam (Chilimbi, Suzue, Apacible, Kalyanaraman: OSDI 2014). It has nothing to do with the
optimizer of the same name (Kingma and Ba 2015), which it also offers.

    import adam_mp
    result = adam_mp.train("mnist", "mnist", cores=2, epochs=1)
    result.model.save("model.safetensors")
"""

from __future__ import annotations

from adam_mp.clash import named_clash

__version__ = "0.1.0"

with named_clash():
    import importlib
    from typing import TYPE_CHECKING, Any

    from adam_mp.errors import AdamError
    from adam_mp.proposals import LAYERS, bare

if TYPE_CHECKING:
    from adam_mp.api import train
    from adam_mp.compute.model import Model, load
    from adam_mp.data.reading.dataset import DataSet
    from adam_mp.data.reading.loading import load_data
    from adam_mp.data.reading.options import LoadOptions
    from adam_mp.network import (
        GELU,
        Add,
        AveragePool,
        BatchNorm,
        Concat,
        Conv,
        Dense,
        Dropout,
        Flatten,
        GlobalAveragePool,
        GroupNorm,
        HardSwish,
        LayerNorm,
        LeakyReLU,
        LocalResponseNorm,
        MaxPool,
        Multiply,
        Network,
        Node,
        ReLU,
        ReLU6,
        Residual,
        Sigmoid,
        SiLU,
        Softmax,
        SqueezeExcite,
        StochasticDepth,
        Tanh,
    )
    from adam_mp.training.settings.settings import TrainSettings
    from adam_mp.training.trainer import TrainResult

# Imported when first used: many of these modules import numba, for which `--help` need not wait a quarter of a second.
# All other public names are of `network`.
_LAZY = {
    "train": "adam_mp.api",
    "Model": "adam_mp.compute.model",
    "load": "adam_mp.compute.model",
    "DataSet": "adam_mp.data.reading.dataset",
    "load_data": "adam_mp.data.reading.loading",
    "LoadOptions": "adam_mp.data.reading.options",
    "TrainSettings": "adam_mp.training.settings.settings",
    "TrainResult": "adam_mp.training.trainer",
}

__all__ = [
    "AdamError",
    "Add",
    "AveragePool",
    "BatchNorm",
    "Concat",
    "Conv",
    "DataSet",
    "Dense",
    "Dropout",
    "Flatten",
    "GELU",
    "GlobalAveragePool",
    "GroupNorm",
    "HardSwish",
    "LayerNorm",
    "LeakyReLU",
    "LoadOptions",
    "LocalResponseNorm",
    "MaxPool",
    "Model",
    "Multiply",
    "Network",
    "Node",
    "ReLU",
    "ReLU6",
    "Residual",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "SqueezeExcite",
    "StochasticDepth",
    "Tanh",
    "TrainResult",
    "TrainSettings",
    "load",
    "load_data",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        with named_clash():
            return getattr(importlib.import_module(_LAZY.get(name, "adam_mp.network")), name)
    message = f"module 'adam_mp' has no attribute {name!r}"
    if (layer := LAYERS.get(bare(name))) is not None:
        from adam_mp.network.layers import KINDS

        message += f"; the layer of that meaning is {KINDS[layer].__name__}"
    raise AttributeError(message)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

"""Networks as text: TOML files that users write, JSON in model files, names and functions on the command line."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from adam_mp.errors import NetworkError, several, shown
from adam_mp.network.joins import Part
from adam_mp.network.layer import Shape
from adam_mp.network.network import Network
from adam_mp.network.tables import layer_from_dict, table_of
from adam_mp.network.zoo import ZOO
from adam_mp.proposals import nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_WEIGHT_FILES = (".safetensors", ".pt", ".pth", ".ckpt", ".h5", ".keras", ".onnx", ".npz", ".pkl", ".bin")
START_FROM_WEIGHTS = "A run cannot start from saved weights: it goes on with its own by --resume, or begins anew"
_MOST_NAMED = 10  # functions of a user's module that a message lists


def load_network(source: str | Path | Network | Sequence[Part], input_shape: Shape, classes: int) -> Network:
    """Make the network that `source` names, for images of `input_shape` `(height, width, channels)` and `classes`.

    `source` is a name from the zoo; a TOML file; `package.module:function`, which is called with input_shape and
    classes, and returns layers or a Network; a list of layers; or a Network, which must fit the data. Raises
    NetworkError.
    """
    if isinstance(source, Network):
        if type(source) is not Network:
            raise NetworkError(
                f"model is a {type(source).__name__}, a class that the processes of a run do not know; expected a "
                "Network, or a list of layers"
            )
        return _check_fit(source, input_shape, classes)
    if not isinstance(source, (str, Path, Sequence)) or isinstance(source, bytes):
        raise NetworkError(
            f"--model is {shown(source)}; expected a name, a file, a list of layers or a Network{_instead(source)}"
        )
    if not isinstance(source, (str, Path)):
        return Network.build(list(source), input_shape, classes)
    text = str(source)
    if text in ZOO:
        return Network.build(ZOO[text](input_shape, classes), input_shape, classes, text)
    if text.endswith(".toml"):
        layers, name = read_toml(Path(text))
        return Network.build(layers, input_shape, classes, name)
    if ":" in text:
        made = _call(_import_function(text), text, input_shape, classes)
        if isinstance(made, Network):
            return _check_fit(made, input_shape, classes)
        return Network.build(made, input_shape, classes, text)
    if os.path.lexists(text):
        raise NetworkError(
            f"--model {shown(text)} is {_what_is_there(Path(text))}; expected a name, a .toml file or "
            f"package.module:function{_weights(Path(text))}"
        )
    raise NetworkError(
        f"unknown model {shown(text)}; {nearest(text, ZOO)} (or give a .toml file or package.module:function)"
    )


def _instead(source: Any) -> str:
    """Return what to give instead of an object that is no model, if that is known."""
    if callable(source) and not isinstance(source, type):
        return ": give the layers that this returns, or its name as 'package.module:function'"
    if hasattr(source, "network"):
        return f": give model.network{_weights(source)}"
    return _weights(source)


def _what_is_there(path: Path) -> str:
    """Say what a path is that exists and names no network."""
    if path.is_dir():
        return "a run folder" if _has_model(path) else "a folder"
    return "a file of saved weights" if path.suffix in _WEIGHT_FILES else "a file without the ending .toml"


def _has_model(path: Path) -> bool:
    return any(path.glob("*.safetensors"))


def _weights(source: Any) -> str:
    """Return what to add about a source that holds trained weights: they cannot be started from."""
    if isinstance(source, Path):
        holds = source.suffix in _WEIGHT_FILES or _has_model(source)
        return f". {START_FROM_WEIGHTS}" if holds else ""
    return f". {START_FROM_WEIGHTS}" if hasattr(source, "predict") or hasattr(source, "state_dict") else ""


def read_toml(path: Path) -> tuple[list[Part], str]:
    """Return (layers, name) of a TOML file, which has a table in `layers` for each layer and may have a `name`.

    Without it the name is the file's, without its ending. Raises NetworkError.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise NetworkError(f"cannot read model file {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise NetworkError(f"model file {path} is not TOML: {error}") from None
    for key in table.keys() - {"name", "layers"}:
        raise NetworkError(f"model file {path}: unknown key {shown(key)}; {nearest(key, ['name', 'layers'])}")
    layers = table.get("layers")
    if not isinstance(layers, list) or not layers:
        raise NetworkError(f"model file {path} has no [[layers]]; write one table a layer, the last of type softmax")
    try:
        return [layer_from_dict(layer, i) for i, layer in enumerate(layers, 1)], str(table.get("name", path.stem))
    except NetworkError as error:
        raise NetworkError(f"model file {path}: {error}") from None


def to_json(network: Network) -> str:
    """Return a network as JSON text: name, input shape, and the table of every layer."""
    layers = [table_of(part) for part in network.layers]
    return json.dumps({"name": network.name, "input_shape": network.input_shape, "layers": layers})


def from_json(text: str) -> Network:
    """Rebuild a network from `to_json`; raises NetworkError if the text is not such a description."""
    try:
        table = json.loads(text)
        layers = tuple(layer_from_dict(layer, i) for i, layer in enumerate(table["layers"], 1))
        return Network(layers, tuple(table["input_shape"]), table["name"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise NetworkError(f"damaged network description: {error}") from None


def _check_fit(network: Network, input_shape: Shape, classes: int) -> Network:
    if network.input_shape != tuple(input_shape) or network.classes != classes:
        raise NetworkError(
            f"network {network.name!r} takes {network.input_shape} and has "
            f"{several(network.classes, 'class', 'classes')}, "
            f"but the data has {tuple(input_shape)} and {several(classes, 'class', 'classes')}"
        )
    return network


def _call(function: Callable[[Shape, int], Any], text: str, input_shape: Shape, classes: int) -> Network | list[Part]:
    """Call a user's function; any exception of it becomes a NetworkError that names the function."""
    try:
        made = function(input_shape, classes)
        return made if isinstance(made, Network) else list(made)
    except NetworkError:
        raise
    except Exception as error:
        raise NetworkError(
            f"model {shown(text)}, called with {input_shape} and {classes}, raised {type(error).__name__}: {error}; "
            "expected it to return layers or a Network"
        ) from error


def _import_function(text: str) -> Callable[[Shape, int], Any]:
    module_name, _, function_name = text.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # only now, for a module that was named; last, so that it hides no other module
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise NetworkError(
            f"cannot import {shown(module_name)} for model {shown(text)}: {type(error).__name__}: {error}"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        names = _functions(module)
        others = f"; {nearest(function_name, names, _MOST_NAMED)}" if names else ", nor any other"
        raise NetworkError(f"module {shown(module_name)} has no function {shown(function_name)}{others}")
    return function  # type: ignore[no-any-return]


def _functions(module: ModuleType) -> list[str]:
    """Return the names of a module's public functions and classes, without those imported from other packages."""
    package = module.__name__.partition(".")[0]
    public = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
    return [n for n in public if str(getattr(vars(module)[n], "__module__", "")).partition(".")[0] == package]

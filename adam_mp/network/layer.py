"""What every layer has. A layer is a frozen dataclass: its fields describe it completely, and it owns no arrays.

A shape is that of one image: `(height, width, channels)`, or `(features,)` for flat values. From its input shape each
layer tells its output shape, its parameters, and its connections: the multiply-adds of one forward pass of one image.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

from adam_mp.errors import NetworkError, shown
from adam_mp.proposals import LAYER_SETTINGS, bare, nearest

if TYPE_CHECKING:
    from typing_extensions import Self

Shape = tuple[int, ...]
UNWRITTEN = {"unwritten": True}  # metadata of a field that texts leave out while it has its default
INITS = ("auto", "he", "glorot", "identity", "zero")  # first weights, see `initialization`
WHITEN = "whiten"  # of convolutions that read images
_LARGEST = 10**9
_FROM_BEFORE = ("inchannels", "infeatures", "inputshape", "inputdim", "inputsize", "numfeatures")


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer of a network. A child class overrides the methods unless it keeps the shape and has no parameters."""

    kind: ClassVar[str]
    batchwise: ClassVar[bool] = False  # whether an image's output depends on the whole batch, or on other processes

    def __new__(cls, *_: Any, **settings: Any) -> Self:
        """Raise NetworkError for a keyword that the layer does not have."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in settings:
            if name not in known:
                raise NetworkError(unknown_setting(cls, name))
        return super().__new__(cls)

    def output_shape(self, shape: Shape) -> Shape:
        """Return the output shape for input `shape`; raises NetworkError, without the layer's name, if none fits."""
        return shape

    def parameters(self, shape: Shape) -> dict[str, Shape]:
        """Return name -> shape of the layer's parameters for input `shape`."""
        return {}

    def first(self, parameter: str, ends_branch: bool) -> float:
        """Return the first value of a parameter that has one axis, such as a bias.

        `ends_branch` is whether the layer is the last one in the layers of a residual.
        """
        return 0.0

    def statistics(self, shape: Shape) -> dict[str, Shape]:
        """Return name -> shape of what the layer knows of the training images, for input `shape`; not trained."""
        return {}

    def connections(self, shape: Shape) -> int:
        """Return the multiply-adds of one forward pass of one image of `shape`."""
        return 0

    def settings(self) -> dict[str, Any]:
        """Return name -> value of the fields, as texts have them.

        A field that came with a later version is left out while it has its default: so the texts of networks that do
        not use it stay as they were.
        """
        values = {field: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {f.name: v for f, v in values.items() if not ("unwritten" in f.metadata and v == f.default)}


def unknown_setting(kind: type[Layer], name: str) -> str:
    """Return the message about a setting that a kind of layer does not have."""
    known = [field.name for field in dataclasses.fields(kind)]
    bare_name = bare(name)
    if bare_name in _FROM_BEFORE:
        return f"{kind.kind} has no setting {shown(name)}; it takes what the layer before gives"
    if bare_name == "activation":
        return f"{kind.kind} has no setting {shown(name)}; an activation is a layer of its own, such as ReLU"
    listed = nearest(name, known, of_others=LAYER_SETTINGS) if known else "it has none"
    return f"{kind.kind} has no setting {shown(name)}; {listed}"


def check_positive(layer: Layer, **values: Any) -> None:
    """Raise NetworkError unless the settings are whole numbers of at least 1."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise NetworkError(f"{layer.kind}: {name} is {shown(value)}; expected a whole number of at least 1")
        if value > _LARGEST:
            raise NetworkError(f"{layer.kind}: {name} is {shown(value)}; expected at most {_LARGEST:,}")


def check_flag(layer: Layer, **values: Any) -> None:
    """Raise NetworkError unless the settings are True or False."""
    for name, value in values.items():
        if not isinstance(value, bool):
            raise NetworkError(f"{layer.kind}: {name} is {shown(value)}; expected true or false")


def check_init(layer: Layer, init: str, *more: str) -> None:
    """Raise NetworkError unless `init` is one of `INITS` or of `more`."""
    known = (*INITS, *more)
    if init not in known:
        raise NetworkError(f"{layer.kind}: init is {shown(init)}; {nearest(str(init), known)}")


def check_image(shape: Shape) -> None:
    """Raise NetworkError, without the layer's name, unless `shape` is that of an image."""
    if len(shape) != 3:
        raise NetworkError(f"takes images (height, width, channels), but gets {shape}")

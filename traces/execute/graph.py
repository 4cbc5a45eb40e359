"""Graph: a network as a list of operations on maps, with everything folded that can be; what `execute` runs.

A *value* is what one operation hands to the next, known by its number. Most values are maps: [channels, rows, cols] of
one frame in float32. Every operation but `TorchCall` maps maps to maps position by position, so that from the positions
whose input changed follow those whose output may change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from skipsim.traces.layer import Layer

ACTIVATIONS = ("none", "relu", "silu", "sigmoid")


@dataclass(frozen=True)
class MapShape:
    """Size of a map; `pixels` positions of `channels` values."""

    channels: int
    rows: int
    cols: int

    @property
    def pixels(self) -> int:
        """Return the number of positions."""
        return self.rows * self.cols

    @property
    def elements(self) -> int:
        """Return the number of values."""
        return self.channels * self.rows * self.cols


@dataclass(frozen=True, eq=False)
class Convolution:
    """act(weight * source + bias): a convolution with its batch normalisation folded in and its activation fused.

    `layer` is the geometry, with the name and call by which traces know it. `gateable` says whether `convert` would put
    a gate on it (a plain nn.Conv2d). `padding` are the rows and columns of zeros (top, bottom, left, right), `absorbed`
    those of them that a padding before the convolution has made.
    """

    layer: Layer
    source: int
    output: int
    weight: Tensor
    bias: Tensor
    padding: tuple[int, int, int, int]
    activation: str = "none"
    gateable: bool = True
    absorbed: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def name(self) -> str:
        """Return the layer's name, with the call where a module runs several times per frame."""
        return self.layer.name if self.layer.call == 0 else f"{self.layer.name}@{self.layer.call}"

    @property
    def sources(self) -> tuple[int, ...]:
        """Return the values that are read."""
        return (self.source,)


@dataclass(frozen=True, eq=False)
class Sum:
    """act(sum_k scale_k * source_k[row // row_factor_k, col // col_factor_k]): additions with nearest upsampling.

    With one source it is an upsampling, a scaling or an activation alone.
    """

    name: str
    sources: tuple[int, ...]
    output: int
    scales: tuple[float, ...]
    factors: tuple[tuple[int, int], ...]
    activation: str = "none"


@dataclass(frozen=True, eq=False)
class Affine:
    """act(scale * source + shift), one scale and shift per channel."""

    name: str
    source: int
    output: int
    scale: Tensor
    shift: Tensor
    activation: str = "none"

    @property
    def sources(self) -> tuple[int, ...]:
        """Return the values that are read."""
        return (self.source,)


@dataclass(frozen=True, eq=False)
class ChannelScale:
    """source * vector, where the vector is a map of one position: the end of squeeze and excitation."""

    name: str
    source: int
    vector: int
    output: int

    @property
    def sources(self) -> tuple[int, ...]:
        """Return the values that are read."""
        return (self.source, self.vector)


@dataclass(frozen=True, eq=False)
class GlobalMean:
    """The mean over all positions: a map of one position."""

    name: str
    source: int
    output: int

    @property
    def sources(self) -> tuple[int, ...]:
        """Return the values that are read."""
        return (self.source,)


@dataclass(frozen=True, eq=False)
class Pool:
    """Maximum ("max") or mean ("average") over windows; padding (top, bottom, left, right) never counts."""

    name: str
    source: int
    output: int
    kind: str
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def sources(self) -> tuple[int, ...]:
        """Return the values that are read."""
        return (self.source,)


@dataclass(frozen=True, eq=False)
class Pad:
    """Rows and columns of one value around a map: (top, bottom, left, right)."""

    name: str
    source: int
    output: int
    padding: tuple[int, int, int, int]
    value: float

    @property
    def sources(self) -> tuple[int, ...]:
        """Return the values that are read."""
        return (self.source,)


@dataclass(frozen=True, eq=False)
class Resize:
    """Bilinear interpolation; `align_corners` and the scales (0: from the sizes) are those of torch."""

    name: str
    source: int
    output: int
    align_corners: bool
    scales: tuple[float, float]

    @property
    def sources(self) -> tuple[int, ...]:
        """Return the values that are read."""
        return (self.source,)


@dataclass(frozen=True, eq=False)
class Concatenate:
    """Sources one after the other along the channels."""

    name: str
    sources: tuple[int, ...]
    output: int


@dataclass(frozen=True, eq=False)
class TorchCall:
    """Anything else: a function of torch on whole tensors. `arguments` holds `Reference` in the place of values."""

    name: str
    sources: tuple[int, ...]
    output: int
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: dict[str, Any]


@dataclass(frozen=True)
class Reference:
    """A value's place in the arguments of a TorchCall."""

    value: int


Operation = Convolution | Sum | Affine | ChannelScale | GlobalMean | Pool | Pad | Resize | Concatenate | TorchCall


@dataclass(frozen=True, eq=False)
class Graph:
    """Operations in the order in which they run, and what goes in and out.

    Attributes:
        operations: every value is written by one operation, or is an input.
        shapes: size of every value that is a map.
        inputs: the values that the caller gives.
        outputs: what the caller gets, in the order of `structure`'s leaves: references to values, or constants.
        structure: how the network arranges its outputs.
    """

    operations: tuple[Operation, ...]
    shapes: dict[int, MapShape]
    inputs: tuple[int, ...]
    outputs: tuple[Any, ...]
    structure: pytree.TreeSpec

    @property
    def returned(self) -> tuple[int, ...]:
        """Return the values that the caller gets."""
        return tuple(leaf.value for leaf in self.outputs if isinstance(leaf, Reference))

    @property
    def convolutions(self) -> tuple[Convolution, ...]:
        """Return the convolutions in the order in which they run."""
        return tuple(operation for operation in self.operations if isinstance(operation, Convolution))

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """Return the names of the operations that torch computes on whole maps because no sparse form is known."""
        return tuple(operation.name for operation in self.operations if isinstance(operation, TorchCall))

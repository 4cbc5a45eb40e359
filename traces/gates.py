"""Gates: decide from a layer's residual which blocks of output positions are computed and which are skipped.

A gate is any object with the attributes and methods of `Gate`. Those that need no training live here, the trained one
in gumbel.py; GATES names those that are made from numbers alone.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import Any, ClassVar, Protocol, Self, final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from skipsim.errors import InputError, nearest
from skipsim.traces.layer import Layer
from skipsim.traces.per_layer import value_for, values_of
from skipsim.traces.receptive_field import ReceptiveField

BlockShape = int | tuple[int, int]


class Gate(Protocol):
    """What a gate must offer; users bring their own class of this shape with `kind = "mask"`."""

    kind: ClassVar[str]  # one of layer.GATE_KINDS

    @property
    def block_shape(self) -> tuple[int, int]:
        """Output pixels (rows, cols) that share one decision."""

    def for_layer(self, layer: Layer) -> Gate | None:
        """Return the gate of one layer, None = compute it densely.

        This is the one place where thresholds and blocks may differ between layers.
        """

    def mask(self, residual: Tensor, conv: nn.Conv2d) -> Tensor:
        """Map the residual [1, in_channels, rows, cols] to decisions, bool [grid_rows, grid_cols]; True = computed."""

    def parameters(self) -> dict[str, Any]:
        """Return the gate's parameters as JSON data, for the trace's origin."""


def is_gate(value: Any) -> bool:
    """Tell whether a value has all that a gate must offer, without asking it for anything."""
    parts = ("kind", "block_shape", "for_layer", "mask", "parameters")
    return all(hasattr(type(value), part) or part in getattr(value, "__dict__", {}) for part in parts)


def block_shape(block: BlockShape) -> tuple[int, int]:
    """Return a block given as one number or as a (rows, cols) pair as a pair; anything else is an InputError."""
    pair = tuple(block) if isinstance(block, tuple | list) else (block, block)
    if len(pair) != 2 or any(isinstance(side, bool) or not isinstance(side, Integral) or side < 1 for side in pair):
        raise InputError(f"gate: block must be a whole number >= 1 or a pair (rows, cols) of them, got {block!r}")
    return int(pair[0]), int(pair[1])


def coarsen(values: Tensor, block: tuple[int, int]) -> Tensor:
    """Take the maximum of a map [rows, cols] over every block, clipped at the edges: [ceil(rows/bh), ceil(cols/bw)]."""
    rows, cols = values.shape
    sides = (min(block[0], rows), min(block[1], cols))
    if sides == (1, 1):
        return values
    return functional.max_pool2d(values[None], sides, ceil_mode=True)[0]


def refine(mask: Tensor, block: tuple[int, int], rows: int, cols: int) -> Tensor:
    """Repeat every decision over its block's pixels: bool [rows, cols]."""
    if block[0] > 1:
        mask = mask.repeat_interleave(block[0], 0)[:rows]
    if block[1] > 1:
        mask = mask.repeat_interleave(block[1], 1)[:, :cols]
    return mask


def grid_mask(value: Any, layer: Layer) -> Tensor:
    """Check a mask that the user's own code made, and return it as bool [grid_rows, grid_cols].

    It may have one entry per output pixel (a block is computed if any of its pixels is) or one per block, be a tensor
    or an array, bool or numbers 0 and 1, and have leading axes of length 1.
    """
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(
            f"layer {layer.name!r}: mask must be a tensor or an array of True and False, got {value!r}"
        ) from None
    while tensor.dim() > 2 and tensor.shape[0] == 1:
        tensor = tensor[0]
    pixels, grid = (layer.out_rows, layer.out_cols), (layer.grid_rows, layer.grid_cols)
    if tuple(tensor.shape) not in (pixels, grid):
        raise InputError(
            f"layer {layer.name!r}: mask must have one entry per output pixel {list(pixels)} or per "
            f"{layer.block_rows}x{layer.block_cols} block {list(grid)}, got shape {list(torch.as_tensor(value).shape)}"
        )
    if tensor.dtype != torch.bool:
        if not bool(((tensor == 0) | (tensor == 1)).all()):
            raise InputError(f"layer {layer.name!r}: mask must hold True and False, or 1 and 0, got other values")
        tensor = tensor == 1
    if tuple(tensor.shape) == grid:
        return tensor
    return coarsen(tensor.to(torch.uint8).float(), (layer.block_rows, layer.block_cols)) > 0


@dataclass(frozen=True)
class NormGate(ABC):
    """Compute a block where a norm of the change is above `threshold`: what both norm gates have in common.

    Args:
        threshold: change below which a block is skipped, >= 0; one for all layers, or a table (see per_layer.py), in
            which None leaves a layer dense.
        block: output pixels that share one decision: one number, or a pair (rows, cols), or a table of them.
    """

    threshold: float | Mapping[str, float | None]
    block: BlockShape | Mapping[str, BlockShape] = 1
    kind: ClassVar[str]

    def __post_init__(self) -> None:
        """Check the parameters once."""
        thresholds: list[Any] = values_of(self.threshold)
        for threshold in thresholds:
            if threshold is None and isinstance(self.threshold, Mapping):
                continue  # dense
            number = isinstance(threshold, Real) and not isinstance(threshold, bool)
            if not number or not math.isfinite(threshold) or threshold < 0:
                raise InputError(f"gate {self.kind!r}: threshold must be a finite number >= 0, got {threshold!r}")
        check_blocks(self.block)

    @property
    def block_shape(self) -> tuple[int, int]:
        """Output pixels (rows, cols) that share one decision."""
        return one_block(self)

    def for_layer(self, layer: Layer) -> Self | None:
        """Return the gate of one layer, with one threshold and one block; None where the table leaves it dense."""
        if not isinstance(self.threshold, Mapping) and not isinstance(self.block, Mapping):
            return self
        where = f"gate {self.kind!r}"
        threshold: float | None = value_for(self.threshold, layer, f"{where}: threshold")
        if threshold is None:
            return None
        block: BlockShape = value_for(self.block, layer, f"{where}: block")
        return replace(self, threshold=threshold, block=block)

    @torch.no_grad()
    def mask(self, residual: Tensor, conv: nn.Conv2d) -> Tensor:
        """Map the residual [1, in_channels, rows, cols] to the decisions, bool [grid_rows, grid_cols]."""
        return self.norms(residual, conv) > one_threshold(self)

    @abstractmethod
    def norms(self, residual: Tensor, conv: nn.Conv2d) -> Tensor:
        """Map the residual to what is compared with the threshold, float [grid_rows, grid_cols]."""

    def parameters(self) -> dict[str, Any]:
        """Return the parameters as JSON data."""
        given = self.threshold
        threshold = dict(given) if isinstance(given, Mapping) else float(given)
        return {"threshold": threshold, "block": block_parameters(self.block)}


@final
@dataclass(frozen=True)
class InputNormGate(NormGate):
    """Compute a block where the input changed by more than `threshold`.

    A position is on if the mean of |x_t - x_ref| over its receptive field (the taps on the map, all input channels of
    the layer) is strictly above the threshold; a block is on if any of its positions is. So threshold 0 skips unchanged
    positions only. The threshold is in units of the layer's input; resolution, kernel and channels do not change its
    meaning. Arguments as of every norm gate (`NormGate`).
    """

    kind: ClassVar[str] = "input_norm"

    @torch.no_grad()
    def norms(self, residual: Tensor, conv: nn.Conv2d) -> Tensor:
        """Map the residual to what is compared with the threshold, float [grid_rows, grid_cols]."""
        return coarsen(residual_norm(residual, conv), self.block_shape)


@final
@dataclass(frozen=True)
class OutputNormGate(NormGate):
    """Compute a block where the change of the input may change the output by more than `threshold`.

    The input-norm gate's mean times the norm of the weights: the mean over output channels of the filter's L1 norm.
    Arguments as of every norm gate (`NormGate`).
    """

    kind: ClassVar[str] = "output_norm"

    @torch.no_grad()
    def norms(self, residual: Tensor, conv: nn.Conv2d) -> Tensor:
        """Map the residual to what is compared with the threshold, float [grid_rows, grid_cols]."""
        return coarsen(residual_norm(residual, conv) * weight_norm(conv), self.block_shape)


@dataclass(frozen=True)
class HoldGate:
    """Compute nothing: every result is held until the next reference frame.

    With `reset_every=n` that is the cheapest of all tricks, running the network on every n-th frame only, recorded on
    the same axes as the gates.
    """

    block: BlockShape = 1
    kind: ClassVar[str] = "hold"

    def __post_init__(self) -> None:
        """Check the block once."""
        block_shape(self.block)

    @property
    def block_shape(self) -> tuple[int, int]:
        """Output pixels (rows, cols) that share one decision."""
        return block_shape(self.block)

    def for_layer(self, layer: Layer) -> HoldGate:
        """Return the gate of one layer: this one, for every layer."""
        return self

    def mask(self, residual: Tensor, conv: nn.Conv2d) -> Tensor:
        """Return False for every block, bool [grid_rows, grid_cols]."""
        field = ReceptiveField.of(conv, residual.shape[-2], residual.shape[-1])
        rows, cols = (-(-side // block) for side, block in zip(field.out_size, self.block_shape, strict=True))
        return torch.zeros((rows, cols), dtype=torch.bool, device=residual.device)

    def parameters(self) -> dict[str, Any]:
        """Return the parameters as JSON data."""
        return {"block": list(self.block_shape)}


GATES: dict[str, Callable[..., Gate]] = {
    "input_norm": InputNormGate,
    "output_norm": OutputNormGate,
    "hold": HoldGate,
}


def shared_block(gate: Any, layer: Layer) -> tuple[int, int]:
    """Return the block of a layer that goes by another layer's mask."""
    own: Gate | None = gate.for_layer(layer)
    if own is not None:
        return own.block_shape
    return block_shape(value_for(gate.block, layer, f"gate {gate.kind!r}: block"))


def make_gate(kind: str, **parameters: Any) -> Gate:
    """Make a gate from its name in GATES; an unknown name or parameter is an InputError that says which are known."""
    if kind not in GATES:
        raise InputError(f"gate {kind!r} is unknown; {nearest(kind, GATES)}")
    maker = GATES[kind]
    known = [field.name for field in fields(maker)]  # type: ignore[arg-type]  # the gates here are dataclasses
    for name in parameters:
        if name not in known:
            raise InputError(f"gate {kind!r}: unknown parameter {name!r}; {nearest(name, known)}")
    if "threshold" in known and "threshold" not in parameters:
        raise InputError(f"gate {kind!r}: threshold is missing; a number >= 0 such as 0.02, or a table by layer")
    return maker(**parameters)


def residual_norm(residual: Tensor, conv: nn.Conv2d) -> Tensor:
    """Return the mean of |residual| over each output position's receptive field: [out_rows, out_cols].

    The mean over channels is taken once per pixel, then summed over the taps, which costs one addition per tap.
    Half-precision residuals are averaged in float32.
    """
    precision = torch.float64 if residual.dtype == torch.float64 else torch.float32
    per_pixel = residual.abs().mean(dim=-3, dtype=precision).reshape(residual.shape[-2:])
    return ReceptiveField.of(conv, residual.shape[-2], residual.shape[-1]).mean(per_pixel)


_weight_norms: WeakKeyDictionary[nn.Conv2d, tuple[tuple[int, int], float]] = WeakKeyDictionary()


def weight_norm(conv: nn.Conv2d) -> float:
    """Return the mean over output channels of the L1 norm of the filters; remembered until the weights change."""
    weight = conv.weight
    changeable = not isinstance(weight, nn.Parameter) or weight.is_inference()  # no version to recognise them by
    version = (0, 0) if changeable else (weight.data_ptr(), weight._version)
    if not changeable and conv in _weight_norms and _weight_norms[conv][0] == version:
        return _weight_norms[conv][1]
    norm = float(weight.detach().abs().sum(dtype=torch.float64)) / conv.out_channels
    if not changeable:
        _weight_norms[conv] = (version, norm)
    return norm


def one_block(gate: Any) -> tuple[int, int]:
    """Return the block of a gate that has one for all layers; InputError where a table gives them by layer."""
    if isinstance(gate.block, Mapping):
        raise InputError(f"gate {gate.kind!r}: its block differs between layers; ask the gate of a layer (for_layer)")
    return block_shape(gate.block)


def one_threshold(gate: Any) -> float:
    """Return the threshold of a gate that has one for all layers; InputError where a table gives them by layer."""
    if isinstance(gate.threshold, Mapping):
        raise InputError(
            f"gate {gate.kind!r}: its threshold differs between layers; ask the gate of a layer (for_layer)"
        )
    return float(gate.threshold)


def check_blocks(block: BlockShape | Mapping[str, BlockShape]) -> None:
    """Check a gate's block, or every block of its table."""
    blocks: list[Any] = values_of(block)
    for one in blocks:
        block_shape(one)


def block_parameters(block: BlockShape | Mapping[str, BlockShape]) -> Any:
    """Return a gate's block, or its table of blocks, as JSON data."""
    if isinstance(block, Mapping):
        return {key: list(block_shape(value)) for key, value in block.items()}
    return list(block_shape(block))

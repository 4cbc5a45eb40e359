"""Shared gates: which layers of a network go by one gate, and how its mask is carried on from layer to layer.

- `layer`: every layer has a gate of its own.
- `block`: in every block, the first convolution decides, and each later one computes every position that reads a
  computed position of the one before: the mask is dilated through the block. What follows the gate is thus exact, given
  what the first layer computed; sharing saves gates and adds no error. A block is an innermost module with two
  convolutions or more (a residual or inverted-residual block, a separable convolution, a chain in a Sequential).
- `network`: the first convolution of the network decides from the change of the frame itself, and its mask is brought
  to every other map's size (a cell is on if any pixel in it is) and dilated by the layer's own kernel. What moves
  further than one layer's kernel sees is missed: that is the price of looking at the input only.

A block's layer that does not read the layer before it, as far as sizes tell (a projection beside the block, squeeze and
excitation on a 1x1 map), has a gate of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from skipsim.traces.layer import Layer
from skipsim.traces.receptive_field import ReceptiveField

_CONTAINERS = (nn.ModuleList, nn.ModuleDict)


class GateGroup:
    """Layers that share the gate of the first of them to run; holds the mask that was last decided or carried on.

    Attributes:
        share: "block" or "network".
        leader: name of the layer whose gate decides; None before the first frame.
    """

    def __init__(self, share: str) -> None:
        self.share = share
        self.leader: str | None = None
        self._before: Layer | None = None  # the member that ran last, while calls are told apart on the first frame
        self._pixels: Tensor | None = None

    def forget(self) -> None:
        """Forget who leads: the next frame is the first of a clip."""
        self.leader = self._before = self._pixels = None

    def joins(self, layer: Layer) -> bool:
        """Tell whether a call goes by this group's mask; asked once per call, in call order, on the first frame."""
        if self.leader is None:
            self.leader, self._before = layer.name, layer
            return False
        if self.share == "network":
            return True
        leads = layer.name == self.leader
        follows = not leads and self._before is not None and _reads(self._before, layer)
        if leads or follows:
            self._before = layer
        return follows

    def decide(self, pixels: Tensor) -> None:
        """Note what the leader computes on this frame: bool [out_rows, out_cols]."""
        self._pixels = pixels

    def carry_on(self, field: ReceptiveField) -> Tensor:
        """Return the positions of the next layer, bool [out_rows, out_cols], that read something computed."""
        assert self._pixels is not None  # the leader ran before
        if self.share == "network":
            return field.readers(resized(self._pixels, field.rows, field.cols))
        self._pixels = field.readers(self._pixels)
        return self._pixels


def resized(pixels: Tensor, rows: int, cols: int) -> Tensor:
    """Bring a mask to another map's size; a cell is on if any pixel that lies in it is."""
    if pixels.shape == (rows, cols):
        return pixels
    return functional.adaptive_max_pool2d(pixels[None, None].float(), (rows, cols))[0, 0] > 0


def groups_of(model: nn.Module, share: str) -> dict[str, GateGroup]:
    """Return the group of every convolution that may be in one, by layer name."""
    return _MAKERS[share](model)


def _network(model: nn.Module) -> dict[str, GateGroup]:
    group = GateGroup("network")
    return {name: group for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}


def _blocks(model: nn.Module) -> dict[str, GateGroup]:
    groups: dict[str, GateGroup] = {}
    for prefix, module in model.named_modules():
        if not isinstance(module, _CONTAINERS) and _innermost(module):
            group = GateGroup("block")
            inner = module.named_modules(prefix=prefix)
            groups |= {name: group for name, part in inner if isinstance(part, nn.Conv2d)}
    return groups


_MAKERS: dict[str, Callable[[nn.Module], dict[str, GateGroup]]] = {
    "layer": lambda model: {},
    "block": _blocks,
    "network": _network,
}
SHARES = tuple(_MAKERS)


def _innermost(module: nn.Module) -> bool:
    """Whether a module has two convolutions or more, and no module inside it that runs as a whole has."""
    parts = [part for part in module.modules() if part is not module and not isinstance(part, _CONTAINERS)]
    return _convolutions(module) > 1 and all(_convolutions(part) < 2 for part in parts)


def _convolutions(module: nn.Module) -> int:
    return sum(isinstance(inner, nn.Conv2d) for inner in module.modules())


def _reads(before: Layer, layer: Layer) -> bool:
    """Whether a layer reads what the one before it wrote, as far as sizes tell."""
    return (before.out_channels, before.out_rows, before.out_cols) == (layer.in_channels, layer.in_rows, layer.in_cols)


def batch_readers(pixels: Tensor, field: ReceptiveField) -> Tensor:
    """Carry masks with gradients [N, 1, rows, cols], 0..1, on through a layer: [N, 1, out_rows, out_cols]."""
    if field.pointwise:
        return pixels
    padded = functional.pad(pixels, (field.left, field.right, field.top, field.bottom))
    return functional.max_pool2d(padded, field.kernel, field.stride, dilation=field.dilation)


def settled_batch(computed: Tensor, field: ReceptiveField) -> Tensor:
    """Return the settled input pixels of every sequence: bool [N, 1, out_rows, out_cols] to [N, 1, rows, cols]."""
    return torch.stack([field.settled(one[0])[None] for one in computed])

"""What skipping costs a task, layer by layer: the damage of every norm gate as a function of its threshold.

A block that is skipped leaves an error e = z_t - z in the layer's output. To first order it moves the task's loss by
g . e, where g is the loss' gradient at that output. The *damage* of a block is (g . e)^2: errors of different blocks
and layers have either sign, so that their squares add up and they themselves do not. Both are seen on labelled clips
while a gated network runs on them: the gradient from the dense network on the same frame, the error from the gate's own
residual.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from skipsim.traces.gates import NormGate, one_threshold
from skipsim.traces.layer import Layer

# Thresholds that are told apart: from a ten-thousandth up, each an eighth above the one before.
EDGES = torch.tensor([0.0, *(1e-4 * 1.125**step for step in range(120))])

Gradients = dict[tuple[str, int], Tensor]


@dataclass
class Curve:
    """What the gate of one layer would save and harm with each of the thresholds EDGES, summed over frames.

    Attributes:
        layer: geometry, block and gate kind of the call.
        pixels: by norm, output pixels in blocks whose norm lies above edge i, at most at edge i + 1.
        damage: by norm, the damage of skipping these blocks.
        frames: how many were seen.
    """

    layer: Layer
    pixels: Tensor = field(default_factory=lambda: torch.zeros(len(EDGES) + 1, dtype=torch.float64))
    damage: Tensor = field(default_factory=lambda: torch.zeros(len(EDGES) + 1, dtype=torch.float64))
    frames: int = 0

    def add(self, norms: Tensor, damage: Tensor, pixels: Tensor) -> None:
        """Note the blocks of one frame, each a map [grid_rows, grid_cols]."""
        place = torch.bucketize(norms.float().reshape(-1), EDGES)
        for total, values in ((self.pixels, pixels), (self.damage, damage)):
            total += torch.bincount(place, values.double().reshape(-1), minlength=len(EDGES) + 1)
        self.frames += 1

    def computed(self) -> Tensor:
        """Return the MACs of a frame, the gate's included, with each of EDGES as threshold."""
        above = self.pixels.flip(0).cumsum(0).flip(0)[1:]
        return above * self.layer.macs_per_pixel / self.frames + self.layer.gate_macs

    def harm(self) -> Tensor:
        """Return the damage on a frame with each of EDGES as threshold."""
        return self.damage.cumsum(0)[:-1] / self.frames


@dataclass(frozen=True)
class Probe:
    """A norm gate that decides as it is told and notes what every other threshold would have cost.

    Attributes:
        gate: the norm gate.
        gradients: of the frame that runs, by call; the caller puts them there.
        curves: what was seen so far, by call.
    """

    gate: NormGate
    gradients: Gradients
    curves: dict[tuple[str, int], Curve]
    layer: Layer | None = None
    kind: ClassVar[str] = "input_norm"

    @property
    def block_shape(self) -> tuple[int, int]:
        """Output pixels (rows, cols) that share one decision."""
        return self.gate.block_shape

    def for_layer(self, layer: Layer) -> Probe:
        """Return the probe of one layer; where the gate leaves it dense, the probe computes what changed at all."""
        gate = self.gate.for_layer(layer) or replace(self.gate, threshold=0.0).for_layer(layer)
        assert gate is not None
        rows, cols = gate.block_shape
        known = replace(layer, gate=gate.kind, block_rows=rows, block_cols=cols)
        return Probe(gate, self.gradients, self.curves, known)

    @torch.no_grad()
    def mask(self, residual: Tensor, conv: nn.Conv2d) -> Tensor:
        """Map the residual [1, in_channels, rows, cols] to the decisions, bool [grid_rows, grid_cols]."""
        assert self.layer is not None
        norms = self.gate.norms(residual, conv)
        error = conv._conv_forward(residual, conv.weight, None)
        gradient = self.gradients.get(self.layer.key)  # none where the loss does not depend on the layer
        harm = error.new_zeros(error.shape[-2:]) if gradient is None else (error * gradient).sum(1)[0]
        ones = torch.ones_like(harm)
        pixels, sums = (_block_sums(values, self.block_shape) for values in (ones, harm))
        curve = self.curves.setdefault(self.layer.key, Curve(self.layer))
        curve.add(norms, sums.square(), pixels)
        return norms > one_threshold(self.gate)

    def parameters(self) -> dict[str, Any]:
        """Return the gate's parameters."""
        return self.gate.parameters()


def _block_sums(values: Tensor, block: tuple[int, int]) -> Tensor:
    rows, cols = values.shape
    padded = functional.pad(values, (0, -cols % block[1], 0, -rows % block[0]))
    return functional.avg_pool2d(padded[None], block, divisor_override=1)[0]


def output_gradients(model: nn.Module, picture: Tensor, loss: Callable[[Any], Tensor]) -> Gradients:
    """Return the gradient of a loss at the output of every convolution call of a dense network, on one picture."""
    gradients: Gradients = {}
    counted: Counter[str] = Counter()
    hooks = []

    def watch(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def note(module: nn.Module, arguments: Any, output: Tensor) -> None:
            key = name, counted[name]
            counted[name] += 1
            output.register_hook(lambda gradient: gradients.__setitem__(key, gradient))

        return note

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(watch(name)))
    try:
        with torch.enable_grad():
            loss(model(picture.detach().requires_grad_(True))).backward()
    finally:
        for hook in hooks:
            hook.remove()
    return gradients

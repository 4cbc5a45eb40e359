"""ResNet-50 and ResNet-101 as the DPACS driver runs them: calls of the accelerator, each up to three convolutions.

Read off drive/ZCU102/resnet_bottleneck_{dense,sparse}.py of CASR-HKU/DPACS at commit ee50035. The driver times calls
with random data and leaves out what the accelerator does not do: the first layer is 3x3, there is no pooling, the first
stage has no projection. Masks are random positions ("block" = every residual block draws its own, "resolution" = the
blocks of a stage share one), skipped channels whole groups of 64 in the third stage, and narrower layers in the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from skipsim.traces.layer import Layer
from skipsim.traces.trace import Trace

DEPTHS = {"resnet50": (3, 4, 6), "resnet101": (3, 4, 23)}
WIDTHS = (64, 128, 256)
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Call:
    """One run of the accelerator: which units work on which layers, and whether the mask unit runs before them."""

    layers: tuple[Layer, ...]
    units: tuple[str, ...]  # "stem", "reduce", "conv", "expand": one per layer
    masks: tuple[Mask, ...] = ()  # one per layer; none: everything is computed
    decides: bool = False  # the mask unit reads every position of the input first

    @cached_property
    def trace(self) -> Trace:
        """Return the call as a trace of one frame."""
        masks = self.masks or tuple(np.ones((layer.out_rows, layer.out_cols), np.bool_) for layer in self.layers)
        return Trace.from_masks(self.layers, [mask[None] for mask in masks], update="recompute")


@dataclass(frozen=True)
class Workload:
    """What one measurement ran: `mask` = "dense", "block" or "resolution", shares of positions and channels kept."""

    network: str
    mask: str
    spatial: float = 1.0
    channel: float = 1.0
    seed: int = 0

    def calls(self) -> list[Call]:
        """List the calls of one inference."""
        return _Driver(self, np.random.default_rng(self.seed)).run()


@dataclass
class _Driver:
    """Lists calls as the driver makes them, walking through the network."""

    workload: Workload
    random: np.random.Generator

    @property
    def dense(self) -> bool:
        return self.workload.mask == "dense"

    def run(self) -> list[Call]:
        stem = _layer("stem", 4, 224, 64, kernel=3, stride=2)
        calls, side, channels = [Call((stem,), ("stem",))], 56, 64
        for stage, (width, depth) in enumerate(zip(WIDTHS, DEPTHS[self.workload.network], strict=True)):
            kept = int(width // 64 * self.workload.channel) * 64 if stage == 2 and not self.dense else None
            for block in range(depth):
                stride = 2 if block == 0 and stage > 0 else 1
                name = f"stage{stage + 1}.{block}"
                if stride == 2:
                    calls.append(self._strided(f"{name}.projection", side, channels, 4 * width, "expand"))
                shares = self.workload.mask == "resolution" and block > 0
                calls.append(self._bottleneck(name, side, channels, width, stride, kept, decides=not shares))
                side, channels = side // stride, 4 * width
        for block in range(3):
            calls += self._last(f"stage4.{block}", side, first=block == 0)
            side = 7
        classes = 512 if self.dense else 256
        return calls + [
            Call((_layer(f"classes.{part}", 2048, 1, classes),), ("reduce",)) for part in range(1024 // classes)
        ]

    def _drawn(self, side: int) -> Mask:
        drawn: Mask = self.random.random((side, side)) < self.workload.spatial
        return drawn

    def _strided(self, name: str, side: int, ins: int, outs: int, unit: str) -> Call:
        """A 1x1 convolution at stride 2: the dense design gets a shrunk map, the gated one a mask of one in four."""
        if self.dense:
            return Call((_layer(name, ins, side // 2, outs),), (unit,))
        mask = np.zeros((side, side), np.bool_)
        mask[::2, ::2] = True
        return Call((_layer(name, ins, side, outs, gate="mask"),), (unit,), (mask,))

    def _bottleneck(
        self, name: str, side: int, ins: int, width: int, stride: int, kept: int | None, decides: bool
    ) -> Call:
        gate = "none" if self.dense else "mask"
        layers = (
            _layer(f"{name}.reduce", ins, side, width, gate=gate, kept_out=kept),
            _layer(f"{name}.conv", width, side, width, kernel=3, stride=stride, gate=gate, kept_in=kept, kept_out=kept),
            _layer(f"{name}.expand", width, side // stride, 4 * width, gate=gate, kept_in=kept),
        )
        if self.dense:
            return Call(layers, ("reduce", "conv", "expand"))
        mask = self._drawn(side)
        out = _reached(mask) if stride == 2 else mask
        return Call(layers, ("reduce", "conv", "expand"), (mask, out, out), decides)

    def _last(self, name: str, side: int, first: bool) -> list[Call]:
        """The last stage, whose weights don't fit: one call per convolution, the 3x3 in two, the projection in four."""
        ratio = 1.0 if self.dense else self.workload.channel
        width, half = int(512 * ratio), int(256 * ratio)
        keep = {"width": None, "half": None} if ratio == 1 else {"width": width, "half": half}
        gate, stride = "none" if self.dense else "mask", 2 if first else 1
        calls = []
        if first:
            calls = [self._strided(f"{name}.projection.{part}", side, 1024, 512, "reduce") for part in range(4)]
        ins = 2048 if not (first and self.dense) else 1024
        reduce = _layer(f"{name}.reduce", ins, side, 512, gate=gate, kept_out=keep["width"])
        mask = None if self.dense else self._drawn(side)
        decides = not self.dense and (first or self.workload.mask == "block")
        calls.append(_call(reduce, "reduce", mask, decides))
        for part in range(2):
            conv = _layer(
                f"{name}.conv.{part}", 512, side, 256, kernel=3, stride=stride, gate=gate, kept_in=keep["width"],
                kept_out=keep["half"],
            )  # fmt: skip
            mask = None if self.dense else self._drawn(side)
            calls.append(_call(conv, "conv", mask if mask is None or not first else _reached(mask)))
        expand = _layer(f"{name}.expand", 512, side // stride, 2048, gate=gate, kept_in=keep["width"])
        return [*calls, _call(expand, "expand", None if self.dense else self._drawn(side // stride))]


def _call(layer: Layer, unit: str, mask: Mask | None, decides: bool = False) -> Call:
    return Call((layer,), (unit,), () if mask is None else (mask,), decides)


def _reached(mask: Mask) -> Mask:
    """Return the positions of a 3x3 convolution at stride 2 that see at least one kept input."""
    padded = np.pad(mask, 1)
    side = mask.shape[0] // 2
    taps = [padded[row : row + 2 * side : 2, col : col + 2 * side : 2] for row in range(3) for col in range(3)]
    reached: Mask = np.logical_or.reduce(taps)
    return reached


def _layer(
    name: str, ins: int, side: int, outs: int, *, kernel: int = 1, stride: int = 1, gate: str = "none",
    kept_in: int | None = None, kept_out: int | None = None,
) -> Layer:  # fmt: skip
    out, padding = side // stride, kernel // 2
    return Layer(
        name, ins, side, side, outs, out, out, kernel, kernel, stride, stride, padding, padding, gate=gate,
        kept_in_channels=kept_in, kept_out_channels=kept_out,
    )  # fmt: skip

"""Chains: layers with weights and state of their own, run back to back by compiled code and timed step by step.

In a network a layer's weights and state were last touched a frame ago, and its input was written a moment ago. A chain
is the same: for every layer a `combine` of what has just been written makes the computed part of its input, then come
gate, list, convolution and reference, and all other layers run before it is its turn again. "Hot" is one layer alone,
again and again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from skipsim.hwmodels.design import Call
from skipsim.hwmodels.kernel_work import (
    LayerShape,
)
from skipsim.hwmodels.kernels import (
    ActivePixels,
    Convolution,
    FeatureMap,
    PackedConvolution,
    Program,
    Source,
    Step,
    Watch,
    channel_mean,
    combine,
    convolve,
    decide,
    list_pixels,
    measure_change,
    move_reference,
    pack,
    unite,
)
from skipsim.hwmodels.mask_pixels import read_pixels

VARIANTS = ("plain", "fused", "silu")
"""The convolution as it is; with the gate of the layer that reads it; and with the dearer activation."""

UNTIMED = "untimed"
"""The name of a step that only leaves the caches as they are in a network."""


@dataclass(frozen=True, eq=False)
class Maps:
    """What one layer owns: weights, input, reference, kept output, what is compared with the output, and producers."""

    shape: LayerShape
    packed: PackedConvolution
    earlier: FeatureMap  # what the producer is written from
    producer: FeatureMap
    x: FeatureMap
    reference: FeatureMap
    y: FeatureMap
    consumer: FeatureMap  # the reference of a layer that would read y

    @classmethod
    def of(cls, shape: LayerShape, generator: Generator) -> Maps:
        """Allocate and fill with normal values."""
        geometry = convolution_of(shape)
        weight = generator.standard_normal(
            (shape.out_channels, shape.in_channels // shape.groups, shape.kernel_rows, shape.kernel_cols), np.float32
        )
        margin = geometry.margin(shape.in_rows, shape.in_cols)
        ins, outs = (
            (shape.in_rows, shape.in_cols, shape.in_channels),
            (shape.out_rows, shape.out_cols, shape.out_channels),
        )
        made = [
            FeatureMap.zeros(*ins), FeatureMap.zeros(*ins), FeatureMap.zeros(*ins, margin=margin),
            FeatureMap.zeros(*ins), FeatureMap.zeros(*outs), FeatureMap.zeros(*outs),
        ]  # fmt: skip
        for one in made:
            one.interior[...] = generator.standard_normal(one.interior.shape, np.float32)
        return cls(shape, pack(geometry, weight * 0.1), *made)


@dataclass(frozen=True)
class TimedStep:
    """A step of a chain: which stage or kernel it is, and of which call."""

    name: str  # of a stage, or "compiled"; "watched", "activated": with more to do
    call: Call


@dataclass(frozen=True, eq=False)
class Chain:
    """A program and what each of its steps does."""

    program: Program
    steps: tuple[TimedStep, ...]

    def time(self, threads: int = 1) -> NDArray[np.int64]:
        """Run once; return the time of every step, ns, as Program.time says."""
        times: NDArray[np.int64] = self.program.time(1, threads)[0]
        return times


def convolution_of(shape: LayerShape) -> Convolution:
    """Return the geometry as kernels take it; padding below and to the right follows from the sizes."""
    sizes = (
        (shape.out_rows, shape.stride_rows, shape.kernel_rows, shape.dilation_rows, shape.padding_top, shape.in_rows),
        (shape.out_cols, shape.stride_cols, shape.kernel_cols, shape.dilation_cols, shape.padding_left, shape.in_cols),
    )
    ends = [
        max(0, (out - 1) * stride + (kernel - 1) * dilation + 1 - before - size)
        for out, stride, kernel, dilation, before, size in sizes
    ]
    return Convolution(
        shape.in_channels,
        shape.out_channels,
        kernel=(shape.kernel_rows, shape.kernel_cols),
        stride=(shape.stride_rows, shape.stride_cols),
        padding=(shape.padding_top, ends[0], shape.padding_left, ends[1]),
        dilation=(shape.dilation_rows, shape.dilation_cols),
        groups=shape.groups,
    )


def build_chain(calls: list[tuple[Call, Maps]], variant: str) -> Chain:
    """Bind all steps of all calls, one call after the other; `variant` is one of VARIANTS."""
    steps: list[Step] = []
    timed: list[TimedStep] = []
    for call, maps in calls:
        for step, name in _steps_of(call, maps, variant):
            steps.append(step)
            timed.append(TimedStep(name, call))
    return Chain(Program(steps), tuple(timed))


def _steps_of(call: Call, maps: Maps, variant: str) -> list[tuple[Step, str]]:
    shape, block = call.shape, call.block
    given = np.ascontiguousarray(call.mask.astype(np.uint8))
    mask = np.zeros_like(given)
    geometry = convolution_of(shape)
    margin = geometry.margin(shape.in_rows, shape.in_cols)
    active = ActivePixels.zeros(shape.out_rows, shape.out_cols)
    written = read_pixels(call.masks, shape, block)[0]
    inputs = _active_of(written)
    # what decides must not change what is computed: it reads changes that call for the mask, and writes another
    change, calling, decided = (FeatureMap.zeros(shape.in_rows, shape.in_cols, 1, margin) for _ in range(3))
    calling.interior[:, :, 0] = written
    everywhere = ActivePixels.full(shape.in_rows, shape.in_cols)
    found = [
        (combine(maps.producer, [Source(maps.earlier)], inputs), UNTIMED),
        (combine(decided, [Source(calling)], everywhere), UNTIMED),
        (combine(maps.x, [Source(maps.producer)], inputs, "relu"), "combine"),
        (measure_change(maps.x, maps.reference, change, inputs), "change"),
        (decide(decided, geometry, np.zeros_like(mask), block, 0.5), "decide"),
        (unite([given], mask), UNTIMED),
        (list_pixels(mask, block, active), "list"),
    ]
    move = (move_reference(maps.x, maps.reference, change, geometry, mask, block, active), "move")
    if variant == "fused":
        watch = Watch(maps.consumer, FeatureMap.zeros(shape.out_rows, shape.out_cols, 1))
        return [*found, (convolve(maps.packed, maps.x, maps.y, active, "relu", watch=watch), "watched"), move]
    if variant == "silu":
        return [*found, (convolve(maps.packed, maps.x, maps.y, active, "silu"), "activated"), move]
    mean = channel_mean(maps.y, np.zeros(shape.out_channels, np.float32))
    return [*found, (convolve(maps.packed, maps.x, maps.y, active, "relu"), "compiled"), (mean, "mean"), move]


def _active_of(pixels: NDArray[np.bool_]) -> ActivePixels:
    """List pixels."""
    active = ActivePixels.zeros(*pixels.shape)
    rows, cols = np.nonzero(pixels)
    active.positions[: len(rows)] = rows << 16 | cols
    active.count[0] = len(rows)
    return active

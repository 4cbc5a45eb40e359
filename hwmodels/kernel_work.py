"""Work: what a kernel has to do for a layer and its masks, counted exactly; the features that coefficients multiply.

Counts, not times: blocks looked at, blocks computed, runs of pixels, register tiles and the multiply-adds in them with
their padding, and every byte of maps, state and weights that is touched, once. Masks come as stacks [frames, grid
rows, grid columns], and so do the counts, [frames].
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import numpy as np

from skipsim.hwmodels.mask_pixels import (
    START_BYTES,
    Counts,
    Masks,
    Touched,
    computed_pixels,
    read_pixels,
    segments,
    tile_pixels,
    tile_sizes,
)

FLOAT_BYTES = 4

LayerClass = Literal["plain", "strided", "pointwise", "depthwise", "stem", "grouped"]
KernelPath = Literal["compiled", "torch_blocks", "torch_columns", "triton"]
StageName = Literal[
    "list",  # a mask becomes a list of pixels
    "change",  # a gate of its own: input and reference are compared
    "watch",  # a gate fused into the producer: what it costs more
    "decide",  # changes become a mask
    "move",  # references follow what was computed
    "combine",  # sums, scaling, pooling, upsampling between convolutions
    "silu",  # what this activation costs more than a clamp
    "mean",  # of every channel, over the whole map
]


@dataclass(frozen=True)
class LayerShape:
    """Geometry of a convolution, in pixels and channels; batch 1, channels last."""

    in_channels: int
    in_rows: int
    in_cols: int
    out_channels: int
    out_rows: int
    out_cols: int
    kernel_rows: int = 1
    kernel_cols: int = 1
    stride_rows: int = 1
    stride_cols: int = 1
    padding_top: int = 0
    padding_left: int = 0
    dilation_rows: int = 1
    dilation_cols: int = 1
    groups: int = 1

    @classmethod
    def of(cls, layer: object) -> LayerShape:
        """Return the geometry of anything that has these fields, and more."""
        return cls(**{field.name: getattr(layer, field.name) for field in fields(cls)})

    @property
    def kind(self) -> LayerClass:
        """The layer class that shares coefficients."""
        if self.groups == self.in_channels and self.groups > 1:
            return "depthwise"
        if self.groups > 1:
            return "grouped"
        if self.in_channels <= 4:
            return "stem"
        if self.kernel_rows == self.kernel_cols == 1:
            return "pointwise"
        return "strided" if max(self.stride_rows, self.stride_cols) > 1 else "plain"

    @property
    def name(self) -> str:
        """The shape as text, the key of an anchor: channels x rows x columns, in and out, kernel, stride, groups."""
        text = (
            f"{self.in_channels}x{self.in_rows}x{self.in_cols}-{self.out_channels}x{self.out_rows}x{self.out_cols}"
            f" k{self.kernel_rows}x{self.kernel_cols} s{self.stride_rows}x{self.stride_cols} g{self.groups}"
        )
        dilated = max(self.dilation_rows, self.dilation_cols) > 1
        return text + (f" d{self.dilation_rows}x{self.dilation_cols}" if dilated else "")

    @property
    def reduction(self) -> int:
        """Products summed into one output value."""
        return self.kernel_rows * self.kernel_cols * (self.in_channels // self.groups)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the whole layer."""
        return self.reduction * self.out_channels * self.out_rows * self.out_cols

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights."""
        return FLOAT_BYTES * self.reduction * self.out_channels

    @property
    def in_bytes(self) -> int:
        """Bytes of the input map."""
        return FLOAT_BYTES * self.in_channels * self.in_rows * self.in_cols

    @property
    def out_bytes(self) -> int:
        """Bytes of the output map."""
        return FLOAT_BYTES * self.out_channels * self.out_rows * self.out_cols


@dataclass(frozen=True)
class Registers:
    """How the compiled kernel fills the vector registers: at most so many pixels x so many vectors of channels."""

    pixels: int = 12
    vectors: int = 2
    lanes: int = 16


@dataclass(frozen=True)
class Work:
    """What calls of one kernel do, one entry per frame; the coefficient of each count has its name (processor.Cost)."""

    calls: Counts
    blocks: Counts  # of the mask
    tiles: Counts  # blocks that are computed
    pixels: Counts  # output pixels that are computed
    segments: Counts  # runs of neighbouring output pixels of one row
    register_tiles: Counts
    taps: Counts  # steps of the register tiles' inner loops: one value of every input, one vector pair of weights
    macs: Counts  # of whole vectors, channels padded, few sums at once filled up to what the unit takes
    elements: Counts  # gates: input values compared
    input_bytes: Counts  # touched, each once
    output_bytes: Counts  # touched, reads and writes
    output_runs: Counts  # runs of pixels side by side in memory that are written, or read where they are old
    output_start_bytes: Counts  # of these runs, what lies near their starts
    input_runs: Counts  # runs of input pixels side by side in memory
    input_start_bytes: Counts
    compared_bytes: Counts  # of input and reference, which were compared before the layer ran; with runs and starts
    compared_runs: Counts
    compared_start_bytes: Counts
    panels: Counts  # of weights: reading ahead begins anew at each
    weight_bytes: Counts
    exposed_weight_bytes: Counts  # of these, what so few pixels use that computing hides nothing of their way

    @classmethod
    def of(cls, frames: int, **counts: Counts | float) -> Work:
        """Make a Work of so many frames; what is not named is zero."""
        zeros = np.zeros(frames)
        return cls(**{field.name: counts.get(field.name, 0.0) + zeros for field in fields(cls)})

    def plus(self, other: Work) -> Work:
        """Return the sum of two works."""
        return Work(**{field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(self)})


@dataclass(frozen=True)
class Residency:
    """Which share of a call's touched bytes comes from memory; the rest comes from a cache."""

    inputs: float  # the map that the layer before has just written
    compared: float  # what a gate compared before the layer ran, seen after it
    state: float  # what was last touched a frame ago: outputs kept, references
    weights: float


CACHED, MEMORY = Residency(0.0, 0.0, 0.0, 0.0), Residency(1.0, 1.0, 1.0, 1.0)


def features(work: Work, residency: Residency) -> dict[str, Counts]:
    """Return what each coefficient of a Cost is multiplied with, in the order of processor.COEFFICIENTS."""
    inputs, compared, state, weights = residency.inputs, residency.compared, residency.state, residency.weights
    runs = work.input_runs * inputs + work.compared_runs * compared + work.output_runs * state
    starts = work.input_start_bytes * inputs + work.compared_start_bytes * compared + work.output_start_bytes * state
    return {
        "launch_ns": work.calls,
        "memory_launch_ns": work.calls * state,
        "ns_per_block": work.blocks,
        "ns_per_tile": work.tiles,
        "ns_per_pixel": work.pixels,
        "ns_per_segment": work.segments,
        "ns_per_register_tile": work.register_tiles,
        "ns_per_tap": work.taps,
        "ns_per_mac": work.macs,
        "ns_per_element": work.elements,
        "ns_per_cached_input_byte": work.input_bytes * (1 - inputs) + work.compared_bytes * (1 - compared),
        "ns_per_memory_input_byte": work.input_bytes * inputs + work.compared_bytes * compared,
        "ns_per_memory_run": runs,
        "ns_per_memory_start_byte": starts,
        "ns_per_cached_output_byte": work.output_bytes * (1 - state),
        "ns_per_memory_output_byte": work.output_bytes * state,
        "ns_per_cached_weight_byte": work.weight_bytes * (1 - weights),
        "ns_per_memory_weight_byte": work.weight_bytes * weights,
        "ns_per_memory_panel": work.panels * weights,
        "ns_per_exposed_weight_byte": work.exposed_weight_bytes * weights,
    }


def dense_work(shape: LayerShape, frames: int = 1) -> Work:
    """Return the work of a dense convolution: everything is touched once."""
    return Work.of(
        frames,
        calls=1.0,
        macs=float(shape.macs),
        input_bytes=float(shape.in_bytes),
        output_bytes=float(shape.out_bytes),
        weight_bytes=float(shape.weight_bytes),
    )


def change_work(touched: Touched, channels: int) -> Work:
    """Return the work of a gate of its own, where the input may have changed: it is compared with the reference."""
    compared = touched.pixels * channels
    return Work.of(
        len(compared),
        calls=1.0,
        pixels=touched.pixels,
        elements=compared,
        input_bytes=compared * FLOAT_BYTES,
        input_runs=touched.runs,
        input_start_bytes=touched.start_bytes,
        output_bytes=compared * FLOAT_BYTES,  # the reference: as old as the state
        output_runs=touched.runs,
        output_start_bytes=touched.start_bytes,
    )


def watch_work(shape: LayerShape, masks: Masks, tile: tuple[int, int]) -> Work:
    """Return what a gate fused into the producer adds: it compares what was computed with the reader's reference."""
    written = Touched.of(tile_pixels(masks, shape, tile), shape.out_channels * FLOAT_BYTES)
    compared = written.pixels * shape.out_channels
    return Work.of(
        len(masks),
        calls=1.0,
        pixels=written.pixels,
        elements=compared,
        output_bytes=compared * FLOAT_BYTES,
        output_runs=written.runs,
        output_start_bytes=written.start_bytes,
    )


def decide_work(shape: LayerShape, masks: Masks, tile: tuple[int, int]) -> Work:
    """Return the work of a decision: taps are summed in rows, then in columns until a block is known to be on."""
    width = (shape.out_cols - 1) * shape.stride_cols + (shape.kernel_cols - 1) * shape.dilation_cols + 1
    skipped = shape.out_rows * shape.out_cols - computed_pixels(masks, shape, tile)
    return Work.of(
        len(masks),
        calls=1.0,
        blocks=float(shape.out_rows * masks.shape[2]),
        tiles=masks.sum(axis=(1, 2)).astype(np.float64),
        segments=segments(masks, shape, tile) + shape.out_rows,
        pixels=skipped * shape.kernel_cols,
        elements=float(shape.out_rows * width * shape.kernel_rows),
        input_bytes=float(shape.in_rows * shape.in_cols * FLOAT_BYTES),
    )


def move_work(shape: LayerShape, masks: Masks, tile: tuple[int, int]) -> Work:
    """Return the work of moving references where all readers are computed, found from the computed pixels' taps.

    The reference was compared with the input before the layer ran, so that only the layer itself lies in between.
    """
    settled = Touched.of(
        ~read_pixels(~masks, shape, tile) & read_pixels(masks, shape, tile), shape.in_channels * FLOAT_BYTES
    )
    return Work.of(
        len(masks),
        calls=1.0,
        pixels=settled.pixels,
        segments=segments(masks, shape, tile),
        elements=computed_pixels(masks, shape, tile) * shape.kernel_rows * shape.kernel_cols,
        compared_bytes=2 * settled.pixels * shape.in_channels * FLOAT_BYTES,
        compared_runs=2 * settled.runs,
        compared_start_bytes=2 * settled.start_bytes,
    )


def combine_work(channels: int, sources: float, touched: Touched, scattered: bool = False) -> Work:
    """Return the work of a sum of maps at so many pixels: sources are read, the result is written.

    Args:
        channels: of the sum.
        sources: how many; one that is upsampled counts as the share of the output's pixels that it has.
        touched: pixels of a source.
        scattered: the result has more channels than are written, so that no two pixels lie side by side.
    """
    values = touched.pixels * channels
    near = np.minimum(values * FLOAT_BYTES, touched.pixels * START_BYTES)
    return Work.of(
        len(values),
        calls=1.0,
        pixels=touched.pixels,
        elements=values * sources,
        input_bytes=values * sources * FLOAT_BYTES,
        input_runs=touched.runs * sources,
        input_start_bytes=touched.start_bytes * sources,
        output_bytes=values * FLOAT_BYTES,
        output_runs=touched.pixels if scattered else touched.runs,
        output_start_bytes=near if scattered else touched.start_bytes,
    )


def silu_work(shape: LayerShape, masks: Masks, tile: tuple[int, int]) -> Work:
    """Return what the activation x / (1 + exp(-x)) adds: an exponential for every output value."""
    pixels = computed_pixels(masks, shape, tile)
    return Work.of(len(masks), calls=1.0, pixels=pixels, elements=pixels * shape.out_channels)


def mean_work(shape: LayerShape, masks: Masks, tile: tuple[int, int]) -> Work:
    """Return the work of the mean of every output channel: the whole map is read, the computed part of it fresh."""
    fresh = computed_pixels(masks, shape, tile) * shape.out_channels * FLOAT_BYTES
    return Work.of(
        len(masks),
        calls=1.0,
        pixels=float(shape.out_rows * shape.out_cols),
        elements=float(shape.out_bytes // FLOAT_BYTES),
        input_bytes=fresh,
        output_bytes=shape.out_bytes - fresh,
    )


def list_work(shape: LayerShape, masks: Masks, tile: tuple[int, int]) -> Work:
    """Return the work of turning a mask into a list of pixels, row by row of pixels."""
    rows = tile_sizes(shape.out_rows, tile[0]).astype(np.float64)
    pixels = computed_pixels(masks, shape, tile)
    return Work.of(
        len(masks),
        calls=1.0,
        blocks=float(shape.out_rows * masks.shape[2]),
        tiles=masks.sum(axis=2) @ rows,
        segments=segments(masks, shape, tile),
        pixels=pixels,
        output_bytes=pixels * FLOAT_BYTES,
    )

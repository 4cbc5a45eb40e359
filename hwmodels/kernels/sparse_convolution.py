"""The loops around the register tiles: which pixels and which output channels one tile computes, in which order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from skipsim.compiled import entry, inlined
from skipsim.errors import InputError, nearest
from skipsim.hwmodels.kernels.active_pixels import ActivePixels
from skipsim.hwmodels.kernels.addresses import call, integers, words
from skipsim.hwmodels.kernels.convolution import PackedConvolution
from skipsim.hwmodels.kernels.feature_map import LINE_BYTES, FeatureMap
from skipsim.hwmodels.kernels.pixel_list import check_maps, difference_fields, map_fields
from skipsim.hwmodels.kernels.pixel_loops import pixel_loops
from skipsim.hwmodels.kernels.register_tile import LEAST_IN_ROW, ROW_KINDS, VECTORS, Field, tiles
from skipsim.hwmodels.kernels.step import FIELDS, THREADS, Step, make_step
from skipsim.hwmodels.kernels.vector_code import FINISHES

INFINITY = float("inf")
ACTIVATIONS: dict[str, tuple[float, float, str]] = {
    "none": (-INFINITY, INFINITY, "nothing"),
    "relu": (0.0, INFINITY, "nothing"),
    "relu6": (0.0, 6.0, "nothing"),
    "silu": (-INFINITY, INFINITY, "silu"),
    "sigmoid": (-INFINITY, INFINITY, "sigmoid"),
}
"""By name: what outputs are clamped to, and which of FINISHES follows."""

_INPUT_BYTES = 256 * 1024  # of the input that one chunk of pixels reads: a part of the second cache level
_WEIGHT_BYTES = 256 * 1024  # that may be read again for every tile of pixels


@dataclass(frozen=True, eq=False)
class Watch:
    """A consumer's gate, fused into the layer that makes its input.

    Attributes:
        reference: what the consumer last used; a map of the output's size.
        change: a map of one channel; receives the mean over channels of |y - reference| where y is written.
    """

    reference: FeatureMap
    change: FeatureMap


def convolve(
    packed: PackedConvolution,
    x: FeatureMap,
    y: FeatureMap,
    active: ActivePixels,
    activation: str = "none",
    addend: FeatureMap | None = None,
    watch: Watch | None = None,
) -> Step:
    """Bind y[p] = activation(conv(x)[p] + bias + addend[p]) at the active positions p; y stays elsewhere.

    Args:
        packed: the layer.
        x: the input, its margin at least as wide as the layer's padding.
        y: the kept output.
        active: positions to compute.
        activation: one of ACTIVATIONS.
        addend: a map of the output's size: of a residual addition, or y itself to accumulate.
        watch: gate of the layer that reads y.
    """
    layer = packed.convolution
    _check(packed, x, y, active, activation, addend, watch)
    table, most = _table(packed.lanes, "depthwise" if layer.depthwise else "plain")
    side_by_side = layer.depthwise and layer.stride[1] == layer.dilation[1] == 1 and layer.kernel[1] in ROW_KINDS
    row_table = _table(packed.lanes, ROW_KINDS[layer.kernel[1]])[0] if side_by_side else None
    low, high, follows = ACTIVATIONS[activation]
    stride, groups = layer.stride, 1 if layer.depthwise else layer.groups
    taps, run = _taps(packed, x)
    values: dict[int, int] = {
        Field.X: x.address(-layer.padding[0], -layer.padding[2]),
        Field.X_ROW: stride[0] * x.row_floats,
        Field.X_COL: stride[1] * x.channels,
        **map_fields(Field.Y, y),
        **(map_fields(Field.ADDEND, addend) if addend is not None else {}),
        Field.BIAS: packed.bias.ctypes.data,
        Field.TAPS: taps.ctypes.data,
        Field.TAP_COUNT: len(taps),
        Field.RUN: run,
        Field.FINISH: FINISHES[follows],
        Field.COUNT: active.count.ctypes.data,
        Field.POSITIONS: active.positions.ctypes.data,
        Field.TABLE: table.ctypes.data,
        Field.ROW_TABLE: 0 if row_table is None else row_table.ctypes.data,
        Field.MOST: most,
        Field.CHUNK: _pixels_per_chunk(packed, most),
        Field.PANELS: len(packed.weights),
        Field.PANELS_PER_GROUP: packed.panels_per_group,
        Field.GROUP_IN: 0 if groups == 1 else layer.in_channels // groups,
        Field.DEPTHWISE: int(layer.depthwise),
        Field.GROUP_OUT: layer.out_channels // groups,
        Field.LANES: packed.lanes,
        Field.WEIGHTS: packed.weights.ctypes.data,
        Field.PANEL_BYTES: packed.weights[0].nbytes,
    }
    numbers: dict[int, float] = {Field.LOW: low, Field.HIGH: high}
    if watch is not None:
        fields, scale = difference_fields(Field.WATCHED + 1, y, watch.reference, watch.change)
        values |= fields | {Field.WATCHED: pixel_loops()["difference"]}
        numbers |= scale
    held = (packed, x, y, active, addend, watch, table, row_table, taps)
    return make_step("convolve", _work, _units, values, held, numbers)


def _pixels_per_chunk(packed: PackedConvolution, most: int) -> int:
    """Return how many pixels go through all panels of channels before the next ones do.

    Enough to read a panel's weights seldom, and so few that the next panel finds the pixels' memory in the second cache
    level. Where panels share cache lines of the output, all are written while the line is near: tile by tile, if the
    weights are small enough for that.
    """
    layer = packed.convolution
    if 4 * layer.out_channels % LINE_BYTES and packed.weights.nbytes <= _WEIGHT_BYTES:
        return most
    chunk = _INPUT_BYTES // (4 * layer.in_channels * layer.stride[0] * layer.stride[1])
    return max(most, chunk // most * most)


def _taps(packed: PackedConvolution, x: FeatureMap) -> tuple[NDArray[np.int64], int]:
    """Return the offsets in floats of the tap runs, and the values in one run."""
    layer = packed.convolution
    rows = np.arange(layer.kernel[0]) * layer.dilation[0] * x.row_floats
    cols = np.arange(layer.kernel[1]) * layer.dilation[1] * x.channels
    if layer.groups == 1 and layer.dilation[1] == 1:
        return rows, layer.kernel[1] * layer.in_channels
    return (rows[:, None] + cols).reshape(-1), layer.in_channels // layer.groups


@cache
def _table(lanes: int, kind: str) -> tuple[NDArray[np.int64], int]:
    """Return the addresses of a kind's tiles, int64 [vectors - 1, pixels - 1], and the most pixels of one."""
    addresses, most = tiles(lanes)
    order = [
        [addresses.get((kind, pixels, vectors), 0) for pixels in range(1, most + 1)]
        for vectors in range(1, VECTORS + 1)
    ]
    return np.array(order, np.int64), most


def _check(
    packed: PackedConvolution,
    x: FeatureMap,
    y: FeatureMap,
    active: ActivePixels,
    activation: str,
    addend: FeatureMap | None,
    watch: Watch | None,
) -> None:
    layer = packed.convolution
    if activation not in ACTIVATIONS:
        raise InputError(f"convolve: activation {activation!r} is unknown; {nearest(activation, ACTIVATIONS)}")
    if x.channels != layer.in_channels:
        raise InputError(f"convolve: x must have in_channels={layer.in_channels} channels, got {x.channels}")
    needed = layer.margin(x.rows, x.cols)
    if any(have < need for have, need in zip(x.margin, needed, strict=True)):
        raise InputError(
            f"convolve: x must have a margin of at least {needed} (top, bottom, left, right), got {x.margin}"
        )
    out = (*layer.out_size(x.rows, x.cols), layer.out_channels)
    if (y.rows, y.cols, y.channels) != out:
        raise InputError(
            f"convolve: y must be a map of {out} (rows, cols, channels), got {(y.rows, y.cols, y.channels)}"
        )
    if addend is not None:
        check_maps("convolve", y, addend=addend)
    if watch is not None:
        check_maps("convolve", y, reference=watch.reference)
        check_maps("convolve", y, 1, change=watch.change)
    if (active.rows, active.cols) != out[:2]:
        raise InputError(
            f"convolve: active must list pixels of {out[:2]} (rows, cols), got {(active.rows, active.cols)}"
        )
    if y.data is x.data:
        raise InputError("convolve: y must not be x: positions that are computed later would read new values")


@inlined
def _pixels_per_unit(step, pixels):
    """Return the pixels of one chunk; with several threads at least four chunks each, if they fill their tiles."""
    chunk = step[Field.CHUNK]
    if step[THREADS] > 1:
        share = -(-pixels // (4 * step[THREADS]))
        chunk = min(chunk, max(share, step[Field.MOST]))
    return chunk


@entry("int64(int64)")
def _units(address):
    step = words(address, FIELDS)
    pixels = words(step[Field.COUNT], 1)[0]
    chunks = -(-pixels // _pixels_per_unit(step, pixels))
    return chunks if step[Field.WATCHED] != 0 else chunks * step[Field.PANELS]


@entry("int64(int64, int64)")
def _work(address, unit):
    """Compute one panel of output channels of one chunk of pixels; with a watch all panels, which it then reads."""
    step = words(address, FIELDS)
    pixels = words(step[Field.COUNT], 1)[0]
    chunk = _pixels_per_unit(step, pixels)
    if step[Field.WATCHED] == 0:
        first = unit // step[Field.PANELS] * chunk
        _panel(address, step, unit % step[Field.PANELS], first, min(first + chunk, pixels))
        return 0
    first = unit * chunk
    last = min(first + chunk, pixels)
    for panel in range(step[Field.PANELS]):
        _panel(address, step, panel, first, last)
    positions = step[Field.POSITIONS] + 4 * first
    call(step[Field.WATCHED], address + 8 * (Field.WATCHED + 1), positions, last - first, 0, 0, 0)
    return 0


@inlined
def _panel(address, step, panel, first, last):
    """Compute one panel for the listed pixels first <= index < last, in tiles of equal size, give or take one pixel."""
    per_group, lanes, most = step[Field.PANELS_PER_GROUP], step[Field.LANES], step[Field.MOST]
    group = panel // per_group
    offset = (panel - group * per_group) * VECTORS * lanes
    channels = min(step[Field.GROUP_OUT] - offset, VECTORS * lanes)
    channel = group * step[Field.GROUP_OUT] + offset
    vectors = -(-channels // lanes)
    shift = 4 * (channel if step[Field.DEPTHWISE] != 0 else group * step[Field.GROUP_IN])
    weights = step[Field.WEIGHTS] + panel * step[Field.PANEL_BYTES]
    if step[Field.ROW_TABLE] != 0:
        _row_tiles(address, step, first, last, vectors, weights, shift, channel, channels)
        return
    table = words(step[Field.TABLE] + 8 * (vectors - 1) * most, most)
    tiles = -(-(last - first) // most)
    begin = first
    for tile in range(tiles):
        end = first + (last - first) * (tile + 1) // tiles
        positions = step[Field.POSITIONS] + 4 * begin
        call(table[end - begin - 1], address, positions, weights, shift, channel, channels)
        begin = end


@inlined
def _row_tiles(address, step, first, last, vectors, weights, shift, channel, channels):
    """Compute a panel in tiles of neighbours where there are enough of them, otherwise in tiles of any pixels."""
    most = step[Field.MOST]
    offset = 8 * (vectors - 1) * most
    row_table, table = words(step[Field.ROW_TABLE] + offset, most), words(step[Field.TABLE] + offset, most)
    positions = integers(step[Field.POSITIONS], last)
    begin = first
    while begin < last:
        end, limit = begin + 1, min(begin + most, last)
        while end < limit and positions[end] == positions[end - 1] + 1:
            end += 1
        if end - begin >= LEAST_IN_ROW:
            tile = row_table[end - begin - 1]
        else:
            end = limit
            tile = table[end - begin - 1]
        call(tile, address, step[Field.POSITIONS] + 4 * begin, weights, shift, channel, channels)
        begin = end

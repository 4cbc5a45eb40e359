"""What stands between the convolutions, on active pixels only: sums of maps, upsampling, scaling, pooling, means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipsim.compiled import entry
from skipsim.errors import InputError, nearest
from skipsim.hwmodels.kernels.active_pixels import ActivePixels, one_unit
from skipsim.hwmodels.kernels.addresses import call, floats, integers, words
from skipsim.hwmodels.kernels.convolution import Convolution, Pair
from skipsim.hwmodels.kernels.feature_map import FeatureMap, Margin
from skipsim.hwmodels.kernels.pixel_list import (
    CHUNK,
    COUNT,
    FIRST,
    FUNCTION,
    POSITIONS,
    list_fields,
    map_fields,
    pixel_units,
    run_pixels,
)
from skipsim.hwmodels.kernels.pixel_loops import (
    COMBINE_CHANNELS,
    COMBINE_FINISH,
    COMBINE_HIGH,
    COMBINE_LOW,
    COMBINE_SOURCES,
    COMBINE_Y,
    MOST_SOURCES,
    SCALE_CHANNELS,
    SCALE_FACTORS,
    SCALE_X,
    SCALE_Y,
    SOURCE_FIELDS,
    SOURCE_MAP,
    SOURCE_UP_COLS,
    SOURCE_UP_ROWS,
    SOURCE_WEIGHT,
    pixel_loops,
)
from skipsim.hwmodels.kernels.sparse_convolution import ACTIVATIONS
from skipsim.hwmodels.kernels.step import FIELDS, FIRST_FIELD, Step, make_step
from skipsim.hwmodels.kernels.vector_code import FINISHES

POOLS = ("max", "average")


@dataclass(frozen=True)
class Source:
    """One term of `combine`.

    Attributes:
        map: a map; its pixel (row // up[0], col // up[1]) belongs to the output's (row, col).
        up: nearest-neighbour upsampling, whole factors.
        weight: factor.
    """

    map: FeatureMap
    up: Pair = (1, 1)
    weight: float = 1.0


def combine(
    y: FeatureMap,
    sources: Sequence[Source],
    active: ActivePixels,
    activation: str = "none",
    first_channel: int = 0,
) -> Step:
    """Bind y[p] = activation(sum of weight * map[p // up]) at the active pixels; y may be one of the maps (up 1).

    Args:
        y: the output.
        sources: 1 to MOST_SOURCES maps with equal channels.
        active: pixels of y.
        activation: one of ACTIVATIONS.
        first_channel: where in y's channels the sum is written; the others stay. So maps are joined along the channels.
    """
    if not 0 < len(sources) <= MOST_SOURCES:
        raise InputError(f"combine: sources must be 1 to {MOST_SOURCES}, got {len(sources)}")
    if activation not in ACTIVATIONS:
        raise InputError(f"combine: activation {activation!r} is unknown; {nearest(activation, ACTIVATIONS)}")
    channels = sources[0].map.channels
    if not 0 <= first_channel <= y.channels - channels:
        raise InputError(
            f"combine: {channels} channels from first_channel={first_channel} on must fit into the output's "
            f"{y.channels}"
        )
    for source in sources:
        size = (source.map.rows, source.map.cols)
        if min(source.up) < 1 or size != (-(-y.rows // source.up[0]), -(-y.cols // source.up[1])):
            raise InputError(
                f"combine: a map upsampled by {source.up} must have ceil of {(y.rows, y.cols)} / {source.up} "
                f"rows and cols, got {size}"
            )
        if source.map.channels != channels:
            raise InputError(f"combine: all sources must have {channels} channels, got {source.map.channels}")
    low, high, follows = ACTIVATIONS[activation]
    values = {FIRST + COMBINE_CHANNELS: channels, FIRST + COMBINE_FINISH: FINISHES[follows]}
    values |= map_fields(FIRST + COMBINE_Y, y)
    values[FIRST + COMBINE_Y] += 4 * first_channel
    numbers = {FIRST + COMBINE_LOW: low, FIRST + COMBINE_HIGH: high}
    for index, source in enumerate(sources):
        first = COMBINE_SOURCES + SOURCE_FIELDS * index
        values |= map_fields(FIRST + first + SOURCE_MAP, source.map)
        values |= {FIRST + first + SOURCE_UP_ROWS: source.up[0], FIRST + first + SOURCE_UP_COLS: source.up[1]}
        numbers |= {FIRST + first + SOURCE_WEIGHT: source.weight}
    values |= list_fields("combine", f"combine{len(sources)}", y, active)
    return make_step("combine", run_pixels, pixel_units, values, (y, tuple(sources), active), numbers)


def resize_bilinear(y: FeatureMap, x: FeatureMap, active: ActivePixels, align_corners: bool = False) -> Step:
    """Bind y[p] = x bilinearly resized to y's size, at the active pixels of y; corners as PyTorch's `interpolate`."""
    _check_channels("resize_bilinear", y, x)
    sizes = ((x.rows, y.rows, x.row_floats), (x.cols, y.cols, x.channels))
    rows, cols = (_blend_table(*each, align_corners=align_corners) for each in sizes)
    values = {**map_fields(_POOL_X, x), **map_fields(_POOL_Y, y), _CHANNELS: x.channels}
    values |= {_BLEND_ROWS: rows.ctypes.data, _BLEND_COLS: cols.ctypes.data, _ROWS: y.rows, _COLS: y.cols}
    values |= list_fields("resize_bilinear", "blend", y, active)
    return make_step("resize_bilinear", _resize, pixel_units, values, (x, y, active, rows, cols))


def _blend_table(extent: int, out: int, floats: int, *, align_corners: bool) -> NDArray[np.int64]:
    """Return per output row or column: offset of the first source, offset from it to the second, its weight's bits."""
    position = np.arange(out, dtype=np.float64)
    if align_corners:
        source = position * ((extent - 1) / (out - 1)) if out > 1 else position * 0
    else:
        source = np.maximum((position + 0.5) * (extent / out) - 0.5, 0)
    first = np.minimum(source.astype(np.int64), extent - 1)
    second = np.minimum(first + 1, extent - 1)
    bits = (source - first).astype(np.float32).view(np.uint32).astype(np.int64)
    return np.ascontiguousarray(np.stack([first * floats, (second - first) * floats, bits], 1))


def scale_channels(y: FeatureMap, x: FeatureMap, scale: NDArray[np.float32], active: ActivePixels) -> Step:
    """Bind y[p] = x[p] * scale at the active pixels; scale: float32 [channels]."""
    _check_size("scale_channels", y, x)
    _check_vector("scale_channels: scale", scale, x)
    values = {**map_fields(FIRST + SCALE_X, x), **map_fields(FIRST + SCALE_Y, y), FIRST + SCALE_CHANNELS: x.channels}
    values |= {FIRST + SCALE_FACTORS: scale.ctypes.data, **list_fields("scale_channels", "scale", y, active)}
    return make_step("scale_channels", run_pixels, pixel_units, values, (y, x, scale, active))


def pool(
    kind: str, x: FeatureMap, y: FeatureMap, kernel: Pair, stride: Pair, padding: Margin, active: ActivePixels
) -> Step:
    """Bind y[p] = the largest or the average of x in p's window, at the active pixels; padding is not counted.

    Args:
        kind: one of POOLS.
        x: input.
        y: output.
        kernel: window (rows, cols).
        stride: (rows, cols).
        padding: (top, bottom, left, right); no window may lie wholly in it.
        active: pixels of y.
    """
    if kind not in POOLS:
        raise InputError(f"pool: kind {kind!r} is unknown; {nearest(kind, POOLS)}")
    layer = Convolution(x.channels, y.channels, kernel, stride, padding)
    out = layer.out_size(x.rows, x.cols)
    _check_channels("pool", y, x)
    last = [(out[a] - 1) * stride[a] - padding[2 * a] for a in (0, 1)]
    if max(padding[0] - kernel[0], padding[2] - kernel[1]) >= 0 or last[0] >= x.rows or last[1] >= x.cols:
        raise InputError(f"pool: padding must be smaller than the {kernel[0]}x{kernel[1]} window, got {padding}")
    if (y.rows, y.cols) != out:
        raise InputError(f"pool: y must be a map of {out} (rows, cols), got {(y.rows, y.cols)}")
    values = {**map_fields(_POOL_X, x), **map_fields(_POOL_Y, y), _ROWS: x.rows, _COLS: x.cols}
    values |= {_CHANNELS: x.channels, _KERNEL_ROWS: kernel[0], _KERNEL_COLS: kernel[1]}
    values |= {_STRIDE_ROWS: stride[0], _STRIDE_COLS: stride[1], _TOP: padding[0], _LEFT: padding[2]}
    values |= list_fields("pool", f"pool_{kind}", y, active)
    return make_step("pool", _pool, pixel_units, values, (x, y, active, kernel))


def channel_mean(x: FeatureMap, mean: NDArray[np.float32]) -> Step:
    """Bind mean[c] = mean of x over all pixels; float32 [channels]."""
    _check_vector("channel_mean: mean", mean, x)
    values = {_MEAN_X: x.address(), _MEAN_PITCH: x.row_floats, _MEAN_ROWS: x.rows, _MEAN_COLS: x.cols}
    values |= {_MEAN_CHANNELS: x.channels, _MEAN: mean.ctypes.data, _ACCUMULATE: pixel_loops()["accumulate"]}
    return make_step("channel_mean", _mean, one_unit, values, (x, mean))


def _check_size(kernel: str, y: FeatureMap, x: FeatureMap) -> None:
    sizes = [(map_.rows, map_.cols, map_.channels) for map_ in (y, x)]
    if sizes[0] != sizes[1]:
        raise InputError(
            f"{kernel}: x and y must be equally large (rows, cols, channels), got {sizes[1]} and {sizes[0]}"
        )


def _check_channels(kernel: str, y: FeatureMap, x: FeatureMap) -> None:
    if x.channels != y.channels:
        raise InputError(f"{kernel}: all maps must have the output's {y.channels} channels, got {x.channels}")


def _check_vector(name: str, vector: NDArray[np.float32], x: FeatureMap) -> None:
    if vector.dtype != np.float32 or vector.shape != (x.channels,) or not vector.flags.c_contiguous:
        raise InputError(f"{name} must be float32 [{x.channels}], got {vector.dtype} {list(vector.shape)}")


(
    _POOL_X,
    _X_PITCH,
    _X_STEP,
    _POOL_Y,
    _Y_PITCH,
    _Y_STEP,
    _ROWS,
    _COLS,
    _CHANNELS,
    _KERNEL_ROWS,
    _KERNEL_COLS,
    _STRIDE_ROWS,
    _STRIDE_COLS,
    _TOP,
    _LEFT,
    _BLEND_ROWS,
    _BLEND_COLS,
) = range(FIRST, FIRST + 17)


@entry("int64(int64, int64)")
def _pool(address, unit):
    step = words(address, FIELDS)
    first = unit * step[CHUNK]
    last = min(first + step[CHUNK], words(step[COUNT], 1)[0])
    positions = integers(step[POSITIONS], last)
    for index in range(first, last):
        out_row, out_col = positions[index] >> 16, positions[index] & 0xFFFF
        row, col = out_row * step[_STRIDE_ROWS] - step[_TOP], out_col * step[_STRIDE_COLS] - step[_LEFT]
        rows = min(row + step[_KERNEL_ROWS], step[_ROWS]) - max(row, 0)
        cols = min(col + step[_KERNEL_COLS], step[_COLS]) - max(col, 0)
        x = step[_POOL_X] + 4 * (max(row, 0) * step[_X_PITCH] + max(col, 0) * step[_X_STEP])
        y = step[_POOL_Y] + 4 * (out_row * step[_Y_PITCH] + out_col * step[_Y_STEP])
        call(step[FUNCTION], x, step[_X_PITCH], rows, cols, y, step[_CHANNELS])
    return 0


@entry("int64(int64, int64)")
def _resize(address, unit):
    step = words(address, FIELDS)
    first = unit * step[CHUNK]
    last = min(first + step[CHUNK], words(step[COUNT], 1)[0])
    positions = integers(step[POSITIONS], last)
    rows, cols = words(step[_BLEND_ROWS], 3 * step[_ROWS]), words(step[_BLEND_COLS], 3 * step[_COLS])
    for index in range(first, last):
        row, col = positions[index] >> 16, positions[index] & 0xFFFF
        x = step[_POOL_X] + 4 * (rows[3 * row] + cols[3 * col])
        y = step[_POOL_Y] + 4 * (row * step[_Y_PITCH] + col * step[_Y_STEP])
        weights = rows[3 * row + 2] << 32 | cols[3 * col + 2]
        call(step[FUNCTION], x, cols[3 * col + 1], rows[3 * row + 1], weights, y, step[_CHANNELS])
    return 0


_MEAN_X, _MEAN_PITCH, _MEAN_ROWS, _MEAN_COLS, _MEAN_CHANNELS, _MEAN, _ACCUMULATE = range(FIRST_FIELD, FIRST_FIELD + 7)


@entry("int64(int64, int64)")
def _mean(address, unit):
    step = words(address, FIELDS)
    rows, cols, channels = step[_MEAN_ROWS], step[_MEAN_COLS], step[_MEAN_CHANNELS]
    mean = floats(step[_MEAN], channels)
    for channel in range(channels):
        mean[channel] = 0.0
    for row in range(rows):
        for col in range(cols):
            x = step[_MEAN_X] + 4 * (row * step[_MEAN_PITCH] + col * channels)
            call(step[_ACCUMULATE], x, step[_MEAN], channels, 0, 0, 0)
    scale = np.float32(1.0 / (rows * cols))
    for channel in range(channels):
        mean[channel] *= scale
    return 0

"""The norm gate on the CPU: what changed, which blocks that calls for, and how the reference moves.

Three steps, because a decision looks at its neighbours' changes and a reference moves by its neighbours' decisions:

    measure_change    reads x_t and x_ref once, and only where x_t can have changed if a list says so
    decide            works on one number per pixel
    move_reference    touches settled pixels only: those all of whose readers are computed

The cheapest gate measures where the producer scatters: see `Watch` in convolution_kernel.
"""

from __future__ import annotations

import numpy as np

from skipsim.compiled import entry, inlined
from skipsim.errors import InputError
from skipsim.hwmodels.active_pixels import ActivePixels, Block, Mask, check_mask, one_unit
from skipsim.hwmodels.addresses import call, floats, integers, marks, words
from skipsim.hwmodels.convolution import Convolution
from skipsim.hwmodels.feature_map import FeatureMap, aligned_zeros
from skipsim.hwmodels.pixel_list import (
    FIRST,
    check_maps,
    difference_fields,
    list_fields,
    map_fields,
    pixel_units,
    run_pixels,
)
from skipsim.hwmodels.pixel_loops import (
    ADVANCE_CHANNELS,
    ADVANCE_DELTA,
    ADVANCE_REFERENCE,
    ADVANCE_X,
    pixel_loops,
)
from skipsim.hwmodels.readers import Readers, table
from skipsim.hwmodels.step import FIELDS, FIRST_FIELD, Step, make_step


def measure_change(
    x: FeatureMap, reference: FeatureMap, change: FeatureMap, active: ActivePixels | None = None
) -> Step:
    """Bind change[p] = mean over channels of |x[p] - reference[p]|.

    Args:
        x: the layer's input.
        reference: what the layer last used, of the same size.
        change: one channel, of the same size, with the margin that `decide` asks for.
        active: pixels of x that may have changed; None = all. The others keep what they have.
    """
    check_maps("measure_change", x, reference=reference)
    check_maps("measure_change", x, 1, change=change)
    active = ActivePixels.full(x.rows, x.cols) if active is None else active
    values, scale = difference_fields(FIRST, x, reference, change)
    values |= list_fields("measure_change", "difference", x, active)
    return make_step("measure_change", run_pixels, pixel_units, values, (x, reference, change, active), scale)


def decide(change: FeatureMap, layer: Convolution, mask: Mask, block: Block, threshold: float) -> Step:
    """Bind the input-norm gate: a block is computed if the mean change of any of its positions is above the threshold.

    The mean is taken over the taps that lie on the map. `set_threshold` changes the threshold of the bound step.

    Args:
        change: of the input, one channel, its margin at least as wide as the layer's padding.
        layer: the gated layer.
        mask: uint8 [ceil(out_rows / block rows), ceil(out_cols / block cols)]; receives 0 and 1.
        block: output pixels (rows, cols) of one decision.
        threshold: in units of the input.
    """
    size = (change.rows, change.cols)
    out = layer.out_size(*size)
    check_mask("decide: mask", mask, block, out)
    needed = layer.margin(*size)
    if any(have < want for have, want in zip(change.margin, needed, strict=True)):
        raise InputError(f"decide: change must have a margin of at least {needed}, got {change.margin}")
    pixelwise = Readers.of(layer, size, (1, 1), (1, 1))
    row_taps = np.maximum(pixelwise.rows.sum(1), 1).astype(np.float32)
    col_taps = np.maximum(pixelwise.cols.sum(1), 1).astype(np.float32)
    sums = aligned_zeros(change.data.shape[1], np.float32)
    values = {
        _CHANGE: change.address(-layer.padding[0], -layer.padding[2]),
        _PITCH: change.row_floats,
        _MASK: mask.ctypes.data,
        _OUT_ROWS: out[0],
        _OUT_COLS: out[1],
        _BLOCK_ROWS: block[0],
        _BLOCK_COLS: block[1],
        _ROW_TAPS: row_taps.ctypes.data,
        _COL_TAPS: col_taps.ctypes.data,
        _SUMS: sums.ctypes.data,
        _KERNEL_ROWS: layer.kernel[0],
        _KERNEL_COLS: layer.kernel[1],
        _STRIDE_ROWS: layer.stride[0],
        _STRIDE_COLS: layer.stride[1],
        _DILATION_ROWS: layer.dilation[0],
        _DILATION_COLS: layer.dilation[1],
    }
    held = (change, mask, row_taps, col_taps, sums)
    return make_step("decide", _decide, one_unit, values, held, {_THRESHOLD: threshold})


def set_threshold(step: Step, threshold: float) -> None:
    """Change the threshold of a step that `decide` bound."""
    step.set_float(_THRESHOLD, threshold)


def move_reference(
    x: FeatureMap,
    reference: FeatureMap,
    change: FeatureMap,
    layer: Convolution,
    mask: Mask,
    block: Block,
    active: ActivePixels,
    delta: FeatureMap | None = None,
) -> Step:
    """Bind reference[p] = x[p], change[p] = 0 on settled pixels: all output positions that read p are computed.

    Pixels that no position reads stay as they are, which nobody sees.

    Args:
        x: the layer's input.
        reference: moves.
        change: one channel, of the same size.
        layer: the gated layer.
        mask: the decisions, uint8 per block of the output.
        block: output pixels of one decision.
        active: the list of the pixels of `mask`.
        delta: receives x - reference on settled pixels and 0 elsewhere: the input of an accumulating layer.
    """
    size = (x.rows, x.cols)
    check_mask("move_reference: mask", mask, block, layer.out_size(*size))
    check_maps("move_reference", x, reference=reference)
    if delta is not None:
        check_maps("move_reference", x, delta=delta)
    check_maps("move_reference", x, 1, change=change)
    by_block, by_pixel = Readers.of(layer, size, (1, 1), block), Readers.of(layer, size, (1, 1), (1, 1))
    row_blocks, col_blocks = table(by_block.rows.T, mask.shape[1]), table(by_block.cols.T)
    row_owner, col_owner = (np.argmax(reads, axis=0).astype(np.int64) for reads in (by_pixel.rows, by_pixel.cols))
    moved = ActivePixels.zeros(*size)
    values = {
        _X: x.address(),
        _X_PITCH: x.row_floats,
        _REFERENCE: reference.address(),
        _REFERENCE_PITCH: reference.row_floats,
        _DELTA: delta.address() if delta else 0,
        _DELTA_PITCH: delta.row_floats if delta else 0,
        _CHANGED: change.address(),
        _CHANGED_PITCH: change.row_floats,
        _CHANNELS: x.channels,
        _ROWS: x.rows,
        _COLS: x.cols,
        _DECISIONS: mask.ctypes.data,
        _ACTIVE: active.positions.ctypes.data,
        _ACTIVE_COUNT: active.count.ctypes.data,
        _ROW_OWNER: row_owner.ctypes.data,
        _COL_OWNER: col_owner.ctypes.data,
        _ROW_BLOCKS: row_blocks.ctypes.data,
        _ROW_BLOCKS_WIDTH: row_blocks.shape[1],
        _COL_BLOCKS: col_blocks.ctypes.data,
        _COL_BLOCKS_WIDTH: col_blocks.shape[1],
        _MOVED: moved.positions.ctypes.data,
        _MOVED_COUNT: moved.count.ctypes.data,
        _COPY: pixel_loops()["copy"],
        _CLEAR: pixel_loops()["clear"],
        _SPAN_ROWS: layer.kernel[0],
        _SPAN_COLS: layer.kernel[1],
        _STEP_ROWS: layer.stride[0],
        _STEP_COLS: layer.stride[1],
        _TOP: layer.padding[0],
        _LEFT: layer.padding[2],
        _APART_ROWS: layer.dilation[0],
        _APART_COLS: layer.dilation[1],
    }
    held = (x, reference, change, mask, active, delta, row_owner, col_owner, row_blocks, col_blocks, moved)
    return make_step("move_reference", _move, _move_units, values, held)


def move_everywhere(x: FeatureMap, reference: FeatureMap, delta: FeatureMap) -> Step:
    """Bind delta = x - reference, then reference = x, on all pixels: the update form `previous`."""
    check_maps("move_everywhere", x, reference=reference, delta=delta)
    active = ActivePixels.full(x.rows, x.cols)
    values = {FIRST + ADVANCE_CHANNELS: x.channels, **list_fields("move_everywhere", "advance", x, active)}
    for offset, map_ in ((ADVANCE_X, x), (ADVANCE_REFERENCE, reference), (ADVANCE_DELTA, delta)):
        values |= map_fields(FIRST + offset, map_)
    return make_step("move_everywhere", run_pixels, pixel_units, values, (x, reference, delta, active))


(
    _CHANGE,
    _PITCH,
    _MASK,
    _OUT_ROWS,
    _OUT_COLS,
    _BLOCK_ROWS,
    _BLOCK_COLS,
    _ROW_TAPS,
    _COL_TAPS,
    _SUMS,
    _KERNEL_ROWS,
    _KERNEL_COLS,
    _STRIDE_ROWS,
    _STRIDE_COLS,
    _DILATION_ROWS,
    _DILATION_COLS,
    _THRESHOLD,
) = range(FIRST_FIELD, FIRST_FIELD + 17)


@entry("int64(int64, int64)")
def _decide(address, unit):
    step = words(address, FIELDS)
    out_rows, out_cols, pitch = step[_OUT_ROWS], step[_OUT_COLS], step[_PITCH]
    block_rows, block_cols = step[_BLOCK_ROWS], step[_BLOCK_COLS]
    grid_cols = -(-out_cols // block_cols)
    mask = marks(step[_MASK], -(-out_rows // block_rows) * grid_cols)
    threshold = floats(address + 8 * _THRESHOLD, 1)[0]
    row_taps, col_taps = floats(step[_ROW_TAPS], out_rows), floats(step[_COL_TAPS], out_cols)
    stride, apart = step[_STRIDE_COLS], step[_DILATION_COLS]
    width = (out_cols - 1) * stride + (step[_KERNEL_COLS] - 1) * apart + 1
    sums = floats(step[_SUMS], width)
    for index in range(len(mask)):
        mask[index] = 0
    for row in range(out_rows):
        top = step[_CHANGE] + 4 * pitch * row * step[_STRIDE_ROWS]
        first = floats(top, width)
        for col in range(width):
            sums[col] = first[col]
        for tap in range(1, step[_KERNEL_ROWS]):
            line = floats(top + 4 * pitch * tap * step[_DILATION_ROWS], width)
            for col in range(width):
                sums[col] += line[col]
        limit = threshold * row_taps[row]
        decisions = row // block_rows * grid_cols
        for block in range(grid_cols):
            if mask[decisions + block] != 0:
                continue
            begin = block * block_cols
            for col in range(begin, min(begin + block_cols, out_cols)):
                total = np.float32(0.0)
                for tap in range(step[_KERNEL_COLS]):
                    total += sums[col * stride + tap * apart]
                if total > limit * col_taps[col]:
                    mask[decisions + block] = 1
                    break
    return 0


(
    _X,
    _X_PITCH,
    _REFERENCE,
    _REFERENCE_PITCH,
    _DELTA,
    _DELTA_PITCH,
    _CHANGED,
    _CHANGED_PITCH,
    _CHANNELS,
    _ROWS,
    _COLS,
    _DECISIONS,
    _ACTIVE,
    _ACTIVE_COUNT,
    _ROW_OWNER,
    _COL_OWNER,
    _ROW_BLOCKS,
    _ROW_BLOCKS_WIDTH,
    _COL_BLOCKS,
    _COL_BLOCKS_WIDTH,
    _MOVED,
    _MOVED_COUNT,
    _COPY,
    _CLEAR,
    _SPAN_ROWS,
    _SPAN_COLS,
    _STEP_ROWS,
    _STEP_COLS,
    _TOP,
    _LEFT,
    _APART_ROWS,
    _APART_COLS,
) = range(FIRST_FIELD, FIRST_FIELD + 32)
_MOVE_CHUNK = 256


@entry("int64(int64)")
def _move_units(address):
    step = words(address, FIELDS)
    if step[_DELTA] != 0:
        return 1
    return -(-words(step[_ACTIVE_COUNT], 1)[0] // _MOVE_CHUNK)


@inlined
def _pixel(step, field, row, col, channels):
    """Return the address of a pixel of the map that two fields describe."""
    return step[field] + 4 * (row * step[field + 1] + col * channels)


@inlined
def _settled(step, row, col):
    """Tell whether all blocks with positions that read an input pixel are computed."""
    width = step[_ROW_BLOCKS_WIDTH]
    rows = words(step[_ROW_BLOCKS] + 8 * row * width, width)
    width = step[_COL_BLOCKS_WIDTH]
    cols = words(step[_COL_BLOCKS] + 8 * col * width, width)
    for r in range(1, 1 + rows[0]):
        for c in range(1, 1 + cols[0]):
            if marks(step[_DECISIONS] + rows[r] + cols[c], 1)[0] == 0:
                return False
    return True


@inlined
def _move_pixel(step, row, col):
    channels = step[_CHANNELS]
    x, reference = _pixel(step, _X, row, col, channels), _pixel(step, _REFERENCE, row, col, channels)
    delta = 0
    if step[_DELTA] != 0:
        delta = _pixel(step, _DELTA, row, col, channels)
        count = words(step[_MOVED_COUNT], 1)
        integers(step[_MOVED], step[_ROWS] * step[_COLS])[count[0]] = row << 16 | col
        count[0] += 1
    call(step[_COPY], x, reference, delta, channels, 0, 0)
    floats(_pixel(step, _CHANGED, row, col, 1), 1)[0] = 0.0


@inlined
def _clear_delta(step):
    """Set to zero what the last run wrote."""
    count = words(step[_MOVED_COUNT], 1)
    moved = integers(step[_MOVED], count[0])
    for index in range(count[0]):
        target = _pixel(step, _DELTA, moved[index] >> 16, moved[index] & 0xFFFF, step[_CHANNELS])
        call(step[_CLEAR], target, step[_CHANNELS], 0, 0, 0, 0)
    count[0] = 0


@entry("int64(int64, int64)")
def _move(address, unit):
    """Visit the settled pixels by the first position that reads them, so that each is visited once."""
    step = words(address, FIELDS)
    first, last = 0, words(step[_ACTIVE_COUNT], 1)[0]
    if step[_DELTA] != 0:
        _clear_delta(step)
    else:
        first = unit * _MOVE_CHUNK
        last = min(first + _MOVE_CHUNK, last)
    positions = integers(step[_ACTIVE], last)
    row_owner, col_owner = words(step[_ROW_OWNER], step[_ROWS]), words(step[_COL_OWNER], step[_COLS])
    for index in range(first, last):
        out_row, out_col = positions[index] >> 16, positions[index] & 0xFFFF
        for r in range(step[_SPAN_ROWS]):
            row = out_row * step[_STEP_ROWS] - step[_TOP] + r * step[_APART_ROWS]
            if row < 0 or row >= step[_ROWS] or row_owner[row] != out_row:
                continue
            for c in range(step[_SPAN_COLS]):
                col = out_col * step[_STEP_COLS] - step[_LEFT] + c * step[_APART_COLS]
                if 0 <= col < step[_COLS] and col_owner[col] == out_col and _settled(step, row, col):
                    _move_pixel(step, row, col)
    return 0

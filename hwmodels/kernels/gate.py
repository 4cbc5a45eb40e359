"""The norm gate on the CPU: what changed, which blocks that calls for, and how the reference moves.

Three steps, because a decision looks at its neighbours' changes and a reference moves by its neighbours' decisions:

    measure_change    reads x_t and x_ref once, and only where x_t can have changed if a list says so
    decide            works on one number per pixel
    move_reference    touches settled pixels only: those all of whose readers are computed

The cheapest gate measures where the producer scatters: see `Watch` in sparse_convolution.
"""

from __future__ import annotations

import numpy as np

from skipsim.compiled import entry, inlined
from skipsim.errors import InputError
from skipsim.hwmodels.kernels.active_pixels import ActivePixels, Block, Mask, check_mask
from skipsim.hwmodels.kernels.addresses import call, float_bits, floats, integers, marks, words
from skipsim.hwmodels.kernels.convolution import Convolution
from skipsim.hwmodels.kernels.feature_map import FeatureMap, aligned_zeros
from skipsim.hwmodels.kernels.machine_code import LANES
from skipsim.hwmodels.kernels.pixel_list import (
    FIRST,
    check_maps,
    difference_fields,
    list_fields,
    map_fields,
    pixel_units,
    run_pixels,
)
from skipsim.hwmodels.kernels.pixel_loops import (
    ADVANCE_CHANNELS,
    ADVANCE_DELTA,
    ADVANCE_REFERENCE,
    ADVANCE_X,
    VOTE_COL_TAPS,
    VOTE_DILATION_COLS,
    VOTE_DILATION_ROWS,
    VOTE_KERNEL_COLS,
    VOTE_KERNEL_ROWS,
    VOTE_PITCH,
    VOTE_STRIDE_COLS,
    VOTE_WIDTH,
    pixel_loops,
)
from skipsim.hwmodels.kernels.readers import Bools, Readers, table
from skipsim.hwmodels.kernels.step import FIELDS, FIRST_FIELD, Step, make_step


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
    width = (out[1] - 1) * layer.stride[1] + (layer.kernel[1] - 1) * layer.dilation[1] + 1
    bands = min(_BANDS, mask.shape[0])
    room = aligned_zeros((bands, _padded(width) + _padded(out[1])), np.float32)
    loop = _VOTE + np.arange(8)
    values = {
        _CHANGE: change.address(-layer.padding[0], -layer.padding[2]),
        _ROW_STEP: layer.stride[0] * change.row_floats,
        _MASK: mask.ctypes.data,
        _OUT_ROWS: out[0],
        _OUT_COLS: out[1],
        _BLOCK_ROWS: block[0],
        _BLOCK_COLS: block[1],
        _ROW_TAPS: row_taps.ctypes.data,
        _ROOM: room.ctypes.data,
        _ROOM_FLOATS: room.shape[1],
        _SUM_FLOATS: _padded(width),
        _BAND_COUNT: bands,
        _FUNCTION: pixel_loops()["vote"],
        loop[VOTE_KERNEL_ROWS]: layer.kernel[0],
        loop[VOTE_PITCH]: change.row_floats,
        loop[VOTE_DILATION_ROWS]: layer.dilation[0],
        loop[VOTE_KERNEL_COLS]: layer.kernel[1],
        loop[VOTE_STRIDE_COLS]: layer.stride[1],
        loop[VOTE_DILATION_COLS]: layer.dilation[1],
        loop[VOTE_WIDTH]: width,
        loop[VOTE_COL_TAPS]: col_taps.ctypes.data,
    }
    held = (change, mask, row_taps, col_taps, room)
    return make_step("decide", _decide, _bands, values, held, {_THRESHOLD: threshold})


def _padded(floats: int) -> int:
    """Return so many floats and room for a whole vector that starts at the last one."""
    return floats + max(LANES)


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
    owned_rows, owned_cols = (table(_first_reader(reads)) for reads in (by_pixel.rows, by_pixel.cols))
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
        _OWNED_ROWS: owned_rows.ctypes.data,
        _OWNED_ROWS_WIDTH: owned_rows.shape[1],
        _OWNED_COLS: owned_cols.ctypes.data,
        _OWNED_COLS_WIDTH: owned_cols.shape[1],
        _ROW_BLOCKS: row_blocks.ctypes.data,
        _ROW_BLOCKS_WIDTH: row_blocks.shape[1],
        _COL_BLOCKS: col_blocks.ctypes.data,
        _COL_BLOCKS_WIDTH: col_blocks.shape[1],
        _MOVED: moved.positions.ctypes.data,
        _MOVED_COUNT: moved.count.ctypes.data,
        _COPY: pixel_loops()["copy"],
        _CLEAR: pixel_loops()["clear"],
    }
    held = (x, reference, change, mask, active, delta, owned_rows, owned_cols, row_blocks, col_blocks, moved)
    return make_step("move_reference", _move, _move_units, values, held)


def _first_reader(reads: Bools) -> Bools:
    """Keep of every column of a table (readers, read) only its first true entry."""
    first: Bools = reads & (np.cumsum(reads, axis=0) == 1)
    return first


def move_everywhere(x: FeatureMap, reference: FeatureMap, delta: FeatureMap) -> Step:
    """Bind delta = x - reference, then reference = x, on all pixels: the update form `previous`."""
    check_maps("move_everywhere", x, reference=reference, delta=delta)
    active = ActivePixels.full(x.rows, x.cols)
    values = {FIRST + ADVANCE_CHANNELS: x.channels, **list_fields("move_everywhere", "advance", x, active)}
    for offset, map_ in ((ADVANCE_X, x), (ADVANCE_REFERENCE, reference), (ADVANCE_DELTA, delta)):
        values |= map_fields(FIRST + offset, map_)
    return make_step("move_everywhere", run_pixels, pixel_units, values, (x, reference, delta, active))


_BANDS = 8  # of block rows, decided by different threads
(
    _CHANGE,
    _ROW_STEP,
    _MASK,
    _OUT_ROWS,
    _OUT_COLS,
    _BLOCK_ROWS,
    _BLOCK_COLS,
    _ROW_TAPS,
    _ROOM,
    _ROOM_FLOATS,
    _SUM_FLOATS,
    _BAND_COUNT,
    _FUNCTION,
    _THRESHOLD,
    _VOTE,
) = range(FIRST_FIELD, FIRST_FIELD + 15)


@entry("int64(int64)")
def _bands(address):
    return words(address, FIELDS)[_BAND_COUNT]


@entry("int64(int64, int64)")
def _decide(address, unit):
    step = words(address, FIELDS)
    out_rows, out_cols, block_rows, block_cols = (
        step[_OUT_ROWS],
        step[_OUT_COLS],
        step[_BLOCK_ROWS],
        step[_BLOCK_COLS],
    )
    grid_rows, grid_cols = -(-out_rows // block_rows), -(-out_cols // block_cols)
    mask = marks(step[_MASK], grid_rows * grid_cols)
    threshold = floats(address + 8 * _THRESHOLD, 1)[0]
    row_taps = floats(step[_ROW_TAPS], out_rows)
    sums = step[_ROOM] + 4 * unit * step[_ROOM_FLOATS]
    votes_address = sums + 4 * step[_SUM_FLOATS]
    votes = integers(votes_address, out_cols)
    for block_row in range(grid_rows * unit // step[_BAND_COUNT], grid_rows * (unit + 1) // step[_BAND_COUNT]):
        for col in range(out_cols):
            votes[col] = 0
        for row in range(block_row * block_rows, min((block_row + 1) * block_rows, out_rows)):
            change = step[_CHANGE] + 4 * row * step[_ROW_STEP]
            limit = float_bits(threshold * row_taps[row])
            call(step[_FUNCTION], address + 8 * _VOTE, change, sums, votes_address, limit, out_cols)
        if block_cols == 1:
            for col in range(out_cols):
                mask[block_row * grid_cols + col] = votes[col]
            continue
        for block in range(grid_cols):
            begin, found = block * block_cols, 0
            for col in range(begin, min(begin + block_cols, out_cols)):
                found |= votes[col]
            mask[block_row * grid_cols + block] = found
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
    _OWNED_ROWS,
    _OWNED_ROWS_WIDTH,
    _OWNED_COLS,
    _OWNED_COLS_WIDTH,
    _ROW_BLOCKS,
    _ROW_BLOCKS_WIDTH,
    _COL_BLOCKS,
    _COL_BLOCKS_WIDTH,
    _MOVED,
    _MOVED_COUNT,
    _COPY,
    _CLEAR,
) = range(FIRST_FIELD, FIRST_FIELD + 26)
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
    height, width = step[_OWNED_ROWS_WIDTH], step[_OWNED_COLS_WIDTH]
    for index in range(first, last):
        rows = words(step[_OWNED_ROWS] + 8 * height * (positions[index] >> 16), height)
        cols = words(step[_OWNED_COLS] + 8 * width * (positions[index] & 0xFFFF), width)
        for r in range(1, 1 + rows[0]):
            for c in range(1, 1 + cols[0]):
                if _settled(step, rows[r], cols[c]):
                    _move_pixel(step, rows[r], cols[c])
    return 0

"""Lowering: masks of one frame -> Tiles, compiled.

Three steps: coarsen every mask to tiles, size the table, fill it. MODEL.md, "What moves per tile", explains the formulas.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from skipsim.simulator import tiles as table
from skipsim.simulator.dataflow import WHOLE_PASS
from skipsim.simulator.tiles import Tiles

LAST, INPUT, OUTPUT, UNIT = table.LAST, table.INPUT, table.OUTPUT, table.UNIT

FLAGS, GROUP, INDEX, GATHER, GATHER_PORT, READ = (
    table.R[name] for name in ("flags", "group", "index", "gather", "gather_port", "read")
)
WEIGHT_PORT, WEIGHT_READ, COMPUTE = (table.R[name] for name in ("weight_port", "weight_read", "compute"))
SCATTER, SCATTER_PORT, WRITE = (table.R[name] for name in ("scatter", "scatter_port", "write"))

FIRST_ROW, ROWS, LAUNCH, GATE = (table.S[name] for name in ("first_row", "rows", "launch", "gate"))
GATE_READ, SCAN, PREFETCH_PORT, PREFETCH_READ = (
    table.S[name] for name in ("gate_read", "index", "prefetch_port", "prefetch_read")
)

MACS, COMPUTED_MACS, DENSE_MACS, GATE_ELEMENTS, MAP_TILES, ACTIVE_TILES, PASSES, COMPUTED, ASKED = (
    table.W[name]
    for name in (
        "macs", "computed_macs", "dense_macs", "gate_elements", "tiles", "active_tiles", "passes", "computed_pixels",
        "active_pixels",
    )
)  # fmt: skip
DRAM_READ, DRAM_WRITE, WEIGHT_BYTES, GATE_BYTES, INPUT_BUFFER, WEIGHT_BUFFER, OUTPUT_BUFFER, GLOBAL_BUFFER, ARRAY = (
    table.W[name]
    for name in (
        "dram_read_bytes", "dram_write_bytes", "weight_read_bytes", "gate_read_bytes", "input_buffer_bytes",
        "weight_buffer_bytes", "output_buffer_bytes", "global_buffer_bytes", "array_cycles",
    )
)  # fmt: skip

# What a tile moves in one direction: descriptors, contiguous segments, bytes, of these DRAM bytes (bursts rounded up)
# and bytes that the global buffer keeps.
STREAMS, SEGMENTS, BYTES, DRAM_BYTES, ON_CHIP = range(5)


@numba.njit(cache=True)
def _ceil(amount, units, cycles):
    """Return whole cycles for `amount` at units/cycles per cycle; 0 units = no limit."""
    return 0 if units == 0 else (amount * cycles + units - 1) // units


@numba.njit(cache=True)
def _bytes(values, bits):
    return (values * bits + 7) // 8


@numba.njit(cache=True)
def _active_tiles(bits, offsets, plans, active, first):
    """List the active tiles of every layer, row by row; return how many there are.

    `active` [tiles of all layers, 2] gets (tile row, tile column); `first` [layers + 1] where each layer's begin.
    Also returns, per layer, the output positions that the mask asked for.
    """
    asked = np.zeros(len(plans), np.int64)
    found = 0
    for number in range(len(plans)):
        p = plans[number]
        first[number] = found
        rows, cols = -(-p.out_rows // p.tile_rows), -(-p.out_cols // p.tile_cols)
        if not p.gated:
            asked[number] = p.out_rows * p.out_cols
            for row in range(rows):
                for col in range(cols):
                    active[found, 0], active[found, 1] = row, col
                    found += 1
            continue
        grid_rows, grid_cols = -(-p.out_rows // p.block_rows), -(-p.out_cols // p.block_cols)
        wanted = np.zeros((rows, cols), np.bool_)
        for block_row in range(grid_rows):
            top, bottom = block_row * p.block_rows, min((block_row + 1) * p.block_rows, p.out_rows)
            tile_top, tile_bottom = top // p.tile_rows, (bottom - 1) // p.tile_rows
            base = offsets[number] + block_row * grid_cols
            for block_col in range(grid_cols):
                if bits[base + block_col]:
                    left, right = block_col * p.block_cols, min((block_col + 1) * p.block_cols, p.out_cols)
                    asked[number] += (bottom - top) * (right - left)
                    for row in range(tile_top, tile_bottom + 1):
                        for col in range(left // p.tile_cols, (right - 1) // p.tile_cols + 1):
                            wanted[row, col] = True
        for row in range(rows):
            for col in range(cols):
                if wanted[row, col]:
                    active[found, 0], active[found, 1] = row, col
                    found += 1
    first[len(plans)] = found
    return asked


@numba.njit(cache=True)
def _add(moved, p, rows, cols, map_rows, map_cols, channels, map_channels, bits, in_dram):
    """Add one stream, a rows x cols x channels cut of a map, to what a tile moves: its contiguous segments and bytes."""
    if rows <= 0 or cols <= 0:
        return
    if p.channels_first:
        whole_rows = cols == map_cols
        segments = channels * (1 if whole_rows else rows)
        values = cols * (rows if whole_rows else 1)
        if whole_rows and rows == map_rows:
            segments, values = 1, values * channels
    elif channels == map_channels:
        segments = 1 if cols == map_cols else rows
        values = cols * channels * (rows if cols == map_cols else 1)
    else:
        segments, values = rows * cols, channels
    each = _bytes(values, bits)
    moved[STREAMS] += 1
    moved[SEGMENTS] += segments
    moved[BYTES] += segments * each
    if in_dram:
        moved[DRAM_BYTES] += segments * (-(-each // p.burst) * p.burst)
    else:
        moved[ON_CHIP] += segments * each


@numba.njit(cache=True)
def _bounds(p, tile_row, tile_col):
    """Return a tile's output rows and columns and its input window, all clipped: (r0, r1, c0, c1, y0, y1, x0, x1)."""
    r0, c0 = tile_row * p.tile_rows, tile_col * p.tile_cols
    r1, c1 = min(r0 + p.tile_rows, p.out_rows), min(c0 + p.tile_cols, p.out_cols)
    y0, x0 = max(0, r0 * p.stride_rows - p.padding_top), max(0, c0 * p.stride_cols - p.padding_left)
    y1 = min(p.in_rows, (r1 - 1) * p.stride_rows - p.padding_top + p.extent_rows)
    x1 = min(p.in_cols, (c1 - 1) * p.stride_cols - p.padding_left + p.extent_cols)
    return r0, r1, c0, c1, y0, max(y0, y1), x0, max(x0, x1)


@numba.njit(cache=True)
def _add_window(moved, p, bounds, left, channels, in_dram):
    """Add a tile's input window, from column `left` on."""
    y0, y1, x1 = bounds[4], bounds[5], bounds[7]
    _add(moved, p, y1 - y0, x1 - left, p.in_rows, p.in_cols, channels, p.in_channels, p.activation_bits, in_dram)


@numba.njit(cache=True)
def _add_outputs(moved, p, bounds, channels, bits, in_dram):
    """Add a tile's outputs."""
    rows, cols = bounds[1] - bounds[0], bounds[3] - bounds[2]
    _add(moved, p, rows, cols, p.out_rows, p.out_cols, channels, p.out_channels, bits, in_dram)


@numba.njit(cache=True)
def _add_footprint(moved, p, bounds):
    """Add the inputs that a tile stands on, halo left out: what becomes the reference when the tile was computed."""
    rows = min(p.in_rows, bounds[1] * p.stride_rows) - min(p.in_rows, bounds[0] * p.stride_rows)
    cols = min(p.in_cols, bounds[3] * p.stride_cols) - min(p.in_cols, bounds[2] * p.stride_cols)
    _add(
        moved, p, rows, cols, p.in_rows, p.in_cols, p.in_channels, p.in_channels, p.activation_bits, p.reference_in_dram
    )  # fmt: skip


@numba.njit(cache=True)
def _outputs_outermost(p, shares, active, first, end):
    """Whether slices of the outputs run one after the other over all tiles (inputs read again for each), not tile by tile.

    Whatever moves fewer bytes to and from memory; a tie goes to reading weights once.
    """
    if p.splits == 1 or not p.regroups or p.chunks > 1:
        return True
    moved = np.zeros(5, np.int64)
    for number in range(first, end):
        bounds = _bounds(p, active[number, 0], active[number, 1])
        _add_window(moved, p, bounds, bounds[6], p.in_channels, p.input_in_dram)
        if p.reads_reference:
            _add_window(moved, p, bounds, bounds[6], p.in_channels, p.reference_in_dram)
    weights = 0
    for split in range(p.splits):
        weights += shares[p.first_share + split].weight_bytes
    units = -(-(end - first) // p.packed)
    return p.splits * moved[DRAM_BYTES] + weights <= moved[DRAM_BYTES] + units * weights


@numba.njit(cache=True)
def _tile(p, share, row, work, read, write, bounds, left, gathers, begins, ends, moves_reference):
    """Fill one row. `gathers`: its inputs are read; `begins`, `ends`: it is the first, the last, slice of its outputs."""
    pixels = (bounds[1] - bounds[0]) * (bounds[3] - bounds[2])
    read[:], write[:] = 0, 0
    if gathers:
        _add_window(read, p, bounds, left, share.in_channels, p.input_in_dram)
        if p.reads_reference:
            _add_window(read, p, bounds, left, share.in_channels, p.reference_in_dram)
        work[INPUT_BUFFER] += read[BYTES]
    if begins:
        if p.reads_state:
            _add_outputs(read, p, bounds, share.out_channels, p.state_bits, p.output_in_dram)
        if p.fused_gate and not p.writes_delta:
            _add_outputs(read, p, bounds, share.out_channels, p.activation_bits, p.reference_in_dram)
    compared = 0
    if ends:
        _add_outputs(write, p, bounds, share.out_channels, p.state_bits, p.output_in_dram)
        work[OUTPUT_BUFFER] += write[BYTES]
        if p.writes_delta:
            _add_outputs(write, p, bounds, share.out_channels, p.activation_bits, p.output_in_dram)
        if moves_reference:
            _add_footprint(write, p, bounds)
        if p.fused_gate:
            compared = pixels * share.out_channels
    row[GATHER] = read[STREAMS] * p.gather_setup + read[SEGMENTS] * p.gather_segment
    row[GATHER_PORT] = _ceil(read[BYTES], p.gather_rate, p.gather_rate_cycles)
    row[READ] = _ceil(read[DRAM_BYTES], p.memory_rate, p.memory_rate_cycles)
    row[SCATTER] = write[STREAMS] * p.scatter_setup + write[SEGMENTS] * p.scatter_segment
    compare_cycles = _ceil(compared, p.gate_rate, p.gate_rate_cycles)
    row[SCATTER_PORT] = max(_ceil(write[BYTES], p.scatter_rate, p.scatter_rate_cycles), compare_cycles)
    row[WRITE] = _ceil(write[DRAM_BYTES], p.memory_rate, p.memory_rate_cycles)
    work[DRAM_READ] += read[DRAM_BYTES]
    work[DRAM_WRITE] += write[DRAM_BYTES]
    work[GLOBAL_BUFFER] += read[ON_CHIP] + write[ON_CHIP]
    work[GATE_ELEMENTS] += compared
    return pixels


@numba.njit(cache=True)
def _array(p, share, row, work, pixels):
    """Put the array's cycles on the last row of a pass, and book what it reads and writes in its buffers."""
    folds = 1 if share.fold_pixels >= WHOLE_PASS else -(-pixels // share.fold_pixels)
    row[FLAGS] |= LAST
    row[COMPUTE] = share.cycles_per_fold * folds + -(-share.cycles_per_pixel * pixels // share.pixel_divisor)
    work[PASSES] += 1
    work[ARRAY] += row[COMPUTE]
    work[INPUT_BUFFER] += _bytes(share.inputs_per_pixel * pixels, p.activation_bits)
    work[WEIGHT_BUFFER] += _bytes(share.weights_per_fold * folds, p.weight_bits)
    work[OUTPUT_BUFFER] += _bytes(share.outputs_per_pixel * pixels, p.accumulator_bits)


@numba.njit(cache=True)
def _layer(p, shares, active, first, end, rows, at, work):
    """Fill the rows of one layer, starting at row `at`. Return the row after the last, and how its weights are fetched."""
    outputs_outermost = _outputs_outermost(p, shares, active, first, end)
    units = -(-(end - first) // p.packed)
    # Weights that change with every pass are fetched whole by whichever core needs them; others are shared out once.
    per_chunk = p.chunks > 1 and shares[p.first_share].weight_group != shares[p.first_share + 1].weight_group
    streamed = per_chunk or not outputs_outermost
    sharers = 1 if streamed else max(1, min(p.cores, units))
    read, write = np.zeros(5, np.int64), np.zeros(5, np.int64)
    outer, inner = (p.splits, 1) if outputs_outermost else (1, p.splits)
    for outer_split in range(outer):
        for pack in range(first, end, p.packed):
            for inner_split in range(inner):
                split = outer_split + inner_split
                for chunk in range(p.chunks):
                    share = shares[p.first_share + split * p.chunks + chunk]
                    gathers = inner_split == 0
                    weight_bytes = -(-(-(-share.weight_bytes // sharers)) // p.burst) * p.burst
                    if streamed or (pack == first and chunk == 0):
                        work[WEIGHT_BYTES] += weight_bytes * sharers
                    rows[at, FLAGS] = (OUTPUT if chunk == 0 else 0) | (INPUT if gathers else 0)
                    rows[at, FLAGS] |= UNIT if chunk == 0 and inner_split == 0 else 0
                    pixels = 0
                    for number in range(pack, min(pack + p.packed, end)):
                        bounds = _bounds(p, active[number, 0], active[number, 1])
                        left = bounds[6]
                        if (
                            p.merge_halo
                            and number > pack  # the neighbour's window lies in the same part of the buffer
                            and active[number - 1, 0] == active[number, 0]
                            and active[number - 1, 1] == active[number, 1] - 1
                        ):
                            left = max(
                                left, min(bounds[7], _bounds(p, active[number - 1, 0], active[number - 1, 1])[7])
                            )
                        row = rows[at]
                        row[GROUP] = share.weight_group
                        row[INDEX] = p.index_cycles if outer_split == 0 and inner_split == 0 and chunk == 0 else 0
                        row[WEIGHT_PORT] = _ceil(weight_bytes, p.gather_rate, p.gather_rate_cycles)
                        row[WEIGHT_READ] = _ceil(weight_bytes, p.memory_rate, p.memory_rate_cycles)
                        ends = chunk == p.chunks - 1
                        moves_reference = p.writes_reference and split == 0
                        pixels += _tile(
                            p, share, row, work, read, write, bounds, left, gathers, chunk == 0, ends, moves_reference
                        )  # fmt: skip
                        at += 1
                    if split == 0 and chunk == 0:
                        work[COMPUTED] += pixels
                    _array(p, share, rows[at - 1], work, pixels)
    return at, streamed, sharers


@numba.njit(cache=True)
def _prefetch(p, shares, stage, work, streamed, sharers, units, first_of_frame):
    """Fill the stage's weights that may come early, and book what that changes in bytes."""
    slices = 1 if streamed else p.cores
    each = -(-(-(-shares[p.first_share].weight_bytes // slices)) // p.burst) * p.burst
    stage[PREFETCH_PORT] = _ceil(each, p.gather_rate, p.gather_rate_cycles)
    stage[PREFETCH_READ] = _ceil(each, p.memory_rate, p.memory_rate_cycles)
    if not first_of_frame and stage[PREFETCH_PORT] + stage[PREFETCH_READ] > 0:
        later = -(-(-(-shares[p.first_share].weight_bytes // sharers)) // p.burst) * p.burst
        work[WEIGHT_BYTES] += each * p.cores - later * min(p.cores, units)


@numba.njit(cache=True, nogil=True)
def _fill(asked, plans, shares, active, first, rows, stages, work):
    """Fill the whole table of a frame."""
    at = 0
    for number in range(len(plans)):
        p, stage, done = plans[number], stages[number], work[number]
        stage[FIRST_ROW] = at
        at, streamed, sharers = _layer(p, shares, active, first[number], first[number + 1], rows, at, done)
        stage[ROWS] = at - stage[FIRST_ROW]
        stage[LAUNCH], stage[GATE], stage[SCAN] = p.launch, p.gate_cycles, p.scan_cycles
        stage[GATE_READ] = _ceil(p.gate_dram_bytes, p.memory_rate, p.memory_rate_cycles)
        count = first[number + 1] - first[number]
        if p.prefetch:
            _prefetch(p, shares, stage, done, streamed, sharers, -(-count // p.packed), number == 0)
        done[MAP_TILES] = -(-p.out_rows // p.tile_rows) * -(-p.out_cols // p.tile_cols)
        done[ACTIVE_TILES], done[ASKED] = count, asked[number]
        done[MACS] = asked[number] * p.macs_per_pixel + p.gate_macs
        done[COMPUTED_MACS] = done[COMPUTED] * p.macs_per_pixel
        done[DENSE_MACS] = p.out_rows * p.out_cols * p.macs_per_pixel
        done[GATE_ELEMENTS] += p.gate_elements
        done[GATE_BYTES] = p.gate_dram_bytes
        done[WEIGHT_BUFFER] += done[WEIGHT_BYTES]
        done[DRAM_READ] += done[WEIGHT_BYTES] + p.gate_dram_bytes
        done[GLOBAL_BUFFER] += p.gate_read_bytes - p.gate_dram_bytes


def lower(
    bits: NDArray[np.uint8], offsets: NDArray[np.int64], plans: NDArray[np.void], shares: NDArray[np.void]
) -> Tiles:
    """Make the table of one frame.

    `bits`: the frame's masks, 0 or 1, layer i's from `offsets[i]` on, row by row (Trace.frame_bits); `plans`, `shares`: plan_arrays.
    """
    most = -(-plans["out_rows"] // plans["tile_rows"]) * -(-plans["out_cols"] // plans["tile_cols"])
    active = np.empty((int(most.sum()), 2), np.int64)
    first = np.zeros(len(plans) + 1, np.int64)
    asked = _active_tiles(bits, offsets, plans, active, first)
    rows = np.zeros((int((np.diff(first) * plans["splits"] * plans["chunks"]).sum()), len(table.ROW_COLUMNS)), np.int64)
    stages = np.zeros((len(plans), len(table.STAGE_COLUMNS)), np.int64)
    work = np.zeros((len(plans), len(table.WORK_COLUMNS)), np.int64)
    _fill(asked, plans, shares, active, first, rows, stages, work)
    return Tiles(rows, stages, work)

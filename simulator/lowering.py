"""Lowering: masks of one frame -> Tiles, compiled.

Three steps: coarsen every mask to tiles (coarsen.py), size the table, fill it. MODEL.md, "What moves per tile",
explains the formulas; streams.py counts segments and bytes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skipsim.compiled import compiled, inlined
from skipsim.simulator import tiles as table
from skipsim.simulator.bursts import MOVE_COLUMNS
from skipsim.simulator.coarsen import active_tiles, count_taps
from skipsim.simulator.dataflow import WHOLE_PASS
from skipsim.simulator.shapes import WINDOW, Shapes, copy_ready, ready_at, shape_of, shapes_of
from skipsim.simulator.streams import (
    DRAM_BYTES,
    MOVES,
    add_window,
    bytes_of_values,
    cycles_for,
    first_new_column,
    port_cycles,
    tile_bounds,
    whole_bursts,
)
from skipsim.simulator.tile_row import INPUT_MAP, REFERENCE, REGIONS, WEIGHTS, Part, fill_tile
from skipsim.simulator.tiles import Tiles
from skipsim.simulator.workspace import Workspace

LAST, INPUT, OUTPUT, UNIT, SHARED = table.LAST, table.INPUT, table.OUTPUT, table.UNIT, table.SHARED

FLAGS, GROUP, INDEX = (table.R[name] for name in ("flags", "group", "index"))
WEIGHT_PORT, WEIGHT_READ, COMPUTE = (table.R[name] for name in ("weight_port", "weight_read", "compute"))

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
DRAM_READ, WEIGHT_BYTES, GATE_BYTES, INPUT_BUFFER, WEIGHT_BUFFER, OUTPUT_BUFFER, GLOBAL_BUFFER, ARRAY = (
    table.W[name]
    for name in (
        "dram_read_bytes", "weight_read_bytes", "gate_read_bytes", "input_buffer_bytes",
        "weight_buffer_bytes", "output_buffer_bytes", "global_buffer_bytes", "array_cycles",
    )
)  # fmt: skip
COMMANDS, SCANNED, DESCRIPTORS, PIECES = (
    table.W[name] for name in ("commands", "scanned_blocks", "descriptors", "segments")
)


@compiled
def _window_bytes(p, layer, shapes, base, active, first, end, moved, unused):
    """Return the DRAM bytes of the tiles' input windows, all channels."""
    moved[:] = 0
    for tile in range(first, end):
        if len(shapes.ready):
            moved[DRAM_BYTES] += shapes.ready[ready_at(shapes, layer, 0, True, active[tile, 3]), WINDOW]
            continue
        moved[MOVES] = 0
        bounds = tile_bounds(p, active[tile, 0], active[tile, 1])
        add_window(moved, unused, p, base[INPUT_MAP], bounds, bounds[6], 0, p.ins, p.input_in_dram)
        if p.reads_reference:
            add_window(moved, unused, p, base[REFERENCE], bounds, bounds[6], 0, p.ins, p.reference_in_dram)
    return moved[DRAM_BYTES]


@compiled
def _outputs_outermost(p, layer, shares, shapes, base, active, first, end, packed, moved, unused):
    """Whether slices of the outputs run one after the other over all tiles (inputs read again), not tile by tile.

    Whatever moves fewer bytes to and from memory; a tie goes to reading weights once.
    """
    if p.splits == 1 or not p.regroups or p.chunks > 1:
        return True
    windows = _window_bytes(p, layer, shapes, base, active, first, end, moved, unused)
    weights = 0
    for split in range(p.splits):
        weights += shares[p.first_share + split].weight_bytes
    units = -(-(end - first) // packed)
    return p.splits * windows + weights <= windows + units * weights


@inlined
def _array(p, share, row, work, pixels, steps):
    """Put the array's cycles on the last row of a pass, and book what it reads and writes in its buffers.

    `steps`: its output positions, or the taps on inputs that are not zero.
    """
    folds = 1 if share.fold_pixels >= WHOLE_PASS else -(-pixels // share.fold_pixels)
    row[FLAGS] |= LAST
    row[COMPUTE] = share.cycles_per_fold * folds + -(-share.cycles_per_pixel * steps // share.pixel_divisor)
    work[PASSES] += 1
    work[ARRAY] += row[COMPUTE]
    work[INPUT_BUFFER] += bytes_of_values(share.inputs_per_pixel * pixels, p.activation_bits)
    work[WEIGHT_BUFFER] += bytes_of_values(share.weights_per_fold * folds, p.weight_bits)
    work[OUTPUT_BUFFER] += bytes_of_values(share.outputs_per_pixel * pixels, p.accumulator_bits)


@compiled
def _layer(
    p, layer, shares, shapes, base, active, first, end, rows, requests, moves, used, at, work, read, write, unused
):  # fmt: skip
    """Fill the rows of one layer from row `at` and move `used` on.

    Returns the next row and move, and whether weights are fetched once for all cores.
    """
    packed = min(p.packed, max(1, -(-(end - first) // p.cores)))  # a pass for every core is worth more than full folds
    alike = len(shapes.ready) > 0
    if alike:
        for tile in range(first, end):
            active[tile, 3] = shape_of(shapes, layer, active[tile, 0], active[tile, 1])
    outputs_outermost = _outputs_outermost(
        p, layer, shares, shapes, base, active, first, end, packed, read, unused
    )  # fmt: skip
    # Weights that change with every pass are fetched by whichever core needs them; others once for all cores.
    per_chunk = p.chunks > 1 and shares[p.first_share].weight_group != shares[p.first_share + 1].weight_group
    shared = not per_chunk and outputs_outermost
    sharers = max(1, min(p.cores, -(-(end - first) // packed))) if shared else 1
    first_weights = used
    if p.banked:
        address = base[WEIGHTS]
        for number in range(p.splits * p.chunks):
            share = shares[p.first_share + number]
            moves[used] = (address, share.weight_bytes, 1, 0, 1, 0)
            used += 1
            if (
                number + 1 < p.splits * p.chunks
                and share.weight_group != shares[p.first_share + number + 1].weight_group
            ):
                address += share.weight_bytes
    write[MOVES] = used
    outer, inner = (p.splits, 1) if outputs_outermost else (1, p.splits)
    out_channel = 0
    for outer_split in range(outer):
        for pack in range(first, end, packed):
            inner_channel = out_channel
            for inner_split in range(inner):
                split = outer_split + inner_split
                in_channel = 0 if p.regroups else inner_channel * p.ins // p.outs
                for chunk in range(p.chunks):
                    number = split * p.chunks + chunk
                    share = shares[p.first_share + number]
                    part = Part(inner_split == 0, chunk == 0, chunk == p.chunks - 1, in_channel, inner_channel)
                    weight_bytes = whole_bursts(p, share.weight_bytes)
                    if not shared or (pack == first and chunk == 0):
                        cut = moves[first_weights + number, 0] % p.burst if p.banked else 0  # of the first burst
                        work[WEIGHT_BYTES] += whole_bursts(p, cut + share.weight_bytes)
                        work[DESCRIPTORS] += 1
                        work[PIECES] += 1
                    flags = (OUTPUT if part.begins else 0) | (INPUT if part.gathers else 0)
                    flags |= (UNIT if part.begins and part.gathers else 0) | (SHARED if shared else 0)
                    weight_port = cycles_for(-(-weight_bytes // sharers), p.gather_rate, p.gather_rate_cycles)
                    weight_read, index = port_cycles(p, weight_bytes), p.index_cycles if number == 0 else 0
                    pixels = steps = 0
                    for tile in range(pack, min(pack + packed, end)):
                        row = rows[at]
                        row[FLAGS] = flags if tile == pack else 0
                        row[COMPUTE], row[GROUP], row[INDEX] = 0, share.weight_group, index
                        row[WEIGHT_PORT], row[WEIGHT_READ] = weight_port, weight_read
                        steps += active[tile, 2]
                        at += 1
                        if alike:
                            at_shape = ready_at(shapes, layer, number, part.gathers, active[tile, 3])
                            pixels += copy_ready(shapes.ready[at_shape], row, work)
                            continue
                        bounds = tile_bounds(p, active[tile, 0], active[tile, 1])
                        left = bounds[6]
                        if p.merge_halo and tile > pack:  # the neighbour's window lies in the same part of the buffer
                            left = first_new_column(p, active, tile, bounds)
                        request = requests[at - 1 if p.banked else 0]
                        request[2], request[3] = first_weights + number, 1
                        pixels += fill_tile(p, share, part, row, request, work, moves, base, bounds, left, read, write)
                    if number == 0:
                        work[COMPUTED] += pixels
                    _array(p, share, rows[at - 1], work, pixels, steps if p.zero_inputs else pixels)
                    in_channel += share.in_channels
                inner_channel += share.out_channels
        out_channel += shares[p.first_share + outer_split * p.chunks].out_channels
    return at, write[MOVES], shared


@compiled
def _gate_moves(p, base, moves, used):
    """Note where the maps lie that a gate streams; return the next free move."""
    values = p.in_rows * p.in_cols * p.in_channels
    each = bytes_of_values(values, p.activation_bits)
    if p.gate_dram_bytes and p.input_in_dram:
        moves[used] = (base[INPUT_MAP], each, 1, 0, 1, 0)
        used += 1
    if p.gate_dram_bytes > each or (p.gate_dram_bytes and not p.input_in_dram):
        moves[used] = (base[REFERENCE], each, 1, 0, 1, 0)
        used += 1
    return used


@compiled
def _fill(
    asked, plans, shares, shapes, bases, active, first, rows, stages, work, requests, stage_requests, moves, read,
    write, unused,
):  # fmt: skip
    """Fill the whole table of a frame; return how many moves it took."""
    at = used = 0
    for number in range(len(plans)):
        p, stage, done, base = plans[number], stages[number], work[number], bases[number]
        stage[FIRST_ROW] = at
        at, after, shared = _layer(
            p, number, shares, shapes, base, active, first[number], first[number + 1], rows, requests, moves, used, at,
            done, read, write, unused,
        )  # fmt: skip
        first_weights, used = used, after
        stage[ROWS] = at - stage[FIRST_ROW]
        stage[LAUNCH], stage[GATE], stage[SCAN] = p.launch, p.gate_cycles, p.scan_cycles
        stage[GATE_READ] = port_cycles(p, p.gate_dram_bytes)
        count = first[number + 1] - first[number]
        early = 0
        if p.prefetch and count and (shared or p.cores == 1):
            early = whole_bursts(p, shares[p.first_share].weight_bytes)
        stage[PREFETCH_PORT] = cycles_for(-(-early // p.cores), p.gather_rate, p.gather_rate_cycles)
        stage[PREFETCH_READ] = port_cycles(p, early)
        gate_bytes = p.gate_dram_bytes
        if p.banked:
            request = stage_requests[number]
            request[0], used = used, _gate_moves(p, base, moves, used)
            request[1] = used - request[0]
            request[2], request[3] = first_weights, 1
            map_bytes = bytes_of_values(p.in_rows * p.in_cols * p.in_channels, p.activation_bits)
            gate_bytes = request[1] * whole_bursts(p, map_bytes)
        done[MAP_TILES] = -(-p.out_rows // p.tile_rows) * -(-p.out_cols // p.tile_cols)
        done[ACTIVE_TILES], done[ASKED] = count, asked[number]
        done[MACS] = asked[number] * p.macs_per_pixel + p.gate_macs
        done[COMPUTED_MACS] = done[COMPUTED] * p.macs_per_pixel
        done[DENSE_MACS] = p.out_rows * p.out_cols * p.dense_macs_per_pixel
        done[GATE_ELEMENTS] += p.gate_elements
        done[GATE_BYTES] = gate_bytes
        done[COMMANDS] = p.launched + done[PASSES]
        done[SCANNED] = p.scan_blocks
        done[WEIGHT_BUFFER] += done[WEIGHT_BYTES]
        done[DRAM_READ] += done[WEIGHT_BYTES] + gate_bytes
        done[GLOBAL_BUFFER] += p.gate_read_bytes - p.gate_dram_bytes
    return used


def _moves_of(plans: NDArray[np.void], counts: NDArray[np.int64]) -> int:
    """Return the most moves that a frame can take: streams of every row, weights, gate and prefetch of every layer."""
    reads = 1 + plans["reads_reference"] + plans["reads_state"] + plans["fused_gate"]
    writes = 1 + plans["writes_delta"] + plans["writes_reference"]
    slices = plans["splits"] * plans["chunks"]
    return int((counts * slices * (reads + writes) + slices + 2).sum())


def lower(
    bits: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    plans: NDArray[np.void],
    shares: NDArray[np.void],
    bases: NDArray[np.int64] | None = None,
    workspace: Workspace | None = None,
    shapes: Shapes | None = None,
) -> Tiles:
    """Make the table of one frame.

    `bits`: the frame's masks, 0 or 1, layer i's from `offsets[i]` on, row by row (Trace.frame_bits). `plans`, `shares`:
    plan_arrays. `bases` [layers, len(REGIONS)]: where each layer's maps and weights lie, for a banked memory.
    `workspace`: where rows, moves and requests are made, so that they hold until the next table; else they are new.
    `shapes`: those of the plans, if they are there already.
    """
    most = -(-plans["out_rows"] // plans["tile_rows"]) * -(-plans["out_cols"] // plans["tile_cols"])
    workspace, shapes = workspace or Workspace(), shapes or shapes_of(plans, shares)
    active = workspace.array("active", int(most.sum()), 4)
    first = np.zeros(len(plans) + 1, np.int64)
    asked = np.zeros(len(plans), np.int64)
    active_tiles(bits, offsets, plans, active, first, asked, np.empty(int(most.max()), np.bool_))
    if plans["zero_inputs"].any():
        count_taps(bits, offsets, plans, active, first)
    counts = np.diff(first)
    row_count = int((counts * plans["splits"] * plans["chunks"]).sum())
    rows = workspace.array("rows", row_count, len(table.ROW_COLUMNS))
    stages = np.zeros((len(plans), len(table.STAGE_COLUMNS)), np.int64)
    work = np.zeros((len(plans), len(table.WORK_COLUMNS)), np.int64)
    banked = bool(plans["banked"].any())
    requests = workspace.array("requests", row_count if banked else 1, len(table.REQUEST_COLUMNS))
    stage_requests = np.zeros((len(plans) if banked else 1, len(table.STAGE_REQUEST_COLUMNS)), np.int64)
    moves = workspace.array("moves", _moves_of(plans, counts) if banked else 1, len(MOVE_COLUMNS))
    if bases is None:
        bases = np.zeros((len(plans), len(REGIONS)), np.int64)
    read, write = (np.zeros(MOVES + 1, np.int64) for _ in range(2))
    used = _fill(
        asked, plans, shares, shapes, bases, active, first, rows, stages, work, requests, stage_requests, moves, read,
        write, np.empty((2, len(MOVE_COLUMNS)), np.int64),
    )  # fmt: skip
    if not banked:
        return Tiles(rows, stages, work)
    return Tiles(rows, stages, work, moves[:used], requests, stage_requests)

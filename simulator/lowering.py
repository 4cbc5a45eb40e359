"""Lowering: masks of one frame -> Tiles, compiled.

Three steps: coarsen every mask to tiles (coarsen.py), size the table, fill it. MODEL.md, "What moves per tile",
explains the formulas; streams.py counts segments and bytes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skipsim.compiled import compiled, inlined
from skipsim.simulator import tiles as table
from skipsim.simulator.bursts import MOVE_COLUMNS
from skipsim.simulator.coarsen import active_tiles, count_taps
from skipsim.simulator.dataflow import WHOLE_PASS
from skipsim.simulator.streams import (
    BYTES,
    DRAM_BYTES,
    MOVES,
    ON_CHIP,
    SEGMENTS,
    STREAMS,
    add_footprint,
    add_outputs,
    add_window,
    bytes_of_values,
    cycles_for,
    first_new_column,
    port_cycles,
    tile_bounds,
    whole_bursts,
)
from skipsim.simulator.tiles import Tiles
from skipsim.simulator.workspace import Workspace

LAST, INPUT, OUTPUT, UNIT, SHARED = table.LAST, table.INPUT, table.OUTPUT, table.UNIT, table.SHARED

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
COMMANDS, SCANNED, DESCRIPTORS, PIECES = (
    table.W[name] for name in ("commands", "scanned_blocks", "descriptors", "segments")
)

# Where a layer's data begin.
REGIONS = ("input", "reference", "output", "next_reference", "delta", "weights")
INPUT_MAP, REFERENCE, OUTPUT_MAP, NEXT_REFERENCE, DELTA, WEIGHTS = range(6)


class Part(NamedTuple):
    """Which slice of a layer's channels a pass runs, and what that means for its tiles."""

    gathers: bool  # inputs are read: it does not reuse the previous pass's
    begins: bool  # the first slice of a sum: old outputs are read
    ends: bool  # the last one: outputs are written
    in_channel: int  # where the slice begins
    out_channel: int


@compiled
def _outputs_outermost(p, shares, base, active, first, end, packed, moved, unused):
    """Whether slices of the outputs run one after the other over all tiles (inputs read again), not tile by tile.

    Whatever moves fewer bytes to and from memory; a tie goes to reading weights once.
    """
    if p.splits == 1 or not p.regroups or p.chunks > 1:
        return True
    moved[:] = 0
    for number in range(first, end):
        moved[MOVES] = 0
        bounds = tile_bounds(p, active[number, 0], active[number, 1])
        add_window(moved, unused, p, base[INPUT_MAP], bounds, bounds[6], 0, p.ins, p.input_in_dram)
        if p.reads_reference:
            add_window(moved, unused, p, base[REFERENCE], bounds, bounds[6], 0, p.ins, p.reference_in_dram)
    weights = 0
    for split in range(p.splits):
        weights += shares[p.first_share + split].weight_bytes
    units = -(-(end - first) // packed)
    return p.splits * moved[DRAM_BYTES] + weights <= moved[DRAM_BYTES] + units * weights


@inlined
def _read(p, share, part, moves, base, bounds, left, read):
    """Collect what a tile reads; return the bytes of it that are inputs."""
    if part.gathers:
        add_window(
            read, moves, p, base[INPUT_MAP], bounds, left, part.in_channel, share.in_channels, p.input_in_dram
        )  # fmt: skip
        if p.reads_reference:
            add_window(
                read, moves, p, base[REFERENCE], bounds, left, part.in_channel, share.in_channels, p.reference_in_dram
            )  # fmt: skip
    inputs = read[BYTES]
    if part.begins:
        if p.reads_state:
            add_outputs(
                read, moves, p, base[OUTPUT_MAP], bounds, part.out_channel, share.out_channels, p.state_bits,
                p.output_in_dram,
            )  # fmt: skip
        if p.fused_gate and not p.writes_delta:
            add_outputs(
                read, moves, p, base[NEXT_REFERENCE], bounds, part.out_channel, share.out_channels, p.activation_bits,
                p.reference_in_dram,
            )  # fmt: skip
    return inputs


@inlined
def _write(p, share, part, moves, base, bounds, write):
    """Collect what a tile writes, the output map first."""
    if part.ends:
        add_outputs(
            write, moves, p, base[OUTPUT_MAP], bounds, part.out_channel, share.out_channels, p.state_bits,
            p.output_in_dram,
        )  # fmt: skip
        if p.writes_delta:
            add_outputs(
                write, moves, p, base[DELTA], bounds, part.out_channel, share.out_channels, p.activation_bits,
                p.output_in_dram,
            )  # fmt: skip
        if p.writes_reference and part.out_channel == 0:
            add_footprint(write, moves, p, base[REFERENCE], bounds)


@inlined
def _tile(p, share, part, row, request, work, moves, base, bounds, left, read, write):
    """Fill one row; return its output positions."""
    pixels = (bounds[1] - bounds[0]) * (bounds[3] - bounds[2])
    first = write[MOVES]
    read[:], write[:] = 0, 0
    read[MOVES] = first
    inputs = _read(p, share, part, moves, base, bounds, left, read)
    write[MOVES] = read[MOVES]
    _write(p, share, part, moves, base, bounds, write)
    if p.banked:
        request[0], request[1] = first, read[MOVES] - first
        request[4], request[5] = read[MOVES], write[MOVES] - read[MOVES]
    compared = pixels * share.out_channels if part.ends and p.fused_gate else 0
    row[GATHER] = read[STREAMS] * p.gather_setup + read[SEGMENTS] * p.gather_segment
    row[GATHER_PORT] = cycles_for(read[BYTES], p.gather_rate, p.gather_rate_cycles)
    row[READ] = port_cycles(p, read[DRAM_BYTES])
    row[SCATTER] = write[STREAMS] * p.scatter_setup + write[SEGMENTS] * p.scatter_segment
    compare_cycles = cycles_for(compared, p.gate_rate, p.gate_rate_cycles)
    row[SCATTER_PORT] = max(cycles_for(write[BYTES], p.scatter_rate, p.scatter_rate_cycles), compare_cycles)
    row[WRITE] = port_cycles(p, write[DRAM_BYTES])
    work[DRAM_READ] += read[DRAM_BYTES]
    work[DRAM_WRITE] += write[DRAM_BYTES]
    work[GLOBAL_BUFFER] += read[ON_CHIP] + write[ON_CHIP]
    work[INPUT_BUFFER] += inputs
    work[OUTPUT_BUFFER] += read[BYTES] - inputs + write[BYTES]
    work[GATE_ELEMENTS] += compared
    work[DESCRIPTORS] += read[STREAMS] + write[STREAMS]
    work[PIECES] += read[SEGMENTS] + write[SEGMENTS]
    return pixels


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
def _layer(p, shares, base, active, first, end, rows, requests, moves, used, at, work, read, write, unused):
    """Fill the rows of one layer from row `at` and move `used` on.

    Returns the next row and move, and whether weights are fetched once for all cores.
    """
    packed = min(p.packed, max(1, -(-(end - first) // p.cores)))  # a pass for every core is worth more than full folds
    outputs_outermost = _outputs_outermost(p, shares, base, active, first, end, packed, read, unused)
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
                    pixels = steps = 0
                    for tile in range(pack, min(pack + packed, end)):
                        bounds = tile_bounds(p, active[tile, 0], active[tile, 1])
                        left = bounds[6]
                        if p.merge_halo and tile > pack:  # the neighbour's window lies in the same part of the buffer
                            left = first_new_column(p, active, tile, bounds)
                        row = rows[at]
                        row[FLAGS] = flags if tile == pack else 0
                        row[COMPUTE] = 0
                        row[GROUP] = share.weight_group
                        row[INDEX] = p.index_cycles if number == 0 else 0
                        row[WEIGHT_PORT] = cycles_for(-(-weight_bytes // sharers), p.gather_rate, p.gather_rate_cycles)
                        row[WEIGHT_READ] = port_cycles(p, weight_bytes)
                        request = requests[at if p.banked else 0]
                        request[2], request[3] = first_weights + number, 1
                        pixels += _tile(p, share, part, row, request, work, moves, base, bounds, left, read, write)
                        steps += active[tile, 2]
                        at += 1
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
    asked, plans, shares, bases, active, first, rows, stages, work, requests, stage_requests, moves, read, write, unused
):  # fmt: skip
    """Fill the whole table of a frame; return how many moves it took."""
    at = used = 0
    for number in range(len(plans)):
        p, stage, done, base = plans[number], stages[number], work[number], bases[number]
        stage[FIRST_ROW] = at
        at, after, shared = _layer(
            p, shares, base, active, first[number], first[number + 1], rows, requests, moves, used, at, done, read,
            write, unused,
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
) -> Tiles:
    """Make the table of one frame.

    `bits`: the frame's masks, 0 or 1, layer i's from `offsets[i]` on, row by row (Trace.frame_bits). `plans`, `shares`:
    plan_arrays. `bases` [layers, len(REGIONS)]: where each layer's maps and weights lie, for a banked memory.
    `workspace`: where rows, moves and requests are made, so that they hold until the next table; else they are new.
    """
    most = -(-plans["out_rows"] // plans["tile_rows"]) * -(-plans["out_cols"] // plans["tile_cols"])
    workspace = workspace or Workspace()
    active = workspace.array("active", int(most.sum()), 3)
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
        asked, plans, shares, bases, active, first, rows, stages, work, requests, stage_requests, moves, read, write,
        np.empty((2, len(MOVE_COLUMNS)), np.int64),
    )  # fmt: skip
    if not banked:
        return Tiles(rows, stages, work)
    return Tiles(rows, stages, work, moves[:used], requests, stage_requests)

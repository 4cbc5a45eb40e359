"""Tile row, compiled: what one tile of a layer moves, and so most columns of its row in the table."""

from __future__ import annotations

from typing import NamedTuple

from skipsim.compiled import compiled, inlined
from skipsim.simulator import tiles as table
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
    cycles_for,
    port_cycles,
)

# What a tile fills in: these columns of its row, and these of its stage's work.
ROW_PART = tuple(table.R[name] for name in ("gather", "gather_port", "read", "scatter", "scatter_port", "write"))
WORK_PART = tuple(
    table.W[name]
    for name in (
        "dram_read_bytes", "dram_write_bytes", "input_buffer_bytes", "output_buffer_bytes", "global_buffer_bytes",
        "gate_elements", "descriptors", "segments",
    )
)  # fmt: skip
GATHER, GATHER_PORT, READ, SCATTER, SCATTER_PORT, WRITE = ROW_PART
DRAM_READ, DRAM_WRITE, INPUT_BUFFER, OUTPUT_BUFFER, GLOBAL_BUFFER, GATE_ELEMENTS, DESCRIPTORS, PIECES = WORK_PART

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


@compiled
def fill_tile(p, share, part, row, request, work, moves, base, bounds, left, read, write):
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

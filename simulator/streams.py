"""Streams, compiled: a cut of a map as the contiguous segments, bytes and bursts that a tile moves."""

from __future__ import annotations

from skipsim.compiled import compiled, inlined

# What a tile moves in one direction: descriptors, contiguous segments, bytes, of these DRAM bytes (bursts rounded up)
# and bytes that the global buffer keeps; MOVES counts entries of the table of moves (banked memories).
STREAMS, SEGMENTS, BYTES, DRAM_BYTES, ON_CHIP, MOVES = range(6)


@inlined
def cycles_for(amount, units, cycles):
    """Return whole cycles for `amount` at units/cycles per cycle; 0 units = no limit."""
    return 0 if units == 0 else (amount * cycles + units - 1) // units


@inlined
def bytes_of_values(values, bits):
    """Return the bytes that so many values take, rounded up."""
    return (values * bits + 7) // 8


@inlined
def whole_bursts(p, values):
    """Round up to whole bursts."""
    return -(-values // p.burst) * p.burst


@inlined
def port_cycles(p, dram_bytes):
    """Return the cycles on the memory port; a banked memory finds them out itself and is only told that it is used."""
    if p.banked:
        return 1 if dram_bytes else 0
    return cycles_for(dram_bytes, p.memory_rate, p.memory_rate_cycles)


@inlined
def tile_bounds(p, tile_row, tile_col):
    """Return a tile's output rows and columns and its input window, all clipped: (r0, r1, c0, c1, y0, y1, x0, x1)."""
    r0, c0 = tile_row * p.tile_rows, tile_col * p.tile_cols
    r1, c1 = min(r0 + p.tile_rows, p.out_rows), min(c0 + p.tile_cols, p.out_cols)
    y0, x0 = max(0, r0 * p.stride_rows - p.padding_top), max(0, c0 * p.stride_cols - p.padding_left)
    y1 = min(p.in_rows, (r1 - 1) * p.stride_rows - p.padding_top + p.extent_rows)
    x1 = min(p.in_cols, (c1 - 1) * p.stride_cols - p.padding_left + p.extent_cols)
    return r0, r1, c0, c1, y0, max(y0, y1), x0, max(x0, x1)


@compiled
def first_new_column(p, active, tile, bounds):
    """Return the first column that a tile must fetch when its left neighbour is the tile before it."""
    if active[tile - 1, 0] != active[tile, 0] or active[tile - 1, 1] != active[tile, 1] - 1:
        return bounds[6]
    return max(bounds[6], min(bounds[7], tile_bounds(p, active[tile - 1, 0], active[tile - 1, 1])[7]))


@compiled
def add_cut(
    moved, moves, p, base, y, x, channel, rows, cols, map_rows, map_cols, channels, map_channels, bits, in_dram
):
    """Add one stream, the cut [y, x, channel] + [rows, cols, channels] of a map at `base`, to what a tile moves."""
    if rows <= 0 or cols <= 0:
        return
    whole_rows = cols == map_cols
    if p.channels_first:
        at = (channel * map_rows + y) * map_cols + x
        values, inner, inner_stride, outer, outer_stride = cols, rows, map_cols, channels, map_rows * map_cols
        if whole_rows:
            values, inner = cols * rows, 1
            if rows == map_rows:
                values, outer = values * channels, 1
    else:
        at = (y * map_cols + x) * map_channels + channel
        values, inner, inner_stride, outer, outer_stride = channels, cols, map_channels, rows, map_cols * map_channels
        if channels == map_channels:
            values, inner = cols * channels, 1
            if whole_rows:
                values, outer = values * rows, 1
    each, segments = bytes_of_values(values, bits), inner * outer
    moved[STREAMS] += 1
    moved[SEGMENTS] += segments
    moved[BYTES] += segments * each
    if not in_dram:
        moved[ON_CHIP] += segments * each
    elif p.banked:
        at = base + at * bits // 8
        _note_move(
            moved,
            moves,
            p,
            at,
            each,
            inner,
            bytes_of_values(inner_stride, bits),
            outer,
            bytes_of_values(outer_stride, bits),
        )
    else:
        moved[DRAM_BYTES] += segments * (-(-each // p.burst) * p.burst)


@compiled
def _note_move(moved, moves, p, address, each, inner, inner_stride, outer, outer_stride):
    """Note where a stream's bytes lie, and count the bursts that its segments touch."""
    m = moves[moved[MOVES]]
    m[0], m[1], m[2], m[3], m[4], m[5] = address, each, inner, inner_stride, outer, outer_stride
    moved[MOVES] += 1
    whole = -p.burst  # the parts' bursts are powers of two: masking rounds down
    touched = (((address + each - 1) & whole) - (address & whole) + p.burst) * inner * outer
    if ((inner_stride if inner > 1 else 0) | (outer_stride if outer > 1 else 0)) & (p.burst - 1):
        touched = 0  # segments lie differently on their bursts
        for high in range(outer):
            begin = address + high * outer_stride
            for _ in range(inner):
                touched += ((begin + each - 1) & whole) - (begin & whole) + p.burst
                begin += inner_stride
    moved[DRAM_BYTES] += touched


@inlined
def add_window(moved, moves, p, base, bounds, left, channel, channels, in_dram):
    """Add a tile's input window, from column `left` on."""
    y0, y1, x1 = bounds[4], bounds[5], bounds[7]
    add_cut(
        moved, moves, p, base, y0, left, channel, y1 - y0, x1 - left, p.in_rows, p.in_cols, channels, p.in_channels,
        p.activation_bits, in_dram,
    )  # fmt: skip


@inlined
def add_outputs(moved, moves, p, base, bounds, channel, channels, bits, in_dram):
    """Add a tile's outputs."""
    rows, cols = bounds[1] - bounds[0], bounds[3] - bounds[2]
    add_cut(
        moved, moves, p, base, bounds[0], bounds[2], channel, rows, cols, p.out_rows, p.out_cols, channels,
        p.out_channels, bits, in_dram,
    )  # fmt: skip


@inlined
def add_footprint(moved, moves, p, base, bounds):
    """Add the inputs that a tile stands on, halo left out: what becomes the reference when the tile was computed."""
    y, x = min(p.in_rows, bounds[0] * p.stride_rows), min(p.in_cols, bounds[2] * p.stride_cols)
    rows, cols = min(p.in_rows, bounds[1] * p.stride_rows) - y, min(p.in_cols, bounds[3] * p.stride_cols) - x
    add_cut(
        moved, moves, p, base, y, x, 0, rows, cols, p.in_rows, p.in_cols, p.in_channels, p.in_channels,
        p.activation_bits, p.reference_in_dram,
    )  # fmt: skip

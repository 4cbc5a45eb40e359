"""Shapes, compiled: the rows of all tiles that a plan can ask for, made once per schedule.

Most tiles of a layer are alike: what one moves depends on how the edges of the maps clip it, not on where it lies. So
lowering a frame copies rows that are there already. Not where a memory is banked (addresses matter), nor where halos
are merged (neighbours matter): then every tile is worked out by itself.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skipsim.compiled import compiled, inlined
from skipsim.simulator import tiles as table
from skipsim.simulator.streams import DRAM_BYTES, MOVES, add_window, tile_bounds
from skipsim.simulator.tile_row import INPUT_MAP, REFERENCE, REGIONS, ROW_PART, WORK_PART, Part, fill_tile

# A row that is ready: columns of the table's row, then what the tile adds to the stage's work, then two sums.
FIRST_WORK = len(ROW_PART)
PIXELS = FIRST_WORK + len(WORK_PART)  # output positions of the tile
WINDOW = PIXELS + 1  # DRAM bytes of all input channels' windows
COLUMNS = WINDOW + 1


class Shapes(NamedTuple):
    """Every layer's shapes of tiles, and a ready row for every slice of channels at every shape."""

    first: Any  # [layers, 3]: where the layer's begin in `of_rows`, in `of_cols`, in `ready`
    count: Any  # [layers, 2]: shapes of tile rows, of tile columns
    of_rows: Any  # [tile rows of all layers] the shape of each
    of_cols: Any  # [tile columns of all layers]
    ready: Any  # [slices x (inputs kept, gathered) x row shapes x column shapes of all layers, COLUMNS]; empty: unused


@inlined
def ready_at(shapes, layer, number, gathers, shape):
    """Return where the row of a layer's slice `number` stands in `ready`."""
    each = shapes.count[layer, 0] * shapes.count[layer, 1]
    return shapes.first[layer, 2] + (2 * number + (1 if gathers else 0)) * each + shape


@inlined
def shape_of(shapes, layer, tile_row, tile_col):
    """Return the number of a tile's shape in its layer."""
    rows = shapes.of_rows[shapes.first[layer, 0] + tile_row]
    return rows * shapes.count[layer, 1] + shapes.of_cols[shapes.first[layer, 1] + tile_col]


@inlined
def copy_ready(ready, row, work):
    """Copy a ready row to the table and add what its tile does to the stage's work; return its output positions."""
    for place in range(len(ROW_PART)):
        row[ROW_PART[place]] = ready[place]
    for place in range(len(WORK_PART)):
        work[WORK_PART[place]] += ready[FIRST_WORK + place]
    return ready[PIXELS]


@compiled
def _name_shapes(begins, sizes, windows, footprints, first, tiles, of):
    """Number the tiles along one side of a map by their sizes; `begins` gets a tile of each. Return how many differ."""
    found = 0
    for tile in range(tiles):
        same = found - 1
        while same >= 0:
            other = begins[same]
            if (
                sizes[tile] == sizes[other]
                and windows[tile] == windows[other]
                and footprints[tile] == footprints[other]
            ):
                break
            same -= 1
        if same < 0:
            begins[found] = tile
            same, found = found, found + 1
        of[first + tile] = same
    return found


@compiled
def _measure(p, along_rows, tiles, sizes, windows, footprints):
    """Note the outputs, the window and the footprint of every tile along one side."""
    for tile in range(tiles):
        bounds = tile_bounds(p, tile if along_rows else 0, 0 if along_rows else tile)
        if along_rows:
            sizes[tile], windows[tile] = bounds[1] - bounds[0], bounds[5] - bounds[4]
            begin, end = bounds[0] * p.stride_rows, bounds[1] * p.stride_rows
            footprints[tile] = min(p.in_rows, end) - min(p.in_rows, begin)
        else:
            sizes[tile], windows[tile] = bounds[3] - bounds[2], bounds[7] - bounds[6]
            begin, end = bounds[2] * p.stride_cols, bounds[3] * p.stride_cols
            footprints[tile] = min(p.in_cols, end) - min(p.in_cols, begin)


@compiled
def _name_all(plans, shapes, begins, scratch):
    """Fill `count`, `of_rows` and `of_cols`; `begins` [layers, 2, most tiles on a side] gets a tile of each shape."""
    for number in range(len(plans)):
        p = plans[number]
        for side in range(2):
            tiles = -(-p.out_rows // p.tile_rows) if side == 0 else -(-p.out_cols // p.tile_cols)
            _measure(p, side == 0, tiles, scratch[0], scratch[1], scratch[2])
            shapes.count[number, side] = _name_shapes(
                begins[number, side], scratch[0], scratch[1], scratch[2], shapes.first[number, side], tiles,
                shapes.of_rows if side == 0 else shapes.of_cols,
            )  # fmt: skip


@compiled
def _make_ready(plans, shares, shapes, begins, base, row, request, work, moves, read, write):
    """Fill `ready`."""
    at = 0
    for layer in range(len(plans)):
        p, in_channel, out_channel = plans[layer], 0, 0
        for number in range(p.splits * p.chunks):
            share, chunk = shares[p.first_share + number], number % p.chunks
            if chunk == 0 and p.regroups:
                in_channel = 0
            for gathers in range(2):
                part = Part(gathers == 1, chunk == 0, chunk == p.chunks - 1, in_channel, out_channel)
                for tile_row in begins[layer, 0, : shapes.count[layer, 0]]:
                    for tile_col in begins[layer, 1, : shapes.count[layer, 1]]:
                        bounds = tile_bounds(p, tile_row, tile_col)
                        work[:] = 0
                        write[MOVES] = 0
                        ready = shapes.ready[at]
                        ready[PIXELS] = fill_tile(
                            p, share, part, row, request, work, moves, base, bounds, bounds[6], read, write
                        )
                        read[:] = 0
                        add_window(read, moves, p, base[INPUT_MAP], bounds, bounds[6], 0, p.ins, p.input_in_dram)
                        if p.reads_reference:
                            add_window(
                                read, moves, p, base[REFERENCE], bounds, bounds[6], 0, p.ins, p.reference_in_dram
                            )  # fmt: skip
                        ready[WINDOW] = read[DRAM_BYTES]
                        for place in range(len(ROW_PART)):
                            ready[place] = row[ROW_PART[place]]
                        for place in range(len(WORK_PART)):
                            ready[FIRST_WORK + place] = work[WORK_PART[place]]
                        at += 1
            in_channel += share.in_channels
            out_channel += share.out_channels if chunk == p.chunks - 1 else 0


def shapes_of(plans: NDArray[np.void], shares: NDArray[np.void]) -> Shapes:
    """Find the shapes of every layer's tiles and make their rows."""
    layers = len(plans)
    along = [-(-plans[f"out_{side}"] // plans[f"tile_{side}"]) for side in ("rows", "cols")]
    first, count = np.zeros((layers, 3), np.int64), np.zeros((layers, 2), np.int64)
    if plans["banked"].any() or plans["merge_halo"].any():
        none = np.zeros(0, np.int64)
        return Shapes(first, count, none, none, np.zeros((0, COLUMNS), np.int64))
    for side in range(2):
        first[:, side] = np.cumsum(along[side]) - along[side]
    of_rows, of_cols = (np.zeros(int(tiles.sum()), np.int64) for tiles in along)
    most = int(max(tiles.max() for tiles in along))
    begins = np.zeros((layers, 2, most), np.int64)
    shapes = Shapes(first, count, of_rows, of_cols, np.zeros((0, COLUMNS), np.int64))
    _name_all(plans, shapes, begins, np.zeros((3, most), np.int64))
    made = 2 * plans["splits"] * plans["chunks"] * count.prod(axis=1)
    first[:, 2] = np.cumsum(made) - made
    shapes = shapes._replace(ready=np.zeros((int(made.sum()), COLUMNS), np.int64))
    row, request, work = (
        np.zeros(len(columns), np.int64) for columns in (table.ROW_COLUMNS, table.REQUEST_COLUMNS, table.WORK_COLUMNS)
    )
    read, write = (np.zeros(MOVES + 1, np.int64) for _ in range(2))
    _make_ready(
        plans, shares, shapes, begins, np.zeros(len(REGIONS), np.int64), row, request, work,
        np.zeros((1, 6), np.int64), read, write,
    )  # fmt: skip
    return shapes

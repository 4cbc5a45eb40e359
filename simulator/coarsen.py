"""Coarsen, compiled: masks at their own blocks to active tiles of any size."""

from __future__ import annotations

from skipsim.compiled import compiled


@compiled
def active_tiles(bits, offsets, plans, active, first, asked, tiles_of_layer):
    """List the active tiles of every layer, row by row.

    `active` [tiles of all layers, 4] gets (tile row, tile column, -, -), `first` [layers + 1] where each layer's begin,
    `asked` [layers] the output positions that the masks asked for; `tiles_of_layer` is room for one layer's tiles.
    """
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
        if p.block_rows == p.tile_rows and p.block_cols == p.tile_cols:  # blocks are tiles
            at = offsets[number]
            for row in range(rows):
                height = min(p.tile_rows, p.out_rows - row * p.tile_rows)
                for col in range(cols):
                    if bits[at]:
                        active[found, 0], active[found, 1] = row, col
                        asked[number] += height * min(p.tile_cols, p.out_cols - col * p.tile_cols)
                        found += 1
                    at += 1
            continue
        wanted = tiles_of_layer[: rows * cols].reshape(rows, cols)
        wanted[:] = False
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


@compiled
def count_taps(bits, offsets, plans, active, first):
    """Count the taps on inputs that are not zero, for active tiles of layers whose skipped inputs are: active[:, 2]."""
    for number in range(1, len(plans)):
        p, before = plans[number], plans[number - 1]
        if not p.zero_inputs:
            continue
        grid_cols = -(-before.out_cols // before.block_cols)
        for tile in range(first[number], first[number + 1]):
            r0, c0 = active[tile, 0] * p.tile_rows, active[tile, 1] * p.tile_cols
            count = 0
            for row in range(r0, min(r0 + p.tile_rows, p.out_rows)):
                for col in range(c0, min(c0 + p.tile_cols, p.out_cols)):
                    for tap_row in range(p.kernel_rows):
                        y = row * p.stride_rows - p.padding_top + tap_row * p.dilation_rows
                        if y < 0 or y >= p.in_rows:
                            continue
                        base = offsets[number - 1] + y // before.block_rows * grid_cols
                        for tap_col in range(p.kernel_cols):
                            x = col * p.stride_cols - p.padding_left + tap_col * p.dilation_cols
                            if 0 <= x < p.in_cols:
                                count += bits[base + x // before.block_cols]
            active[tile, 2] = count

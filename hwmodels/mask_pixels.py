"""Pixels that masks compute and read: counted exactly, edges clipped, padding left out.

Masks come as stacks, bool [frames, grid rows, grid columns], and so do the counts, [frames].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from skipsim.hwmodels.kernel_work import LayerShape

START_BYTES = 8192.0  # of a run in memory; longer ones than this were measured to gain little more

Counts = NDArray[Any]  # float64, [frames]
Masks = NDArray[np.bool_]


def coarsen(masks: Masks, shape: LayerShape, block: tuple[int, int], tile: tuple[int, int]) -> Masks:
    """Return the tiles of which any block is on: bool [frames, tile rows, tile columns]."""
    if block == tile:
        return masks
    rows = _overlap(shape.out_rows, block[0], tile[0])
    cols = _overlap(shape.out_cols, block[1], tile[1])
    found: Masks = rows.T @ masks.astype(np.float32) @ cols > 0
    return found


def _overlap(size: int, block: int, tile: int) -> NDArray[np.float32]:
    """Return which tiles share pixels with which blocks of a line of `size` pixels: [blocks, tiles]."""
    blocks, tiles = np.arange(0, size, block)[:, None], np.arange(0, size, tile)[None, :]
    return ((blocks < tiles + tile) & (tiles < blocks + block)).astype(np.float32)


def computed_pixels(masks: Masks, shape: LayerShape, tile: tuple[int, int]) -> Counts:
    """Return output pixels inside active tiles, edge tiles clipped."""
    pixels: Counts = np.einsum(
        "fij,i,j->f", masks, tile_sizes(shape.out_rows, tile[0]), tile_sizes(shape.out_cols, tile[1]), optimize=True
    ).astype(np.float64)
    return pixels


def segments(masks: Masks, shape: LayerShape, tile: tuple[int, int]) -> Counts:
    """Return runs of neighbouring computed pixels, over all rows."""
    starts: Counts = runs_of_rows(masks) @ tile_sizes(shape.out_rows, tile[0]).astype(np.float64)
    return starts


def runs_of_rows(masks: Masks) -> NDArray[np.int64]:
    """Return how many runs of neighbours each row has: [frames, rows]."""
    before = np.zeros_like(masks)
    before[:, :, 1:] = masks[:, :, :-1]
    found: NDArray[np.int64] = (masks & ~before).sum(axis=2)
    return found


@dataclass(frozen=True)
class Touched:
    """Which part of a map is touched, [frames]: pixels, runs of them that lie side by side in memory, and run starts.

    `start_bytes`: of every run the first START_BYTES, which come slower: reading ahead has to begin anew.
    """

    pixels: Counts
    runs: Counts
    start_bytes: Counts

    @classmethod
    def of(cls, pixels: Masks, pixel_bytes: int) -> Touched:
        """Count the marked pixels of a map, bool [frames, rows, cols], in memory row by row, channels last."""
        frames = len(pixels)
        flat = np.zeros((frames, pixels[0].size + 2), np.bool_)
        flat[:, 1:-1] = pixels.reshape(frames, -1)
        frame, start = np.nonzero(flat[:, 1:] & ~flat[:, :-1])
        _, end = np.nonzero(flat[:, :-1] & ~flat[:, 1:])
        length = np.minimum((end - start) * float(pixel_bytes), START_BYTES)
        return cls(
            pixels.sum(axis=(1, 2)).astype(np.float64),
            np.bincount(frame, minlength=frames).astype(np.float64),
            np.bincount(frame, length, frames),
        )


def tile_pixels(masks: Masks, shape: LayerShape, tile: tuple[int, int]) -> Masks:
    """Return which output pixels lie inside active tiles: bool [frames, out_rows, out_cols]."""
    rows = masks.repeat(tile_sizes(shape.out_rows, tile[0]), axis=1)
    return rows.repeat(tile_sizes(shape.out_cols, tile[1]), axis=2)


def touched_inputs(masks: Masks, shape: LayerShape, tile: tuple[int, int]) -> Counts:
    """Return how many input pixels some computed output reads; padding is not in memory."""
    count: Counts = read_pixels(masks, shape, tile).sum(axis=(1, 2)).astype(np.float64)
    return count


def read_pixels(masks: Masks, shape: LayerShape, tile: tuple[int, int]) -> Masks:
    """Return which input pixels some computed output reads: bool [frames, in_rows, in_cols]."""
    rows = _reach(
        shape.out_rows, tile[0], shape.in_rows, shape.kernel_rows, shape.stride_rows, shape.padding_top,
        shape.dilation_rows,
    )  # fmt: skip
    cols = _reach(
        shape.out_cols, tile[1], shape.in_cols, shape.kernel_cols, shape.stride_cols, shape.padding_left,
        shape.dilation_cols,
    )  # fmt: skip
    found: Masks = rows.T @ masks.astype(np.float32) @ cols > 0
    return found


def _reach(
    out_size: int, tile: int, in_size: int, kernel: int, stride: int, padding: int, dilation: int
) -> NDArray[np.float32]:
    """Return which input positions of a line the outputs of a tile read: [tiles, in_size]."""
    reach = np.zeros((-(-out_size // tile), in_size), np.float32)
    outputs = np.arange(out_size)
    for tap in range(kernel):
        read = outputs * stride - padding + tap * dilation
        inside = (read >= 0) & (read < in_size)
        reach[outputs[inside] // tile, read[inside]] = 1
    return reach


def tile_sizes(size: int, tile: int) -> NDArray[np.int64]:
    """Return how many of a line's pixels each tile has, the last one clipped."""
    return np.diff(np.append(np.arange(0, size, tile), size))

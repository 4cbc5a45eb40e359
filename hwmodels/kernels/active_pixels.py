"""ActivePixels: the list of output positions that are computed, made from a mask once for all layers that share it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipsim.compiled import entry
from skipsim.errors import InputError
from skipsim.hwmodels.kernels.addresses import integers, marks, words
from skipsim.hwmodels.kernels.feature_map import aligned_zeros
from skipsim.hwmodels.kernels.step import FIELDS, FIRST_FIELD, Step, make_step

Block = tuple[int, int]
Mask = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class ActivePixels:
    """Room for all positions of an output of `rows` x `cols`, and how many are in the list.

    Attributes:
        rows: of the output.
        cols: of the output.
        positions: int32 [rows * cols], row * 65536 + column; row by row.
        count: int64 [1].
    """

    rows: int
    cols: int
    positions: NDArray[np.int32]
    count: NDArray[np.int64]

    @classmethod
    def zeros(cls, rows: int, cols: int) -> ActivePixels:
        """Return an empty list."""
        if not (0 < rows < 1 << 15 and 0 < cols < 1 << 16):
            raise InputError(f"active pixels: rows must be 1..32767 and columns 1..65535, got {rows}x{cols}")
        return cls(rows, cols, aligned_zeros(rows * cols, np.int32), aligned_zeros(1, np.int64))

    @classmethod
    def full(cls, rows: int, cols: int) -> ActivePixels:
        """Return the list of all positions."""
        active = cls.zeros(rows, cols)
        active.positions[:] = (np.arange(rows)[:, None] * 65536 + np.arange(cols)).reshape(-1)
        active.count[0] = rows * cols
        return active

    @property
    def density(self) -> float:
        """Listed share of all positions."""
        return float(self.count[0]) / (self.rows * self.cols)


def list_pixels(mask: Mask, block: Block, active: ActivePixels) -> Step:
    """Bind the step that lists the pixels of all blocks that a mask names.

    Args:
        mask: uint8 [ceil(rows / block rows), ceil(cols / block cols)], 0 = skipped.
        block: pixels (rows, cols) that share one decision.
        active: receives the list.
    """
    check_mask("mask", mask, block, (active.rows, active.cols))
    values = {_MASK: mask.ctypes.data, _POSITIONS: active.positions.ctypes.data, _COUNT: active.count.ctypes.data}
    values |= {_ROWS: active.rows, _COLS: active.cols, _BLOCK_ROWS: block[0], _BLOCK_COLS: block[1]}
    return make_step("list", _list, one_unit, values, (mask, active))


def check_mask(name: str, mask: Mask, block: Block, size: tuple[int, int]) -> None:
    """Check that a mask is a whole uint8 array with one entry per block of a map of `size` pixels."""
    if len(block) != 2 or min(block) < 1:
        raise InputError(f"{name}: block must be two numbers >= 1 (rows, cols), got {block}")
    grid = (-(-size[0] // block[0]), -(-size[1] // block[1]))
    if mask.dtype != np.uint8 or mask.shape != grid or not mask.flags.c_contiguous:
        raise InputError(
            f"{name}: must be a contiguous uint8 array with one entry per {block[0]}x{block[1]} block {list(grid)}, "
            f"got {mask.dtype} {list(mask.shape)}"
        )


_MASK, _POSITIONS, _COUNT, _ROWS, _COLS, _BLOCK_ROWS, _BLOCK_COLS = range(FIRST_FIELD, FIRST_FIELD + 7)


@entry("int64(int64)")
def one_unit(address):
    """Say that a step is done by one thread."""
    return 1


@entry("int64(int64, int64)")
def _list(address, unit):
    step = words(address, FIELDS)
    rows, cols, block_rows, block_cols = step[_ROWS], step[_COLS], step[_BLOCK_ROWS], step[_BLOCK_COLS]
    grid_cols = -(-cols // block_cols)
    mask = marks(step[_MASK], -(-rows // block_rows) * grid_cols)
    positions = integers(step[_POSITIONS], rows * cols)
    count = 0
    for row in range(rows):
        line = row // block_rows * grid_cols
        block = 0
        while block < grid_cols:
            if block + 8 <= grid_cols and words(step[_MASK] + line + block, 1)[0] == 0:
                block += 8
                continue
            if mask[line + block] != 0:
                first = block * block_cols
                for col in range(first, min(first + block_cols, cols)):
                    positions[count] = row << 16 | col
                    count += 1
            block += 1
    words(step[_COUNT], 1)[0] = count
    return 0

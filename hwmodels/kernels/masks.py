"""Masks made from masks: dilation through a layer, what a layer needs, coarser and finer blocks, union."""

from __future__ import annotations

from collections.abc import Sequence

from skipsim.compiled import entry
from skipsim.errors import InputError
from skipsim.hwmodels.kernels.active_pixels import Block, Mask, check_mask, one_unit
from skipsim.hwmodels.kernels.addresses import marks, words
from skipsim.hwmodels.kernels.convolution import Convolution, Pair
from skipsim.hwmodels.kernels.readers import Readers, table
from skipsim.hwmodels.kernels.step import FIELDS, FIRST_FIELD, Step, make_step

MOST_MASKS = 16


def spread(mask: Mask, block: Block, layer: Convolution, out_mask: Mask, out_block: Block, size: Pair) -> Step:
    """Bind the step that marks every output block that reads a marked input block: dilation.

    With a 1x1 layer it turns a mask into one of coarser or finer blocks.

    Args:
        mask: uint8, of the input's blocks.
        block: input pixels (rows, cols) of one decision.
        layer: the layer between the two.
        out_mask: uint8, of the output's blocks; receives 0 and 1.
        out_block: output pixels of one decision.
        size: of the input map, (rows, cols).
    """
    readers = Readers.of(layer, size, block, out_block)
    check_mask("spread: mask", mask, block, size)
    check_mask("spread: out_mask", out_mask, out_block, layer.out_size(*size))
    return _spread_step("spread", mask, out_mask, Readers(readers.rows.T, readers.cols.T))


def need(out_mask: Mask, out_block: Block, layer: Convolution, mask: Mask, block: Block, size: Pair) -> Step:
    """Bind the step that marks every input block that a marked output block reads; arguments as of `spread`.

    `mask` receives 0 and 1. So the mask of a residual block's last layer says what its first layer must compute.
    """
    readers = Readers.of(layer, size, block, out_block)
    check_mask("need: mask", mask, block, size)
    check_mask("need: out_mask", out_mask, out_block, layer.out_size(*size))
    return _spread_step("need", out_mask, mask, readers)


def unite(masks: Sequence[Mask], out_mask: Mask) -> Step:
    """Bind the step that marks in `out_mask` what any of the masks marks; all have one shape."""
    if not 0 < len(masks) <= MOST_MASKS:
        raise InputError(f"unite: masks must be 1 to {MOST_MASKS}, got {len(masks)}")
    for mask in (*masks, out_mask):
        check_mask("unite: mask", mask, (1, 1), out_mask.shape)
    values = {_OUT: out_mask.ctypes.data, _OUT_SIZE: out_mask.size, _COUNT: len(masks)}
    values |= {_COUNT + 1 + index: mask.ctypes.data for index, mask in enumerate(masks)}
    return make_step("unite", _unite, one_unit, values, (tuple(masks), out_mask))


def _spread_step(kind: str, source: Mask, target: Mask, reached: Readers) -> Step:
    rows, cols = table(reached.rows, target.shape[1]), table(reached.cols)
    values = {_OUT: target.ctypes.data, _OUT_SIZE: target.size, _IN: source.ctypes.data}
    values |= {_IN_ROWS: source.shape[0], _IN_COLS: source.shape[1]}
    values |= {_ROW_TABLE: rows.ctypes.data, _ROW_WIDTH: rows.shape[1]}
    values |= {_COL_TABLE: cols.ctypes.data, _COL_WIDTH: cols.shape[1]}
    return make_step(kind, _spread, one_unit, values, (source, target, rows, cols))


_OUT, _OUT_SIZE, _IN, _IN_ROWS, _IN_COLS, _ROW_TABLE, _ROW_WIDTH, _COL_TABLE, _COL_WIDTH = range(
    FIRST_FIELD, FIRST_FIELD + 9
)
_COUNT = _IN


@entry("int64(int64, int64)")
def _spread(address, unit):
    step = words(address, FIELDS)
    out = marks(step[_OUT], step[_OUT_SIZE])
    rows, cols = step[_IN_ROWS], step[_IN_COLS]
    mask = marks(step[_IN], rows * cols)
    row_width, col_width = step[_ROW_WIDTH], step[_COL_WIDTH]
    row_table = words(step[_ROW_TABLE], rows * row_width)
    col_table = words(step[_COL_TABLE], cols * col_width)
    for index in range(len(out)):
        out[index] = 0
    for row in range(rows):
        for col in range(cols):
            if mask[row * cols + col] == 0:
                continue
            for r in range(row_table[row * row_width]):
                line = row_table[row * row_width + 1 + r]
                for c in range(col_table[col * col_width]):
                    out[line + col_table[col * col_width + 1 + c]] = 1
    return 0


@entry("int64(int64, int64)")
def _unite(address, unit):
    step = words(address, FIELDS)
    size = step[_OUT_SIZE]
    out = marks(step[_OUT], size)
    for index in range(size):
        found = 0
        for which in range(step[_COUNT]):
            found |= marks(step[_COUNT + 1 + which], size)[index]
        out[index] = 1 if found != 0 else 0
    return 0

"""Kernel paths: what each way to run a gated layer does with it; the compiled one's work is in compiled_work.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from skipsim.hwmodels.compiled_work import compiled_work
from skipsim.hwmodels.kernel_work import FLOAT_BYTES, KernelPath, LayerShape, Registers, Work
from skipsim.hwmodels.mask_pixels import Masks, computed_pixels


def gathered_work(shape: LayerShape, masks: Masks, tile: tuple[int, int], _: Registers) -> Work:
    """Return the work of gather, dense convolution and scatter.

    Windows are copied whole, halos again for each, and beyond the edge of the map too.
    """
    tiles = masks.sum(axis=(1, 2)).astype(np.float64)
    rows, cols = tile
    window = _window(rows, shape.kernel_rows, shape.stride_rows, shape.dilation_rows) * _window(
        cols, shape.kernel_cols, shape.stride_cols, shape.dilation_cols
    )
    computed = tiles * rows * cols
    return Work.of(
        len(masks),
        calls=1.0,
        blocks=float(masks[0].size),
        tiles=tiles,
        pixels=computed,
        macs=computed * shape.reduction * shape.out_channels,
        elements=_padded_values(shape, tile),
        input_bytes=3 * tiles * window * shape.in_channels * FLOAT_BYTES,  # read, written, read again
        output_bytes=3 * computed * shape.out_channels * FLOAT_BYTES,
        weight_bytes=float(shape.weight_bytes) * (tiles > 0),
    )


def columns_work(shape: LayerShape, masks: Masks, tile: tuple[int, int], _: Registers) -> Work:
    """Return the work of copying every pixel's taps to a row of a matrix, one matrix product, and scatter."""
    pixels = computed_pixels(masks, shape, tile)
    row_bytes = shape.kernel_rows * shape.kernel_cols * shape.in_channels * FLOAT_BYTES
    return Work.of(
        len(masks),
        calls=1.0,
        blocks=float(masks[0].size),
        tiles=masks.sum(axis=(1, 2)).astype(np.float64),
        pixels=pixels,
        macs=pixels * shape.reduction * shape.out_channels,
        elements=_padded_values(shape, tile),  # transposed too
        input_bytes=3 * pixels * row_bytes,
        output_bytes=3 * pixels * shape.out_channels * FLOAT_BYTES,
        weight_bytes=float(shape.weight_bytes) * (pixels > 0),
    )


def _padded_values(shape: LayerShape, tile: tuple[int, int]) -> float:
    """Return the values of the padded input, all copied whatever the mask; blocks at the edge must fit in."""
    rows = shape.in_rows + 2 * shape.padding_top + tile[0] * shape.stride_rows
    cols = shape.in_cols + 2 * shape.padding_left + tile[1] * shape.stride_cols
    return float(shape.in_channels * rows * cols)


def _window(outputs: int, kernel: int, stride: int, dilation: int) -> int:
    return (outputs - 1) * stride + (kernel - 1) * dilation + 1


# What each kernel path does with a layer, its masks and their tile.
KERNELS: dict[KernelPath, Callable[[LayerShape, Masks, tuple[int, int], Registers], Work]] = {
    "compiled": compiled_work,
    "torch_blocks": gathered_work,
    "torch_columns": columns_work,
    "triton": compiled_work,
}

"""The work of the compiled kernel: pixels of the list in register tiles, inputs read where they lie."""

from __future__ import annotations

import numpy as np

from skipsim.hwmodels.kernel_work import FLOAT_BYTES, LayerShape, Registers, Work
from skipsim.hwmodels.mask_pixels import (
    Counts,
    Masks,
    Touched,
    computed_pixels,
    read_pixels,
    segments,
    tile_pixels,
)

SHARING_KERNELS = (3, 5)  # columns of the depthwise kernels that have tiles for pixels side by side
SUMS_IN_FLIGHT = 4  # a multiply-add takes four cycles, and one begins in each: tiles with fewer sums wait
HIDING_PIXELS = 7.0  # computing so many for every weight takes as long as its way from memory (32 x 4 bytes, 30 GB/s)


def compiled_work(shape: LayerShape, masks: Masks, tile: tuple[int, int], registers: Registers) -> Work:
    """Return the work of the compiled kernel.

    Register tiles have from one to `registers.pixels` pixels, so pixels are not padded; output channels are, to whole
    vectors. With several panels of channels every pixel is written in pieces, one panel after the other.
    """
    pixels = computed_pixels(masks, shape, tile)
    depthwise = shape.kind == "depthwise"
    groups = 1 if depthwise else shape.groups
    vectors = -(-(shape.out_channels // groups) // registers.lanes)
    panels = groups * -(-vectors // registers.vectors)
    register_tiles = np.ceil(pixels / registers.pixels) * panels
    weight_bytes = float(FLOAT_BYTES * shape.reduction * groups * vectors * registers.lanes) * (pixels > 0)
    read = Touched.of(read_pixels(masks, shape, tile), shape.in_channels * FLOAT_BYTES)
    written = Touched.of(tile_pixels(masks, shape, tile), shape.out_channels * FLOAT_BYTES)
    output_bytes = pixels * shape.out_channels * FLOAT_BYTES
    sums = pixels * vectors if depthwise else _sums(pixels, vectors, registers)
    return Work.of(
        len(masks),
        calls=1.0,
        pixels=pixels,
        segments=segments(masks, shape, tile),
        register_tiles=register_tiles,
        taps=_loads(shape, pixels, written.runs, registers) if depthwise else register_tiles * shape.reduction,
        macs=sums * groups * registers.lanes * shape.reduction,
        input_bytes=read.pixels * float(shape.in_channels * FLOAT_BYTES),
        input_runs=read.runs,
        input_start_bytes=read.start_bytes,
        output_bytes=output_bytes,
        output_runs=written.runs,
        output_start_bytes=written.start_bytes if panels == 1 else output_bytes,
        panels=panels * (pixels > 0),
        weight_bytes=weight_bytes,
        exposed_weight_bytes=weight_bytes * (1 - np.minimum(pixels / HIDING_PIXELS, 1)),
    )


def _sums(pixels: Counts, vectors: int, registers: Registers) -> Counts:
    """Return the vectors that register tiles multiply at every tap, of one group, small tiles counted as they wait.

    Pixels are shared out evenly: of so many tiles some have one pixel more than the others.
    """
    tiles = np.maximum(np.ceil(pixels / registers.pixels), 1)
    fewer = np.floor(pixels / tiles)
    larger = pixels - fewer * tiles
    whole, rest = divmod(vectors, registers.vectors)
    found = np.zeros(len(pixels))
    for width, count in ((registers.vectors, whole), (rest, int(rest > 0))):
        for size, number in ((fewer, tiles - larger), (fewer + 1, larger)):
            found += count * number * np.where(size > 0, np.maximum(size * width, SUMS_IN_FLIGHT), 0)
    return found


def _loads(shape: LayerShape, pixels: Counts, runs: Counts, registers: Registers) -> Counts:
    """Return the vectors of input that a depthwise layer loads; pixels side by side share them, at stride 1."""
    vectors = -(-shape.out_channels // registers.lanes)
    if shape.stride_cols > 1 or shape.dilation_cols > 1 or shape.kernel_cols not in SHARING_KERNELS:
        return pixels * vectors * shape.reduction
    tiles = np.maximum(runs, pixels / registers.pixels)
    loads: Counts = (pixels + tiles * (shape.kernel_cols - 1)) * vectors * shape.kernel_rows
    return loads

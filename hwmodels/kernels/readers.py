"""Readers: which blocks of a layer's output read which blocks of its input, for rows and for columns.

A block of the output reads a block of the input if it does so by rows and by columns; so two small tables say it all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipsim.hwmodels.kernels.convolution import Convolution, Pair

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Readers:
    """Which blocks of the output read which of the input.

    Attributes:
        rows: bool [output block rows, input block rows].
        cols: bool [output block columns, input block columns].
    """

    rows: Bools
    cols: Bools

    @classmethod
    def of(cls, layer: Convolution, size: Pair, in_block: Pair, out_block: Pair) -> Readers:
        """Return the readers of an input map of `size` (rows, cols) pixels."""
        return cls(*(_reads(layer, axis, size, in_block[axis], out_block[axis]) for axis in (0, 1)))


def _reads(layer: Convolution, axis: int, size: Pair, in_block: int, out_block: int) -> Bools:
    extent, out = size[axis], layer.out_size(*size)[axis]
    position = np.arange(out)[:, None]
    taps = np.arange(layer.kernel[axis]) * layer.dilation[axis]
    pixel = position * layer.stride[axis] - layer.padding[2 * axis] + taps
    reads = np.zeros((-(-out // out_block), -(-extent // in_block)), bool)
    inside = (pixel >= 0) & (pixel < extent)
    reads[(position + 0 * taps)[inside] // out_block, pixel[inside] // in_block] = True
    return reads


def table(reads: Bools, scale: int = 1) -> NDArray[np.int64]:
    """Return the true columns of every row, int64 [rows, 1 + most]: how many, then their numbers times `scale`."""
    counts = reads.sum(axis=1)
    listed = np.zeros((len(reads), 1 + max(1, int(counts.max(initial=0)))), np.int64)
    listed[:, 0] = counts
    for index, row in enumerate(reads):
        listed[index, 1 : 1 + counts[index]] = np.flatnonzero(row) * scale
    return listed

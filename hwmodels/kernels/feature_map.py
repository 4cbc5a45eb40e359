"""FeatureMap: one map of a network as the kernels keep it: float32, channels last, inside a margin of zeros."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipsim.errors import InputError

Margin = tuple[int, int, int, int]
"""Pixels of zeros on top, at the bottom, left and right."""

LINE_BYTES = 64
_SLACK_FLOATS = 64  # the widest load may start at the last float of the map


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """A map [rows, cols, channels] with a margin that stands for the zero padding of the layers that read it.

    Attributes:
        data: float32 [top + rows + bottom, left + cols + right, channels]; the margin must stay zero.
        margin: pixels on top, at the bottom, left and right.
    """

    data: NDArray[np.float32]
    margin: Margin

    @classmethod
    def zeros(cls, rows: int, cols: int, channels: int, margin: Margin = (0, 0, 0, 0)) -> FeatureMap:
        """Allocate a map of zeros; it starts at a cache line, and behind it there is room for one more vector."""
        for name, value in (("rows", rows), ("cols", cols), ("channels", channels)):
            if value < 1:
                raise InputError(f"feature map: {name} must be at least 1, got {value}")
        if len(margin) != 4 or min(margin) < 0:
            raise InputError(f"feature map: margin must be four numbers >= 0 (top, bottom, left, right), got {margin}")
        top, bottom, left, right = margin
        shape = (top + rows + bottom, left + cols + right, channels)
        if max(shape[:2]) > 0xFFFF:
            raise InputError(f"feature map: at most 65535 rows and columns with the margin, got {shape[0]}x{shape[1]}")
        return cls(aligned_zeros(shape, np.float32), margin)

    @property
    def rows(self) -> int:
        """Rows without the margin."""
        return int(self.data.shape[0]) - self.margin[0] - self.margin[1]

    @property
    def cols(self) -> int:
        """Columns without the margin."""
        return int(self.data.shape[1]) - self.margin[2] - self.margin[3]

    @property
    def channels(self) -> int:
        """Values per pixel."""
        return int(self.data.shape[2])

    @property
    def interior(self) -> NDArray[np.float32]:
        """The map without its margin, a view [rows, cols, channels]."""
        top, _, left, _ = self.margin
        return self.data[top : top + self.rows, left : left + self.cols]

    @property
    def row_floats(self) -> int:
        """Floats from one row to the next."""
        return int(self.data.shape[1]) * self.channels

    def address(self, row: int = 0, col: int = 0) -> int:
        """Return the address of a pixel; the first ones of the margin have negative coordinates."""
        offset = (self.margin[0] + row) * self.row_floats + (self.margin[2] + col) * self.channels
        return int(self.data.ctypes.data) + 4 * offset


def widest(margins: Iterable[Margin]) -> Margin:
    """Return the margin that is wide enough for all of these."""
    sides = list(zip(*margins, strict=True)) or [(0,)] * 4
    return max(sides[0]), max(sides[1]), max(sides[2]), max(sides[3])


def aligned_zeros(shape: int | tuple[int, ...], kind: Any) -> NDArray[Any]:
    """Return an array of zeros that starts at a cache line and may be read a little beyond its end."""
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    memory = np.zeros(size + LINE_BYTES + 4 * _SLACK_FLOATS, np.uint8)
    start = -memory.ctypes.data % LINE_BYTES
    array: NDArray[Any] = memory[start : start + size].view(kind).reshape(shape)
    return array

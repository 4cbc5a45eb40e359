"""Bulky arrays as text in a page: little endian, deflated, base64; browsers unpack them with DecompressionStream."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVEL = 9


def packed_bytes(array: NDArray[np.uint8]) -> str:
    """Pack bytes."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes(), LEVEL)).decode("ascii")


def packed_numbers(columns: NDArray[Any]) -> str:
    """Pack int32 [columns, rows] column by column, each number as the difference from the one before it.

    Begins and ends of slices grow slowly, so that most differences have three zero bytes.
    """
    differences = np.diff(columns.astype(np.int64), axis=1, prepend=0).astype("<i4")
    return packed_bytes(np.ascontiguousarray(differences).view(np.uint8))

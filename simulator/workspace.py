"""Workspace: memory that one frame after another is lowered into.

A table takes hundreds of bytes a tile. New arrays of megabytes come as pages that the system clears and maps at first
touch, which can take longer than filling them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Workspace:
    """Named integer arrays that grow to what the largest frame needs and are handed out again for the next.

    What was made in a workspace holds until something else is made in it. So a thread has one of its own, and a table
    that is to be kept has one to itself.
    """

    def __init__(self) -> None:
        self._arrays: dict[str, NDArray[np.int64]] = {}

    def array(self, name: str, rows: int, columns: int) -> NDArray[np.int64]:
        """Return int64 [rows, columns] with anything in it; a name always comes with the same columns."""
        kept = self._arrays.get(name)
        if kept is None or len(kept) < rows:
            kept = self._arrays[name] = np.empty((rows, columns), np.int64)
        return kept[:rows]

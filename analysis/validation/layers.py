"""Whole layers as a trace: full masks, one frame, no gate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from skipsim.traces.layer import Layer
from skipsim.traces.trace import Trace


def whole(layers: Sequence[Layer]) -> Trace:
    """Return a trace in which everything is computed, once."""
    masks = [np.ones((1, layer.grid_rows, layer.grid_cols), np.bool_) for layer in layers]
    return Trace.from_masks(layers, masks, update="recompute")

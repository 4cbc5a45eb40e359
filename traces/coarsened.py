"""coarsened(trace, blocks): the same recording with coarser blocks; a block is on if any finer one in it is.

This is the open loop: the network never ran with these blocks, so the masks are what its gates asked for and more. What
it would have computed in closed loop differs, because the additional pixels change what later layers and frames see.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from skipsim.errors import InputError
from skipsim.traces.layer import Layer
from skipsim.traces.trace import Trace
from skipsim.traces.trace_files import Mask


def coarsened(trace: Trace, block: tuple[int, int] | Callable[[Layer], tuple[int, int]]) -> Trace:
    """Return a trace in memory whose gated layers have other blocks; the quality stays that of the recording.

    Args:
        trace: the recording.
        block: (rows, cols) in output pixels, or a function that gives them for every gated layer.

    Raises:
        InputError: a block that is not a whole number of the recording's blocks.
    """
    layers, masks = [], []
    for index, layer in enumerate(trace.layers):
        rows, cols = (layer.block_rows, layer.block_cols)
        wanted = (rows, cols) if layer.gate == "none" else block(layer) if callable(block) else block
        if any(side < 1 or side % finer for side, finer in zip(wanted, (rows, cols), strict=True)):
            raise InputError(
                f"layer {layer.name!r}: blocks of {wanted[0]}x{wanted[1]} are not whole blocks of the recording's "
                f"{rows}x{cols}"
            )
        layers.append(replace(layer, block_rows=wanted[0], block_cols=wanted[1]))
        masks.append(_any(trace.masks(index), wanted[0] // rows, wanted[1] // cols))
    return Trace.from_masks(
        layers,
        masks,
        update=trace.update,
        reference_frames=trace.reference_frames,
        origin=trace.origin | {"coarsened_from": trace.hash},
        quality=trace.quality,
    )


def _any(mask: Mask, rows: int, cols: int) -> Mask:
    """Return whether any entry is on in every patch of rows x cols, clipped at the edges: [frames, ceil, ceil]."""
    padded = np.pad(mask, ((0, 0), (0, -mask.shape[1] % rows), (0, -mask.shape[2] % cols)))
    frames, height, width = padded.shape
    patches = padded.reshape(frames, height // rows, rows, width // cols, cols)
    return np.ascontiguousarray(patches.any(axis=(2, 4)))

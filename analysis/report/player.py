"""What the player of a page shows: the frames of clips as small pictures, and the masks of recordings bit by bit."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from skipsim.analysis.inputs.clips import load_clip
from skipsim.analysis.report.packing import packed_bytes
from skipsim.errors import InputError
from skipsim.traces.trace import Trace

MOST_FRAMES = 48  # of every clip
LONGEST_SIDE = 320  # pixels of a picture; larger frames are made smaller
QUALITY = 72  # of WebP


def pictures_of(entry: dict[str, Any]) -> list[str]:
    """Return the first frames of a recording's clip as data URIs; none where they cannot be read any more."""
    if not entry.get("clip"):
        return []
    size = tuple(entry["size"]) if entry["size"] else None
    try:
        clip = load_clip(entry["clip"], entry["frames"], size)
        return [_data_uri(frame) for _, frame in zip(range(MOST_FRAMES), clip.frames, strict=False)]
    except InputError:
        return []


def _data_uri(frame: NDArray[np.uint8]) -> str:
    picture = Image.fromarray(frame)
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def masks_of(trace: Trace) -> dict[str, Any]:
    """Return the masks of the first frames, packed as the trace has them, and which frames are references."""
    frames = range(min(trace.frames, MOST_FRAMES))
    rows = np.stack([trace.packed(frame) for frame in frames])
    return {
        "frames": len(frames),
        "of": trace.frames,
        "bytes": rows.shape[1],
        "offsets": [bits // 8 for bits in trace.mask_bits],
        "grids": [[layer.grid_rows, layer.grid_cols, layer.block_rows, layer.block_cols] for layer in trace.layers],
        "references": [frame for frame in frames if trace.reference(frame)],
        "packed": packed_bytes(rows),
    }

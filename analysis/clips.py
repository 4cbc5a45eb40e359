"""Clips by name: labelled procedural ones, alone or several in a row, and whatever can be read as frames."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipsim.errors import InputError, nearest
from skipsim.traces.datasets import SPLITS, Clip, pose_clip, pose_clips
from skipsim.traces.video import read_frames

Frame = NDArray[np.uint8]


@dataclass(frozen=True)
class LoadedClip:
    """The frames of one axis value: clips one after the other, `cuts` where a new one starts, labels where known."""

    frames: Iterable[Frame]
    cuts: tuple[int, ...] = ()
    labelled: tuple[Clip, ...] = ()


def load_clip(name: str, frames: int | None = None, size: tuple[int, int] | None = None) -> LoadedClip:
    """Open a clip by name or path.

    Args:
        name: labelled procedural clips, "pose:SEED[:CAMERA]" or "pose:SPLIT[:COUNT[:FIRST]]" (COUNT clips, one
            after the other), or what `read_frames` takes.
        frames: at most so many of every clip.
        size: (rows, cols) of the frames.
    """
    if not name.startswith("pose:") or Path(name).exists():
        return LoadedClip(read_frames(name, limit=frames, size=size))
    options: dict[str, Any] = dict(zip(("rows", "cols"), size, strict=True)) if size else {}
    if frames is not None:
        options["frames"] = frames
    _, first, *rest = name.split(":")
    if first.isdigit() and len(rest) < 2:
        clips = [pose_clip(int(first), camera=rest[0] if rest else "static", **options)]
    elif len(rest) < 3 and all(part.isdigit() for part in rest):
        if first not in SPLITS:
            raise InputError(f"clip {name!r}: split {first!r} is unknown; {nearest(first, SPLITS)}; or a seed")
        count, start = [*map(int, rest), *(1, 0)[len(rest) :]]
        if count < 1:
            raise InputError(f"clip {name!r}: the number of clips must be >= 1")
        clips = list(pose_clips(first, count, first=start, **options))
    else:
        raise InputError(f"clip {name!r}: must be pose:SEED[:CAMERA] or pose:SPLIT[:COUNT[:FIRST]]")
    lengths = [len(clip.frames) for clip in clips]
    cuts = tuple(np.cumsum(lengths)[:-1].tolist())
    return LoadedClip([frame for clip in clips for frame in clip.frames], cuts, tuple(clips))

"""Clips by name: labelled procedural ones, alone or several in a row, and whatever can be read as frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipsim.errors import InputError, nearest
from skipsim.traces.boxes import BoxLabels, DetectionClip
from skipsim.traces.datasets import SPLITS, Clip, pose_clip, pose_clips
from skipsim.traces.vehicle_clips import vehicle_clip, vehicle_clips
from skipsim.traces.video import read_frames

Frame = NDArray[np.uint8]


# Procedural clips by the first word of their name: one clip from its seed, several of a split.
PROCEDURAL: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "pose": (pose_clip, pose_clips),
    "detection": (vehicle_clip, vehicle_clips),
}


@dataclass(frozen=True)
class LoadedClip:
    """The frames of one axis value: clips one after the other, with labels where they are known.

    Attributes:
        frames: uint8 [rows, cols, 3] each.
        cuts: frames at which a new clip starts.
        labelled: joints of the clips; their arrays of frames need not hold pictures.
        boxes: objects of the clips.
        size: (rows, cols) of the frames where they were resized; None: as they are.
    """

    frames: Iterable[Frame]
    cuts: tuple[int, ...] = ()
    labelled: tuple[Clip, ...] = ()
    boxes: tuple[BoxLabels, ...] = ()
    size: tuple[int, int] | None = None


def load_clip(name: str, frames: int | None = None, size: tuple[int, int] | None = None) -> LoadedClip:
    """Open a clip by name or path.

    Args:
        name: labelled procedural clips, "pose:SEED[:CAMERA]" or "pose:SPLIT[:COUNT[:FIRST]]" (COUNT clips, one
            after the other), the same with "detection", or what `read_frames` takes.
        frames: at most so many of every clip.
        size: (rows, cols) of the frames.
    """
    kind, _, rest = name.partition(":")
    if kind in PROCEDURAL and rest and not Path(name).exists():
        return _procedural(name, frames, size)
    return LoadedClip(read_frames(name, limit=frames, size=size), size=size)


def _procedural(name: str, frames: int | None, size: tuple[int, int] | None) -> LoadedClip:
    kind, first, *rest = name.split(":")
    one, several = PROCEDURAL[kind]
    options: dict[str, Any] = dict(zip(("rows", "cols"), size, strict=True)) if size else {}
    if frames is not None:
        options["frames"] = frames
    if first.isdigit() and len(rest) < 2:
        clips = [one(int(first), camera=rest[0] if rest else "static", **options)]
    elif len(rest) < 3 and all(part.isdigit() for part in rest):
        if first not in SPLITS:
            raise InputError(f"clip {name!r}: split {first!r} is unknown; {nearest(first, SPLITS)}; or a seed")
        count, start = [*map(int, rest), *(1, 0)[len(rest) :]]
        if count < 1:
            raise InputError(f"clip {name!r}: the number of clips must be >= 1")
        clips = list(several(first, count, first=start, **options))
    else:
        raise InputError(f"clip {name!r}: must be {kind}:SEED[:CAMERA] or {kind}:SPLIT[:COUNT[:FIRST]]")
    cuts = tuple(np.cumsum([len(clip.frames) for clip in clips])[:-1].tolist())
    pictures = [frame for clip in clips for frame in clip.frames]
    joints = tuple(clip for clip in clips if isinstance(clip, Clip))
    boxes = tuple(clip.labels for clip in clips if isinstance(clip, DetectionClip))
    return LoadedClip(pictures, cuts, joints, boxes)

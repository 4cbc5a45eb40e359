"""Clips by name: labelled procedural ones, alone or several in a row, and whatever can be read as frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from inspect import signature
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipsim.errors import InputError, nearest
from skipsim.traces.annotated_video import AnnotatedVideo
from skipsim.traces.boxes import BoxLabels, DetectionClip
from skipsim.traces.data_sets.coco_video import coco_videos
from skipsim.traces.data_sets.jhmdb import jhmdb_videos
from skipsim.traces.data_sets.uavdt import uavdt_videos
from skipsim.traces.datasets import CAMERAS, SPLITS, Clip, pose_clip, pose_clips
from skipsim.traces.models import usual_size
from skipsim.traces.procedural.vehicle_clips import vehicle_clip, vehicle_clips
from skipsim.traces.video import read_frames

Frame = NDArray[np.uint8]


# Procedural clips by the first word of their name: one clip from its seed, several of a split.
PROCEDURAL: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "pose": (pose_clip, pose_clips),
    "detection": (vehicle_clip, vehicle_clips),
}
# Data sets on disk: "NAME:PATH:..." calls the function with what stands between the colons.
DATASETS: dict[str, Callable[..., list[AnnotatedVideo]]] = {
    "coco": coco_videos,
    "jhmdb": jhmdb_videos,
    "uavdt": uavdt_videos,
}
FORMS = {
    "coco": "coco:FILE.json:FOLDER[:VIDEO]",
    "jhmdb": "jhmdb:FOLDER:SPLIT:train|test[:VIDEO]",
    "uavdt": "uavdt:FOLDER:train|test[:SEQUENCE]",
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


def load_clip(
    name: str,
    frames: int | None = None,
    size: tuple[int, int] | None = None,
    network: str = "",
) -> LoadedClip:
    """Open a clip by name or path.

    Args:
        name: labelled procedural clips, "pose:SEED[:CAMERA]" or "pose:SPLIT[:COUNT[:FIRST]][:CAMERA]" (COUNT clips,
            one after the other; without CAMERA static and panning ones in turn), the same with "detection"; videos
            of a data set on disk, all of a part or one (see FORMS); or what `read_frames` takes.
        frames: at most so many of every clip.
        size: (rows, cols) of the frames, whatever size they have on disk.
        network: whose usual size they get where no size is given; all of a video must have one size on disk then.
    """
    resized = size or usual_size(network)
    kind, _, rest = name.partition(":")
    if kind in PROCEDURAL and rest and not Path(name).exists():
        return _procedural(name, frames, resized)
    if is_dataset(name):
        return _from_dataset(name, frames, resized)
    found = read_frames(name, limit=frames, size=size)
    return LoadedClip(found if resized == size else read_frames(found, size=resized), size=resized)


def _procedural(name: str, frames: int | None, size: tuple[int, int] | None) -> LoadedClip:
    kind, first, *rest = name.split(":")
    camera = rest[-1] if rest and rest[-1] in CAMERAS else None
    numbers = rest[:-1] if camera else rest
    one, several = PROCEDURAL[kind]
    options: dict[str, Any] = dict(zip(("rows", "cols"), size, strict=True)) if size else {}
    if frames is not None:
        options["frames"] = frames
    if first.isdigit() and len(rest) < 2:
        clips = [one(int(first), camera=rest[0] if rest else "static", **options)]
    elif len(numbers) < 3 and all(part.isdigit() for part in numbers):
        if first not in SPLITS:
            raise InputError(f"clip {name!r}: split {first!r} is unknown; {nearest(first, SPLITS)}; or a seed")
        count, start = [*map(int, numbers), *(1, 0)[len(numbers) :]]
        if count < 1:
            raise InputError(f"clip {name!r}: the number of clips must be >= 1")
        made = several(first, count if camera is None else len(CAMERAS) * count, first=start, **options)
        clips = [clip for clip in made if camera in (None, clip.camera)]
    else:
        raise InputError(f"clip {name!r}: must be {kind}:SEED[:CAMERA] or {kind}:SPLIT[:COUNT[:FIRST]][:CAMERA]")
    cuts = tuple(np.cumsum([len(clip.frames) for clip in clips])[:-1].tolist())
    pictures = [frame for clip in clips for frame in clip.frames]
    joints = tuple(clip for clip in clips if isinstance(clip, Clip))
    boxes = tuple(clip.labels for clip in clips if isinstance(clip, DetectionClip))
    return LoadedClip(pictures, cuts, joints, boxes)


def is_dataset(name: str) -> bool:
    """Tell whether a clip is named as videos of a data set, and is no file."""
    return name.partition(":")[0] in DATASETS and ":" in name and not Path(name).exists()


def dataset_videos(name: str, part: str | None = None) -> list[AnnotatedVideo]:
    """Read the videos that a name of a data set stands for; with `part`, all of that part of the same data set.

    Raises:
        InputError: a name that is not built as FORMS says, or whatever is wrong with the files.
    """
    arguments = _arguments(name)
    if part is not None:
        arguments |= {"part": part, "video": None}
    return DATASETS[name.partition(":")[0]](**arguments)


def dataset_part(name: str) -> str | None:
    """Return which part of its data set a name stands for, "train" or "test"; None where a data set has no parts."""
    return _arguments(name).get("part")


def _arguments(name: str) -> dict[str, Any]:
    """Return what the function of a data set is called with."""
    kind, *words = name.split(":")
    form = signature(DATASETS[kind])
    try:
        form.bind(*filter(None, words))
        bound = form.bind(*words)
    except TypeError:
        raise InputError(f"clip {name!r}: must be {FORMS[kind]}") from None
    bound.apply_defaults()
    return dict(bound.arguments)


def _from_dataset(name: str, frames: int | None, size: tuple[int, int] | None) -> LoadedClip:
    videos = dataset_videos(name)
    videos = videos if frames is None else [video.take(range(frames)) for video in videos]
    cuts = tuple(np.cumsum([len(video.files) for video in videos])[:-1].tolist())
    pictures = chain.from_iterable(video.read() for video in videos)
    return LoadedClip(
        read_frames(pictures, size=size),
        cuts,
        tuple(video.joints for video in videos if video.joints is not None),
        tuple(video.boxes for video in videos if video.boxes is not None),
        size,
    )


def absolute(name: str, folder: Path) -> str:
    """Return a clip's name with the paths in it made absolute, taken from `folder`; other names as they are."""
    kind, *parts = name.split(":")
    if kind in DATASETS and parts and not (folder / name).exists():
        paths = 2 if kind == "coco" else 1
        return ":".join([kind, *(str((folder / part).absolute()) for part in parts[:paths]), *parts[paths:]])
    path = folder / name
    return str(path.absolute()) if path.exists() else name

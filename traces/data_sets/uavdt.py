"""UAVDT, detection: vehicles filmed from drones, with regions that do not count.

Du et al., "The Unmanned Aerial Vehicle Benchmark", ECCV 2018. The folder holds what its archives unpack to:

    UAV-benchmark-M/SEQUENCE/img000001.jpg              the frames
    UAV-benchmark-MOTD_v1.0/GT/SEQUENCE_gt_whole.txt    frame, target, left, top, width, height, out of view, occlusion,
                                                        category (1 car, 2 truck, 3 bus)
    UAV-benchmark-MOTD_v1.0/GT/SEQUENCE_gt_ignore.txt   frame, target, left, top, width, height, ...
    M_attr/train/SEQUENCE_attr.txt, M_attr/test/...     which sequences are for training and which for tests

Frames count from 1. The benchmark's score is AP at an overlap of 0.7, all categories as one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from skipsim.errors import InputError, nearest
from skipsim.traces.annotated_video import AnnotatedVideo, chosen, pictures_in, size_of
from skipsim.traces.boxes import BoxLabels
from skipsim.traces.procedural.vehicles import CLASSES, COCO_IDS

SETS = ("train", "test")
_FIELDS = 6  # what an ignored region has: frame, target, left, top, width, height
_WHOLE_FIELDS = 9
CATEGORIES = range(1, len(CLASSES) + 1)


def uavdt_videos(folder: str, part: str = "test", video: str | None = None) -> list[AnnotatedVideo]:
    """Read the sequences of one part.

    Args:
        folder: see the module.
        part: "train" or "test".
        video: only this sequence, e.g. "M0203".

    Raises:
        InputError: a file that is missing, damaged or does not fit the frames.
    """
    if part not in SETS:
        raise InputError(f"uavdt: part {part!r} is unknown; {nearest(part, SETS)}")
    root = Path(folder)
    names = sorted(file.name.removesuffix("_attr.txt") for file in (root / "M_attr" / part).glob("*_attr.txt"))
    if not names:
        raise InputError(f"{root / 'M_attr' / part}: holds no SEQUENCE_attr.txt")
    return [_read(root, name) for name in chosen(names, video, f"uavdt {folder}, {part}")]


def _read(root: Path, name: str) -> AnnotatedVideo:
    files = pictures_in(root / "UAV-benchmark-M" / name)
    rows, cols = size_of(files[0])
    truth = root / "UAV-benchmark-MOTD_v1.0" / "GT"
    vehicles = _lines(truth / f"{name}_gt_whole.txt", _WHOLE_FIELDS, len(files))
    ignored_file = truth / f"{name}_gt_ignore.txt"
    regions = _lines(ignored_file, _FIELDS, len(files)) if ignored_file.exists() else np.empty((0, _FIELDS))
    categories = vehicles[:, 8].astype(np.int64) - 1
    entries = np.concatenate((vehicles[:, :_FIELDS], regions[:, :_FIELDS]))
    boxes = BoxLabels(
        frames=len(files),
        rows=rows,
        cols=cols,
        classes=CLASSES,
        ids=COCO_IDS,
        frame=entries[:, 0].astype(np.int64) - 1,
        box=np.concatenate((entries[:, 2:4], entries[:, 2:4] + entries[:, 4:6]), axis=1).astype(np.float32),
        label=np.concatenate((categories, np.zeros(len(regions), np.int64))),
        ignored=np.arange(len(entries)) >= len(vehicles),
        headline="ap@0.7",
        merged=True,
    )
    return AnnotatedVideo(name, files, boxes=boxes)


def _lines(file: Path, fields: int, frames: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Read a label file as numbers [lines, fields], boxes without an area left out."""
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            values = [float(word) for word in line.split(",")[:fields]]
        except ValueError:
            values = []
        if len(values) < fields or not np.isfinite(values).all():
            raise InputError(f"{file}, line {number}: must hold {fields} numbers with commas between, got {line!r}")
        if values[0] not in range(1, frames + 1):
            raise InputError(
                f"{file}, line {number}: frame must be 1..{frames}, as many as there are, got {values[0]:g}"
            )
        if fields == _WHOLE_FIELDS and values[8] not in CATEGORIES:
            raise InputError(
                f"{file}, line {number}: category must be 1 (car), 2 (truck) or 3 (bus), got {values[8]:g}"
            )
        if values[4] > 0 and values[5] > 0:
            rows.append(values)
    return np.array(rows, np.float64).reshape(-1, fields)

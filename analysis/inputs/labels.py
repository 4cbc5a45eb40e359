"""What scores a recording: the labels that a clip comes with, or the user's own: joints (.npz), boxes (.json)."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipsim.analysis.inputs.clips import LoadedClip
from skipsim.errors import InputError, nearest
from skipsim.traces.average_precision import DetectionScorer
from skipsim.traces.boxes import BoxLabels
from skipsim.traces.data_sets.coco_video import coco_labels
from skipsim.traces.datasets import Clip
from skipsim.traces.quality import is_pose, pose_scorer

NAMES = ("joints", "visible", "scale")

Scorer = Callable[[Sequence[Any]], dict[str, Any]]


def quality_of(clip: LoadedClip, model: Any) -> Scorer | None:
    """Return what scores a network's outputs on a labelled clip, as `record(quality=...)` takes it.

    None for a clip without labels, and for boxes if the network has no method `detect` (see `EfficientDet.detect`). A
    network whose outputs are not heat maps of a pose clip's joints scores nothing: {}.
    """
    if clip.boxes and callable(getattr(model, "detect", None)):
        rows, cols = clip.size or (clip.boxes[0].rows, clip.boxes[0].cols)
        return DetectionScorer(clip.boxes, model.detect, rows, cols, model.outputs)
    if not clip.labelled:
        return None

    def score(outputs: Sequence[Any]) -> dict[str, Any]:
        return pose_scorer(clip.labelled)(outputs) if is_pose(outputs[0]) else {}

    return score


def loss_of(clip: LoadedClip, model: Any) -> Callable[..., Any]:
    """Return what `damage_curves` takes as loss: the task's own, where a clip's labels are those of the network's task.

    Otherwise the one that needs no labels, see `tune.projected`.
    """
    from skipsim.traces.training.detection_task import ANCHOR_SCALE, box_arrays, detection_loss
    from skipsim.traces.training.pose_task import heatmap_loss
    from skipsim.traces.tune import labelled, projected

    if clip.boxes and clip.size is None and getattr(model, "anchor_scale", None) == ANCHOR_SCALE:
        if model.outputs == len(clip.boxes[0].classes):
            return labelled(
                [box_arrays(boxes) for boxes in clip.boxes], lambda maps, *boxes: detection_loss(*maps, *boxes)
            )
    elif clip.labelled and clip.size is None:
        rows, cols = clip.labelled[0].frames.shape[1:3]
        arrays = [(one.joints, one.visible) for one in clip.labelled]
        own, other = labelled(arrays, partial(heatmap_loss, rows=rows, cols=cols)), projected()
        return lambda output, frame: (own if is_pose(output) else other)(output, frame)
    return projected()


def label_scorer(path: str | Path, rows: int, cols: int, frames: int | None = None) -> Scorer:
    """Return a function that scores a network's heat maps against a labels file, as `record(quality=...)` takes it.

    Args:
        path: .npz with `joints`, float [frames, joints, 2], (x, y) in pixels of the video as it is, and optionally
            `visible`, bool [frames, joints], and `scale`, float [frames], what distances are divided by in PCK;
            default: all visible, and the greater side of the box around the frame's joints.
        rows: height of the video in pixels; heat maps of any size are brought to it.
        cols: width likewise.
        frames: use the first so many labels only.

    Raises:
        InputError: not such a file, or arrays that do not fit together.
    """
    arrays = _read(Path(path))
    joints = arrays["joints"].astype(np.float32)
    if joints.ndim != 3 or joints.shape[2] != 2 or not joints.size or not np.isfinite(joints).all():
        raise InputError(f"labels {path}: joints must be finite numbers [frames, joints, 2], got {list(joints.shape)}")
    box = np.concatenate((joints.min(axis=1), joints.max(axis=1)), axis=1)
    visible = arrays.get("visible", np.ones(joints.shape[:2], np.bool_))
    scale = arrays.get("scale", np.maximum(box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]))
    for name, array, shape in (("visible", visible, joints.shape[:2]), ("scale", scale, joints.shape[:1])):
        if array.shape != shape:
            raise InputError(f"labels {path}: {name} must have shape {list(shape)}, got {list(array.shape)}")
        if array.dtype.kind not in "biuf":
            raise InputError(f"labels {path}: {name} must be numbers, got {array.dtype}")
    joints, box, visible, scale = joints[:frames], box[:frames], visible[:frames], scale[:frames]
    if not visible.any():
        raise InputError(f"labels {path}: no joint is visible, so there is nothing to score")
    if not (scale > 0).all():
        raise InputError(
            f"labels {path}: scale, by default the greater side of the box around a frame's joints, must be > 0, "
            f"got {scale.min():g}"
        )
    pictures = np.broadcast_to(np.uint8(0), (len(joints), rows, cols, 3))  # only their size is asked for
    labelled = Clip(pictures, joints, visible.astype(np.bool_), box, scale.astype(np.float32), "own", 0)

    def score(outputs: Sequence[Any]) -> dict[str, Any]:
        if len(outputs) != len(joints):
            raise InputError(f"labels {path}: are for {len(joints)} frames, the clip has {len(outputs)}")
        shape = list(getattr(outputs[0], "shape", ()))
        if len(shape) not in (3, 4) or shape[-3] != joints.shape[1]:
            raise InputError(
                f"labels {path}: joints need a network that puts out a heat map for each, [{joints.shape[1]}, rows, "
                f"cols], got {shape or type(outputs[0]).__name__}"
            )
        return pose_scorer(labelled)(outputs)

    return score


def box_labels(path: str | Path, frames: int | None = None) -> BoxLabels:
    """Read the boxes of the one video that a COCO-style file describes (see `coco_video`), the first so many frames."""
    videos = coco_labels(path)
    if len(videos) != 1:
        raise InputError(f"labels {path}: must describe one video, got {len(videos)}; or record coco:{path}:FOLDER")
    (_, boxes), *_ = videos.values()
    return boxes if frames is None else boxes.take(range(frames))


def _read(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise InputError(f"labels {path}: no such file")
    try:
        content = np.load(path, allow_pickle=False)
        arrays = {name: content[name] for name in content.files}
    except (OSError, EOFError, ValueError, AttributeError, zipfile.BadZipFile):
        raise InputError(f"labels {path}: must be an .npz file of arrays {', '.join(NAMES)}") from None
    for name in arrays:
        if name not in NAMES:
            raise InputError(f"labels {path}: unknown array {name!r}; {nearest(name, NAMES)}")
    if "joints" not in arrays:
        raise InputError(f"labels {path}: array 'joints' is missing")
    if arrays["joints"].dtype.kind not in "fiu":
        raise InputError(f"labels {path}: joints must be numbers, got {arrays['joints'].dtype}")
    return arrays

"""The task of a training on videos: what their labels are, as its network puts them out, and what counts as good.

Labels are scaled with the pictures to be trained on, and scored in pixels of the video, as `skipsim record` scores
them. Without labels, or where they are not of the network's task, gates can be trained all the same, since they learn
to keep the outputs of the dense network; what counts then is the agreement with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skipsim.errors import InputError
from skipsim.traces.average_precision import DetectionScorer
from skipsim.traces.boxes import BoxLabels
from skipsim.traces.datasets import Clip
from skipsim.traces.detection import ANCHORS
from skipsim.traces.models import MODELS
from skipsim.traces.procedural.figure import JOINT_COUNT
from skipsim.traces.quality import is_pose, pose_scorer
from skipsim.traces.run_frame import run_frame, tensors_of
from skipsim.traces.training.detection_task import (
    DETECTION,
    box_arrays,
    detection_distance,
    names_its_outputs,
    outputs_of,
    own_loss,
)
from skipsim.traces.training.evaluation import evaluating
from skipsim.traces.training.gumbel_training import GateSettings
from skipsim.traces.training.pose_task import POSE, heatmap_distance
from skipsim.traces.training.task import Labels, Task
from skipsim.traces.training.training_run import Plan
from skipsim.traces.training.training_videos import TrainingVideos, VideoWindow

# Windows of one picture, or of as many as gates are trained on together; `pool_clips` of them are held in memory.
POOL: Mapping[str, Any] = {"pool_clips": 3000, "pool_frames": 1}


def labelled_task(videos: TrainingVideos) -> Task:
    """Return the task that videos are labelled for; without labels, that of poses."""
    return POSE if videos.train[0].boxes is None else DETECTION


def video_defaults(network: str) -> dict[str, Any]:
    """Return the fields of `Plan` for which videos have defaults of their own: the pool, and a named network's size."""
    known = MODELS.get(network)
    return {**POOL, **({} if known is None else {"rows": known.rows, "cols": known.cols})}


def video_task(videos: TrainingVideos, network: nn.Module, name: str, plan: Plan, gates: GateSettings | None) -> Task:
    """Return the task of a network on videos.

    Args:
        videos: the clips.
        network: runs once, on an empty picture.
        name: of the network, for errors.
        plan: of the training.
        gates: how gates are trained; None: none are.

    Raises:
        InputError: labels that the network's output does not fit, or none, where the network is trained; a camera; a
            network with a method `preprocess`; or no video of two frames to score gates on.
    """
    if plan.camera != "all":
        raise InputError(
            f"training: camera must be 'all' for clips {videos.name!r}, of whose cameras nothing is known, got "
            f"{plan.camera!r}"
        )
    if callable(getattr(network, "preprocess", None)):
        raise InputError(
            f"training: {name} must take RGB in 0..1 to be trained on videos; it has a method preprocess, which "
            "training does not call"
        )
    if gates and any(max(map(len, part)) < 2 for part in (videos.validation, videos.test)):
        raise InputError(
            f"clips {videos.name!r}: gates are scored on videos of 2 frames at least, got only shorter ones"
        )
    device = next(network.parameters()).device
    with evaluating(network), torch.no_grad():
        output = run_frame(network, torch.zeros((1, 3, plan.rows, plan.cols), device=device), 0, name)
    first = videos.train[0]
    wrong = "they have no labels"
    if first.joints is not None:
        if is_pose(output):
            return _pose(videos, plan)
        wrong = f"they have joints, for which {name} must put out heat maps [N, {JOINT_COUNT}, any rows, any cols]"
    elif first.boxes is not None:
        if is_detection(output) and names_its_outputs(network):
            return _detection(videos, network, plan)
        wrong = (
            f"they have boxes, for which {name} must put out class and box maps, and have a method detect and an "
            "attribute outputs"
        )
    if gates is None or not gates.freeze:
        raise InputError(
            f"training: clips {videos.name!r} cannot train {name}: {wrong}; without labels that fit, gates alone are "
            "trained, towards the dense network (--gate gumbel --freeze)"
        )
    return _without_labels(videos, output)


def _pose(videos: TrainingVideos, plan: Plan) -> Task:
    def labels(window: VideoWindow) -> Labels:
        clip = _joints(window)
        rows, cols = clip.frames.shape[1:3]
        pixels = np.array((plan.cols / cols, plan.rows / rows), np.float32)
        return ((clip.joints + 0.5) * pixels - 0.5).astype(np.float32), clip.visible

    def scorer(windows: Sequence[VideoWindow]) -> Any:
        return pose_scorer([_joints(window) for window in windows])

    return replace(POSE, clips=videos, labels=labels, scorer=scorer)


def _detection(videos: TrainingVideos, network: Any, plan: Plan) -> Task:
    every = [video.boxes for part in (videos.train, videos.validation, videos.test) for video in part if video.boxes]
    classes, ids = every[0].classes, every[0].ids
    if any((boxes.classes, boxes.ids) != (classes, ids) for boxes in every):
        raise InputError(f"training: all videos of clips {videos.name!r} and those scored must have the same classes")

    def scorer_of(boxes: Sequence[BoxLabels]) -> DetectionScorer:
        return DetectionScorer(tuple(boxes), network.detect, plan.rows, plan.cols, network.outputs)

    scorer_of(every)  # whether the network's classes can be matched with theirs
    most = max(int(np.bincount(boxes.frame).max()) for boxes in every if len(boxes.frame))
    outputs = outputs_of(ids, network)

    def labels(window: VideoWindow) -> Labels:
        found = _boxes(window)
        boxes, kinds = box_arrays(found, most)
        pixels = np.array((plan.cols / found.cols, plan.rows / found.rows) * 2, np.float32)
        return boxes * pixels, np.where(kinds >= 0, outputs[kinds], kinds)

    def scorer(windows: Sequence[VideoWindow]) -> DetectionScorer:
        return scorer_of([_boxes(window) for window in windows])

    return replace(DETECTION, clips=videos, labels=labels, loss=own_loss(network), scorer=scorer)


def _joints(window: VideoWindow) -> Clip:
    assert window.video.joints is not None  # of one video, so of all
    return window.video.joints


def _boxes(window: VideoWindow) -> BoxLabels:
    assert window.video.boxes is not None  # of one video, so of all
    return window.video.boxes


def _without_labels(videos: TrainingVideos, output: Any) -> Task:
    detection, pose = is_detection(output), is_pose(output)
    return Task(
        clips=videos,
        labels=lambda window: (),
        mirror=lambda labels, cols: labels,
        loss=lambda output, labels, plan: torch.zeros(()),  # gates alone are trained: never asked for
        scorer=lambda windows: None,
        distance=detection_distance if detection else heatmap_distance if pose else output_distance,
    )


def is_detection(output: Any) -> bool:
    """Tell whether an output is class and box maps by level, as `EfficientDet.forward` returns them."""
    if not isinstance(output, list | tuple) or len(output) != 2:
        return False
    if not all(isinstance(maps, list | tuple) and all(isinstance(one, Tensor) for one in maps) for maps in output):
        return False
    return len(output[0]) == len(output[1]) > 0 and all(one.shape[1] == ANCHORS * 4 for one in output[1])


def output_distance(output: Any, wanted: Any) -> Tensor:
    """Return how far any output is off: the squared difference in units of the spread of what it should be.

    The mean over its tensors; 1 is no better than a constant.
    """
    parts = [
        (one - other).square().sum() / (other - other.mean()).square().sum().clamp(min=1e-12)
        for one, other in zip(tensors_of(output), tensors_of(wanted), strict=True)
    ]
    return torch.stack(parts).mean()

"""The pose task: heat maps of the procedural clips' joints, scored by PCK."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from skipsim.traces.datasets import Clip, pose_clips
from skipsim.traces.procedural.figure import MIRRORED
from skipsim.traces.quality import pose_scorer
from skipsim.traces.training.task import Labels, Task
from skipsim.traces.training.training_run import Plan


def heatmap_loss(heatmaps: Tensor, joints: Tensor, visible: Tensor, rows: int, cols: int, sigma: float = 1.0) -> Tensor:
    """Return the cross-entropy of the heat maps' softmax against a Gaussian around each visible joint: the mean.

    Args:
        heatmaps: [N, J, heatmap rows, heatmap cols], logits.
        joints: [N, J, 2], (x, y) in pixels of a picture of rows x cols, however large the one was that the network saw.
        visible: bool [N, J]; other joints do not count.
        rows: picture height in pixels.
        cols: picture width in pixels.
        sigma: standard deviation of the Gaussian in heat map pixels.
    """
    height, width = heatmaps.shape[-2:]
    x = (joints[..., 0] + 0.5) * (width / cols) - 0.5
    y = (joints[..., 1] + 0.5) * (height / rows) - 0.5
    across = torch.arange(width, device=heatmaps.device) - x[..., None]
    down = torch.arange(height, device=heatmaps.device) - y[..., None]
    wanted = torch.softmax(-(across**2) / (2 * sigma**2), -1)[..., None, :]
    wanted = wanted * torch.softmax(-(down**2) / (2 * sigma**2), -1)[..., :, None]
    entropy = -(wanted.flatten(2) * heatmaps.float().flatten(2).log_softmax(-1)).sum(-1)
    return (entropy * visible).sum() / visible.sum().clamp(min=1)


def _labels(clip: Clip) -> Labels:
    return clip.joints, clip.visible


def _mirror(labels: Labels, cols: int) -> Labels:
    joints, visible = labels[0][:, MIRRORED], labels[1][:, MIRRORED]
    joints[..., 0] = cols - 1 - joints[..., 0]
    return joints, visible


def _loss(output: Any, labels: tuple[Tensor, ...], plan: Plan) -> Tensor:
    joints, visible = labels
    return heatmap_loss(output, joints, visible, plan.rows, plan.cols, plan.heatmap_sigma)


def heatmap_distance(heatmaps: Tensor, wanted: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of heat maps, as probabilities of positions: the mean over joints.

    Args:
        heatmaps: [N, J, heatmap rows, heatmap cols], logits.
        wanted: the same shape.
    """
    found, truth = (maps.float().flatten(2).log_softmax(-1) for maps in (heatmaps, wanted))
    return functional.kl_div(found, truth, reduction="none", log_target=True).sum(-1).mean()


POSE = Task(clips=pose_clips, labels=_labels, mirror=_mirror, loss=_loss, scorer=pose_scorer, distance=heatmap_distance)

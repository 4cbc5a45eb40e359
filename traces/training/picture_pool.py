"""PicturePool: the labelled pictures of a training, held in memory, and the batch of every step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skipsim.errors import InputError
from skipsim.traces.training.task import Labels, Pictures, Task
from skipsim.traces.training.training_run import Plan
from skipsim.traces.video import shrink


@dataclass(frozen=True)
class PicturePool:
    """Sequences of `plan.clip_frames` successive pictures of a clip, and their labels.

    pictures: uint8 [S, clip_frames, rows, cols, 3]; labels: arrays [S, clip_frames, ...].
    """

    pictures: Pictures
    labels: Labels
    task: Task

    def batch(self, plan: Plan, step: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the sequences of a step, varied at random: a function of plan and step alone.

        All pictures of a sequence are varied alike, and all of a step have one size. Returns float RGB in 0..1 [batch,
        clip_frames, 3, rows, cols], and labels [batch, clip_frames, ...].
        """
        epoch, place = divmod(step * plan.batch, len(self.pictures) // plan.batch * plan.batch)
        order = np.random.default_rng([plan.seed, 0, epoch]).permutation(len(self.pictures))
        chosen = order[place : place + plan.batch]
        rng = np.random.default_rng([plan.seed, 1, step])
        pictures = _shrunk(self.pictures[chosen], share := plan.share(step)).astype(np.float32) / 255
        labels = tuple(label[chosen].copy() for label in self.labels)
        mirror = np.flatnonzero(rng.random(len(chosen)) < 0.5)
        pictures[mirror] = pictures[mirror][:, :, :, ::-1]
        for sequence in mirror:
            mirrored = self.task.mirror(tuple(label[sequence] for label in labels), plan.cols)
            for label, other in zip(labels, mirrored, strict=True):
                label[sequence] = other
        tint = rng.uniform(0.75, 1.25, (len(chosen), 1, 1, 1, 3)).astype(np.float32)
        shift = rng.uniform(-0.1, 0.1, (len(chosen), 1, 1, 1, 1)).astype(np.float32)
        pictures = np.clip((pictures - 0.5) * tint + 0.5 + shift, 0, 1)
        labels = self.task.shrink(labels, share)
        return torch.from_numpy(pictures.transpose(0, 1, 4, 2, 3)), tuple(torch.from_numpy(label) for label in labels)


def _shrunk(pictures: Pictures, share: float) -> Pictures:
    if share == 1:
        return pictures
    return np.array([[shrink(picture, share) for picture in sequence] for sequence in pictures])


def make_pool(task: Task, plan: Plan, advance: Callable[[int], None]) -> PicturePool:
    """Make all training pictures once; they follow from the plan's sizes alone. Calls `advance(clips made)`.

    Raises:
        InputError: fewer sequences than a batch has.
    """
    each = plan.pool_frames // plan.clip_frames
    total, made = plan.pool_clips * each, 0
    pictures = np.empty((total, plan.clip_frames, plan.rows, plan.cols, 3), np.uint8)
    labels: Labels = ()
    options = {"rows": plan.rows, "cols": plan.cols, "frames_per_second": plan.pool_frames_per_second}
    count = plan.pool_clips if plan.camera == "all" else 2 * plan.pool_clips  # cameras come in turn
    clips = task.clips("train", count, frames=each * plan.clip_frames, **options)
    for clip in (clip for clip in clips if plan.camera in ("all", clip.camera)):
        known = task.labels(clip)
        if not labels:
            labels = tuple(np.empty((total, plan.clip_frames, *label.shape[1:]), label.dtype) for label in known)
        place = slice(made, made + each)
        pictures[place] = clip.frames.reshape(each, plan.clip_frames, *clip.frames.shape[1:])
        for label, new in zip(labels, known, strict=True):
            label[place] = new.reshape(each, plan.clip_frames, *new.shape[1:])
        made += each
        advance(made // each)
    if made < plan.batch:
        raise InputError(f"training: batch must be at most {made}, the sequences that there are, got {plan.batch}")
    return PicturePool(pictures[:made], tuple(label[:made] for label in labels), task)

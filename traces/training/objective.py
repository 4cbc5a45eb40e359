"""What a training trains: a plain network, on single pictures. (A network with its gates: gumbel_training.py.)"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from skipsim.traces.datasets import CAMERAS
from skipsim.traces.training.task import Task
from skipsim.traces.training.training_run import Plan

Scores = dict[str, dict[str, Any]]


class Objective(Protocol):
    """What `train` needs to know of what it trains."""

    @property
    def module(self) -> nn.Module:
        """All that is trained; its state dict is what a checkpoint keeps."""

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the result beside the plan, as JSON data."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return groups for the optimiser; "rate" of a group multiplies the plan's learning rate."""

    def prepare(self) -> None:
        """Put all modules into the mode that a step is taken in."""

    def loss(self, pictures: Tensor, labels: tuple[Tensor, ...], step: int) -> Tensor:
        """Return the loss of sequences [N, clip_frames, 3, rows, cols] and their labels [N, clip_frames, ...]."""

    def score(self, clips: Sequence[Any]) -> Scores:
        """Return scores on labelled clips: "all", and by camera where there are clips of it."""

    def weights(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return the tensors and the header of the weights file."""


class PlainTraining:
    """A network, trained on single pictures."""

    def __init__(self, network: nn.Module, task: Task, plan: Plan) -> None:
        self.module, self._task, self._plan = network, task, plan
        self.identity: dict[str, Any] = {}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return one group."""
        return [{"params": list(self.module.parameters())}]

    def prepare(self) -> None:
        """Switch to training mode."""
        self.module.train()

    def loss(self, pictures: Tensor, labels: tuple[Tensor, ...], step: int) -> Tensor:
        """Return the task's mean loss over all pictures."""
        singles = pictures.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        return self._task.loss(self.module(singles), tuple(label.flatten(0, 1) for label in labels), self._plan)

    def score(self, clips: Sequence[Any]) -> Scores:
        """Return the task's scores of the dense network."""
        self.module.eval()
        device = next(self.module.parameters()).device
        outputs = []
        with torch.inference_mode():
            for clip in clips:
                output = self.module(pictures_of(clip).to(device))
                outputs.append([frame_of(output, frame) for frame in range(len(clip.frames))])

        def score(chosen: Sequence[int]) -> dict[str, Any]:
            flat = [output for index in chosen for output in outputs[index]]
            scores: dict[str, Any] = self._task.scorer([clips[index] for index in chosen])(flat)
            return scores

        return by_camera(clips, score)

    def weights(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return the network's tensors under their own names."""
        return dict(self.module.state_dict()), {}


def pictures_of(clip: Any) -> Tensor:
    """Return a clip's frames as float RGB in 0..1 [T, 3, rows, cols]."""
    return torch.from_numpy(clip.frames).permute(0, 3, 1, 2).float() / 255


def by_camera(clips: Sequence[Any], score: Callable[[Sequence[int]], dict[str, Any]]) -> Scores:
    """Score all clips, and those of each camera where there are any; `score` is given positions in `clips`."""
    scores = {}
    for camera in ("all", *CAMERAS):
        chosen = [index for index, clip in enumerate(clips) if camera in ("all", clip.camera)]
        if chosen:
            scores[camera] = score(chosen)
    return scores


def frame_of(output: Any, frame: int) -> Any:
    """Return the part of a batch's output that belongs to one picture, on the CPU, with a batch axis of length 1."""
    if isinstance(output, Tensor):
        return output[frame : frame + 1].float().cpu()
    if isinstance(output, dict):
        return {name: frame_of(value, frame) for name, value in output.items()}
    return type(output)(frame_of(value, frame) for value in output)

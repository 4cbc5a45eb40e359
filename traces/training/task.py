"""Task: what a network is trained for. One instance per task; `train.TASKS` names them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    from skipsim.traces.training.training_run import Plan

Pictures = NDArray[np.uint8]
Labels = tuple[NDArray[Any], ...]


class LabelledClip(Protocol):
    """What a task's clips have in common: frames uint8 [T, rows, cols, 3] and the camera that filmed them."""

    @property
    def frames(self) -> Pictures:
        """The pictures, RGB."""

    @property
    def camera(self) -> str:
        """One of datasets.CAMERAS; "own" where it is not known."""


@dataclass(frozen=True)
class Task:
    """What a network is trained for: where clips come from, what their labels are, and what counts as good.

    Attributes:
        clips: (split, count, *, frames, rows, cols, frames_per_second=...) -> labelled clips, as `pose_clips`; fewer
            where there are no more.
        labels: a clip's labels as arrays [T, ...], of the same shape after T in every clip of one size; where their
            number varies, padded.
        mirror: labels of some pictures (arrays [N, ...]) and the pictures' width -> the labels of the pictures
            mirrored left to right.
        shrink: labels of some pictures and a share of their sides -> the labels that `loss` compares with the output on
            pictures shrunk to it; default: the same ones.
        loss: (the network's output on N pictures, labels as tensors [N, ...], plan) -> mean loss, a scalar.
        scorer: clips -> a function from one network output per frame, over all clips, to scores by name, with
            "headline" naming the one that counts; what `record(quality=...)` takes. Or to None: nothing is labelled,
            and what counts is the agreement with the dense network.
        distance: (the network's output on N pictures, what it should be) -> how far it is off, a scalar: 0 where equal.
        defaults: fields of `Plan` for which this task has a default of its own.
    """

    clips: Callable[..., Iterator[Any]]
    labels: Callable[[Any], Labels]
    mirror: Callable[[Labels, int], Labels]
    loss: Callable[[Any, tuple[Tensor, ...], Plan], Tensor]
    scorer: Callable[[Sequence[Any]], Any]
    distance: Callable[[Any, Any], Tensor]
    shrink: Callable[[Labels, float], Labels] = lambda labels, share: labels
    defaults: Mapping[str, Any] = field(default_factory=dict)

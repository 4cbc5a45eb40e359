"""What other clips would have shown: scores of samples of the clips, drawn with replacement (the bootstrap).

Efron and Tibshirani, "An Introduction to the Bootstrap", chapter 13: the percentile interval. Frames of a clip are
alike, so clips are drawn, not frames; two networks are compared on the same samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipsim.traces.datasets import Clip
from skipsim.traces.quality import HEADLINE, pose_quality
from skipsim.traces.ranked_detections import ranked

DRAWS = 1000
TAILS = (0.025, 0.975)

Score = Callable[[NDArray[np.int64]], float]  # how often each clip counts -> the score


@dataclass
class Watched:
    """A scorer that keeps what it scored.

    Attributes:
        scorer: of the clips.
        clips: one after the other, labelled.
        outputs: of the network, one per frame, as the scorer keeps them.
    """

    scorer: Any
    clips: Sequence[Any]
    outputs: list[Any] = field(default_factory=list)

    def keep(self, output: Any) -> Any:
        """Return what is kept of the output on one frame."""
        return self.scorer.keep(output) if hasattr(self.scorer, "keep") else np.asarray(output.cpu())

    def __call__(self, outputs: Sequence[Any]) -> dict[str, Any]:
        """Score outputs, one per frame."""
        self.outputs = list(outputs)
        result: dict[str, Any] = self.scorer(outputs)
        return result

    def samples(self) -> NDArray[np.float64]:
        """Return the strict score of every sample of the clips."""
        score = SCORES[type(self.clips[0]).__name__](self)
        return samples(score, len(self.clips))


def _of_joints(watched: Watched) -> Score:
    """Return the PCK of any sample of clips: joints found over joints visible, both summed over the sample."""
    visible = np.array([clip.visible.sum() for clip in watched.clips], np.float64)
    ends = np.cumsum([len(clip.frames) for clip in watched.clips])[:-1]
    maps = np.split(np.stack([output.reshape(output.shape[-3:]) for output in watched.outputs]), ends)
    shares = [
        pose_quality(entry, clip)[HEADLINE] if clip.visible.any() else 0.0
        for entry, clip in zip(maps, watched.clips, strict=True)
    ]
    found = visible * shares
    return lambda counts: float(counts @ found / (counts @ visible))


def _of_boxes(watched: Watched) -> Score:
    """Return the AP of any sample of clips."""
    scorer = watched.scorer
    return ranked(scorer.detections(watched.outputs), scorer.labels).average_precision


# By the kind of clips. To add one: write its function and a line.
SCORES: dict[str, Callable[[Watched], Score]] = {Clip.__name__: _of_joints, "DetectionClip": _of_boxes}


def samples(score: Score, clips: int) -> NDArray[np.float64]:
    """Return the scores of DRAWS samples of so many clips, the same ones in every call.

    Args:
        score: how often each clip counts -> the score.
        clips: how many there are.
    """
    draws = np.random.default_rng(0).multinomial(clips, np.full(clips, 1 / clips), size=DRAWS)
    return np.array([score(counts) for counts in draws])


def difference_interval(first: NDArray[np.float64], second: NDArray[np.float64]) -> tuple[float, float]:
    """Return between what first - second lies in 95 % of the samples; two results of `samples` on the same clips."""
    low, high = np.quantile(first - second, TAILS)
    return float(low), float(high)

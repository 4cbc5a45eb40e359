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

from skipsim.traces.average_precision import DetectionScorer
from skipsim.traces.ranked_detections import ranked

DRAWS = 1000
TAILS = (0.025, 0.975)


@dataclass
class Watched:
    """A scorer that keeps what it scored.

    Attributes:
        scorer: of the clips.
        outputs: of the network, one per frame, as the scorer keeps them.
    """

    scorer: DetectionScorer
    outputs: list[Any] = field(default_factory=list)

    def keep(self, output: Any) -> Any:
        """Return what is kept of the output on one frame."""
        return self.scorer.keep(output)

    def __call__(self, outputs: Sequence[Any]) -> dict[str, Any]:
        """Score outputs, one per frame."""
        self.outputs = list(outputs)
        return self.scorer(outputs)

    def samples(self) -> NDArray[np.float64]:
        """Return the AP of every sample of the clips."""
        labels = self.scorer.labels
        return samples(ranked(self.scorer.detections(self.outputs), labels).average_precision, len(labels))


def samples(score: Callable[[NDArray[np.int64]], float], clips: int) -> NDArray[np.float64]:
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

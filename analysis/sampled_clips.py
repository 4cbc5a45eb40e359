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

Score = Callable[[NDArray[np.int64]], float]  # how often each clip counts -> the score


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

    def score(self) -> Score:
        """Return the AP of any sample of the clips."""
        return ranked(self.scorer.detections(self.outputs), self.scorer.labels).average_precision


def difference_interval(first: Score, second: Score, clips: int) -> tuple[float, float]:
    """Return between what the difference of two scores, first - second, lies in 95 % of the samples of the clips."""
    draws = np.random.default_rng(0).multinomial(clips, np.full(clips, 1 / clips), size=DRAWS)
    low, high = np.quantile([first(counts) - second(counts) for counts in draws], TAILS)
    return float(low), float(high)

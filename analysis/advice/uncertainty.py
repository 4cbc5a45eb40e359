"""band: how far a predicted speed-up may be off, and what that is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from skipsim.hwmodels.anchor import anchor_of
from skipsim.hwmodels.hardware import Hardware
from skipsim.traces.layer import Layer

# 9 in 10 latencies of gated networks are predicted closer than this: DPACS on a ZCU102, ResNet-50 and -101 with
# masks, serial and parallel, 48 measurements of which none was fitted. source: VALIDATION.md 1, python -m
# skipsim.analysis.validation dpacs. It holds for machines whose numbers are known; "assumed" numbers come on top.
MODEL_ERROR = 0.125
# 9 in 10 networks on a measured processor, recorded masks and all: from their masks alone, and where the machine's file
# has the network as an anchor; of one thread, and of more. source: VALIDATION.md, "A measured CPU", the worse of two
# runs of skipsim validate on measured-zen4-2core and of two on a file of two threads.
PROCESSOR_ERROR, ANCHORED_ERROR = 0.36, 0.052
THREADED_ERROR, THREADED_ANCHORED_ERROR = 0.96, 0.14


def model_error(machine: Hardware, layers: Sequence[Layer]) -> float:
    """Return how far a speed-up of a network with these layers may be off on a machine, in 9 of 10 cases."""
    if machine.processor is None:
        return MODEL_ERROR
    anchor, threads = anchor_of(machine.processor.anchors, layers), machine.processor.host.threads
    known = anchor is not None and anchor.difference(layers, threads) is None
    if threads == 1:
        return ANCHORED_ERROR if known else PROCESSOR_ERROR
    return THREADED_ANCHORED_ERROR if known else THREADED_ERROR


@dataclass(frozen=True)
class Band:
    """A speed-up with its bounds; `clip_low` and `clip_high` are the slowest and the fastest clip alone."""

    low: float
    middle: float
    high: float
    clip_low: float
    clip_high: float
    clips: int
    model_error: float = MODEL_ERROR

    def words(self) -> str:
        """Return the band and what it is made of, in one line."""
        several = f"{self.clips} clips from {self.clip_low:.2f}x to {self.clip_high:.2f}x"
        spread = several if self.clips > 1 else "one clip, so its spread is not known"
        return (
            f"{self.low:.2f}x to {self.high:.2f}x: {spread}, and {self.model_error:.1%} for the model "
            f"(the largest error of 9 in 10 measured gated latencies)"
        )


def band(speedup: float, clip_speedups: Sequence[float], model_error: float = MODEL_ERROR) -> Band:
    """Return the band of a mean speed-up: spread over clips and the model's error, independent, so root of squares."""
    low, high = min(clip_speedups), max(clip_speedups)
    down = math.hypot(max(0.0, 1 - low / speedup), model_error)
    up = math.hypot(max(0.0, high / speedup - 1), model_error)
    return Band(speedup * (1 - down), speedup, speedup * (1 + up), low, high, len(clip_speedups), model_error)

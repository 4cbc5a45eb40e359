"""Agreement: how far the outputs of a gated network are those of the dense one, on video without labels."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
from torch import Tensor, nn

from skipsim.traces.average_precision import Detections, average_precision
from skipsim.traces.boxes import BoxLabels

SURE_SCORE = 0.3  # of a detection that counts as an object; assumed: above it most are right in the networks here


class Agreement:
    """Compares outputs frame by frame and keeps sums, and of a detection network its few boxes.

    "agreement" is `quality.agreement` over all tensors. A network with a method `detect` and an attribute `outputs`,
    its number of classes, also has an "agreement_ap": COCO's AP of the gated network's detections, where objects are
    what the dense network detects with a score of at least SURE_SCORE. It is left out where there is none, or where
    pycocotools is not installed.
    """

    def __init__(self, model: nn.Module) -> None:
        self._difference = self._total = self._squares = 0.0
        self._count = 0
        detects = callable(getattr(model, "detect", None)) and find_spec("pycocotools") is not None
        self._detect: Any = getattr(model, "detect", None) if detects else None
        self._classes = int(getattr(model, "outputs", 0))
        self._size = (0, 0)
        self._found: list[Detections] = []
        self._objects: list[Detections] = []

    def add(self, output: Any, dense: Any, rows: int, cols: int) -> None:
        """Note the outputs on one picture of rows x cols pixels."""
        for got, wanted in zip(_tensors(output), _tensors(dense), strict=True):
            exact = wanted.double()
            self._difference += float((got.double() - exact).square().sum())
            self._total += float(exact.sum())
            self._squares += float(exact.square().sum())
            self._count += exact.numel()
        if self._detect is not None:
            self._size = rows, cols
            self._found.append(self._detect(output, rows, cols))
            sure = self._detect(dense, rows, cols)
            area = (sure[:, 2] > sure[:, 0]) & (sure[:, 3] > sure[:, 1])
            self._objects.append(sure[area & (sure[:, 4] >= SURE_SCORE)])

    def result(self) -> dict[str, float]:
        """Return the agreement over all frames."""
        variation = self._squares - self._total**2 / max(1, self._count)
        equal = 1.0 if self._difference == 0 else 0.0
        found = {"agreement": 1 - self._difference / variation if variation > 0 else equal}
        if any(len(frame) for frame in self._objects):
            found["agreement_ap"] = average_precision(self._found, self._labels())["ap"]
        return found

    def _labels(self) -> BoxLabels:
        """Return the dense network's sure detections as labels."""
        every = np.concatenate(self._objects)
        frame = np.repeat(np.arange(len(self._objects)), [len(boxes) for boxes in self._objects])
        return BoxLabels(
            frames=len(self._objects),
            rows=self._size[0],
            cols=self._size[1],
            classes=tuple(f"class {number}" for number in range(self._classes)),
            ids=tuple(range(1, self._classes + 1)),
            frame=frame,
            box=every[:, :4],
            label=every[:, 5].astype(np.int64),
            ignored=np.zeros(len(every), np.bool_),
        )


def _tensors(output: Any) -> list[Tensor]:
    """Return all tensors in an output, in order."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, dict):
        output = list(output.values())
    return [tensor for entry in output for tensor in _tensors(entry)] if isinstance(output, list | tuple) else []

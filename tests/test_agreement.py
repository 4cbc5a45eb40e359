"""Is agreement on unlabelled video that of all outputs, and for detections the AP against the dense network's?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from skipsim.traces.agreement import SURE_SCORE, Agreement
from skipsim.traces.gates import InputNormGate
from skipsim.traces.record import record


class Detector(nn.Module):
    """Puts out its input; `detect` finds one square per channel with a positive mean, its score the mean."""

    outputs = 2

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1, bias=False)
        nn.init.dirac_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv(x)
        return found

    def detect(self, output: Tensor, rows: int, cols: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        means = output.mean((0, 2, 3)).tolist()
        squares = [(8 * c, 0, 8 * c + 8, rows, mean, 0) for c, mean in enumerate(means) if mean > 0]
        return np.array(squares, np.float32).reshape(-1, 6)


def picture(first: float, second: float) -> Tensor:
    return torch.tensor([first, second])[:, None, None].expand(2, 8, 16).contiguous()


def agreement(*pairs: tuple[Tensor, Tensor]) -> dict[str, float]:
    made = Agreement(Detector())
    for found, dense in pairs:
        made.add(found[None], dense[None], 8, 16)
    return made.result()


def test_equal_outputs_agree() -> None:
    one = picture(0.9, 0.5)
    assert agreement((one, one)) == {"agreement": 1.0, "agreement_ap": pytest.approx(1)}


def test_objects_are_what_the_dense_network_is_sure_of() -> None:
    # Two objects, one found: precision is 1 at the recalls 0, 0.01, ..., 0.5 and 0 beyond.
    missed = agreement((picture(0.9, -1), picture(0.9, 0.5)))
    assert missed["agreement_ap"] == pytest.approx(51 / 101)
    # The second is no object, since the dense network is not sure of it.
    assert agreement((picture(0.9, -1), picture(0.9, SURE_SCORE - 0.01)))["agreement_ap"] == pytest.approx(1)
    # A false alarm with the better score comes first: precision 1/2 at every recall.
    assert agreement((picture(0.8, 0.9), picture(0.9, -1)))["agreement_ap"] == pytest.approx(0.5)


def test_without_an_object_there_is_no_ap() -> None:
    assert set(agreement((picture(0.1, 0.1), picture(0.1, 0.2)))) == {"agreement"}


def test_a_recording_without_labels_has_it() -> None:
    frames = [picture(0.9, 0.5), picture(0.9, 0.9), picture(0.9, -0.9)]
    exact = record(Detector(), frames, InputNormGate(0.0), agreement=True, progress=False)
    assert exact.quality == {"agreement": 1.0, "agreement_ap": pytest.approx(1)}
    # Changes are skipped, so that on the third frame the second object, gone by then, is a false alarm of score 0.5.
    held = record(Detector(), frames, InputNormGate(5.0), agreement=True, progress=False)
    assert held.quality["agreement_ap"] == pytest.approx(1)  # the last in order, it costs no precision
    assert held.quality["agreement"] < 1

"""The gates that a training begins with: open ones, or ones that decide as norm gates do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from skipsim.traces.layer import Layer
from skipsim.traces.per_layer import value_for

FILTERS = ("convolution", "channels")
FIRST_BIAS = 0.6  # so that gates start open; Habibian et al., "Skip-Convolutions", CVPR 2021, section 3.2
# Of a gate that begins as a norm gate: its logit is this much below 0 where nothing changed, and rises through 0 at the
# threshold. Large, so that few decisions are left to the draw: an unchanged position is computed in 1 draw of 150.
SHARPNESS = 5.0
LEAST_THRESHOLD = 1e-4


class Scaled(nn.Module):
    """Gives a parameter of the size of 1 its size, so that one learning rate suits the filters of all layers."""

    size: Tensor

    def __init__(self, size: float) -> None:
        super().__init__()
        self.register_buffer("size", torch.tensor(size))

    def forward(self, parameter: Tensor) -> Tensor:
        """Return the parameter in its size."""
        return parameter * self.size

    def right_inverse(self, value: Tensor) -> Tensor:
        """Return the parameter of a value."""
        return value / self.size


def first_gates(
    layers: Sequence[Layer],
    filter: str,
    signal: str,
    thresholds: Mapping[str, float | None] | None,
    seed: int,
) -> nn.ModuleList:
    """Make the gate of every layer.

    Without thresholds filters are random, as small as torch makes a convolution's, and open. With thresholds, on the
    magnitude of the change: logit = SHARPNESS x (mean over the receptive field / threshold - 1), which is >= 0 where an
    input-norm gate of that threshold computes (but for taps beyond the map's edge, if the filter is a convolution).
    """
    filters = nn.ModuleList()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in layers:
            kernel = (layer.kernel_rows, layer.kernel_cols) if filter == "convolution" else (1, 1)
            made = nn.Conv2d(layer.in_channels, 1, kernel)
            assert made.bias is not None
            with torch.no_grad():
                made.bias.fill_(FIRST_BIAS)
                if signal == "magnitude":
                    made.weight.abs_()
            if thresholds is not None:
                _decide_like(made, value_for(thresholds, layer, "training: thresholds"))
            filters.append(made)
    return filters


def _decide_like(gate: nn.Conv2d, threshold: float) -> None:
    assert gate.bias is not None
    size = SHARPNESS / (max(threshold, LEAST_THRESHOLD) * gate.weight[0].numel())
    with torch.no_grad():
        gate.weight.fill_(size)
        gate.bias.fill_(-SHARPNESS)
    register_parametrization(gate, "weight", Scaled(size))

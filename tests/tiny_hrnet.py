"""The smallest network of HRNet's structure: one that tests can train."""

from __future__ import annotations

import torch

from skipsim.traces.models.hrnet import HRNet


def tiny_hrnet(outputs: int = 15) -> HRNet:
    """Make it, with the same weights every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return HRNet(outputs, 4, modules=(1,), blocks=1, stem=4, stem_blocks=1)

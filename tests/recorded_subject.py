"""What the tests of recordings look at: a clip of pictures, and a network whose head runs on two levels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

Frame = np.ndarray[Any, np.dtype[np.uint8]]


def clip(frames: int = 6, rows: int = 20, cols: int = 16) -> list[Frame]:
    """uint8 frames on which a bright square moves over noise that stays."""
    still = np.random.default_rng(0).integers(0, 100, (rows, cols, 3), np.uint8)
    result = []
    for frame in range(frames):
        picture = still.copy()
        picture[2 * frame : 2 * frame + 5, frame : frame + 5] += 120
        result.append(picture)
    return result


class Net(nn.Module):
    """Two convolutions and a head that runs on two levels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.head = nn.Conv2d(8, 4, 1)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> dict[str, Any]:
        fine = functional.relu(self.deep(functional.relu_(self.stem(x))))
        coarse = functional.max_pool2d(fine, 2)
        return {"levels": [self.drop(self.head(fine)), self.drop(self.head(coarse))]}


def as_input(frame: Frame) -> Tensor:
    return torch.from_numpy(frame.transpose(2, 0, 1).astype(np.float32) / 255)[None]

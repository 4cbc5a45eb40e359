"""What the tests of conversion and of converted layers look at: a clip, and a network with all that can go wrong."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def clip(frames: int, channels: int, rows: int, cols: int, seed: int = 0) -> list[Tensor]:
    """Frames that change in a moving square only, over a picture that stays."""
    generator = torch.Generator().manual_seed(seed)
    still = torch.randn(1, channels, rows, cols, generator=generator)
    result = []
    for frame in range(frames):
        x = still.clone()
        top, left = (2 * frame) % rows, (3 * frame) % cols
        x[..., top : top + 3, left : left + 4] += 0.5 + torch.rand(channels, 1, 1, generator=generator)
        result.append(x)
    return result


class Net(nn.Module):
    """Everything that a converted convolution must get along with: sharing, in-place activations, additions, lists."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(inplace=True))
        self.branches = nn.ModuleList([nn.Conv2d(8, 8, 3, padding="same", groups=8), nn.Conv2d(8, 8, 1, bias=False)])
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, 8, 3, padding=2, dilation=2, padding_mode="circular")
        self.alias = self.head

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.branches[0](x))
        x += self.branches[1](functional.relu_(y))
        coarse = functional.avg_pool2d(x, 2)
        fine: Tensor = self.head(x) + functional.interpolate(self.alias(coarse), size=x.shape[-2:])
        return fine


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    made = Net()
    for _ in range(3):
        made(torch.randn(4, 3, 14, 18))
    return made.eval()

"""Folding batch normalisation into the convolution before it.

A pair is a plain nn.Conv2d and an nn.BatchNorm2d of as many channels that stand next to each other among the children
of one module, as in almost every network. Order of definition need not be order of execution, so each folded pair is
checked when it first runs: what arrives where the normalisation was must be the very tensor that its convolution
returned.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from skipsim.errors import InputError


class Folded(nn.Module):
    """What is left of a batch normalisation: it passes its input on, and checks the first one."""

    def __init__(self, name: str, conv_name: str, conv: nn.Conv2d) -> None:
        super().__init__()
        self._names, self._expected, self._checked = (name, conv_name), torch.empty(0), False
        self._hook = conv.register_forward_hook(self._note)

    def _note(self, conv: nn.Module, arguments: object, output: Tensor) -> None:
        self._expected = output

    def forward(self, x: Tensor) -> Tensor:
        """Return the input."""
        if not self._checked:
            if x is not self._expected:
                name, conv_name = self._names
                raise InputError(
                    f"convert: batch normalisation {name!r} does not read layer {conv_name!r}, beside which it is "
                    "defined; convert with fold_batch_norm=False"
                )
            self._checked, self._expected = True, torch.empty(0)
            self._hook.remove()
        return x


def fold(model: nn.Module) -> list[str]:
    """Fold every pair in place, for evaluation: the same function, up to rounding. Return the folded layers' names."""
    folded = []
    for owner, (conv_name, conv), (name, norm) in list(_pairs(model)):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        setattr(owner, name.rpartition(".")[2], Folded(name, conv_name, conv))
        folded.append(conv_name)
    return folded


Named = tuple[str, nn.Module]


def _pairs(model: nn.Module) -> Iterator[tuple[nn.Module, tuple[str, nn.Conv2d], tuple[str, nn.BatchNorm2d]]]:
    seen: set[nn.Module] = set()
    for prefix, owner in model.named_modules():
        dot = f"{prefix}." if prefix else ""
        for (first, conv), (second, norm) in pairwise(owner.named_children()):
            plain = type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and conv not in seen and norm not in seen
            if plain and conv.out_channels == norm.num_features and norm.running_mean is not None:
                seen |= {conv, norm}
                yield owner, (dot + first, conv), (dot + second, norm)

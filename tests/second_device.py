"""A second device that needs no GPU: its tensors lie on the CPU and say that they don't.

Under `SecondDevice()` everything on `DEVICE` is computed, and a step that mixes tensors of two devices fails as it
would on a GPU. (PyTorch's own "meta" tensors hold no values, so that nothing could be compared.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)  # what may take from one and give to another


class Elsewhere(torch.Tensor):
    """A tensor on the second device; `inner` holds its values."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Elsewhere:
        """Say the second device's name."""
        made: Elsewhere = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            inner.stride(),
            inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=DEVICE,
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, step: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute on the CPU."""
        return _computed(step, args, kwargs or {})


class SecondDevice(TorchDispatchMode):
    """While it is entered, `DEVICE` holds values."""

    def __torch_dispatch__(self, step: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute on the CPU."""
        return _computed(step, args, kwargs or {})


def _computed(step: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = any(isinstance(tensor, Elsewhere) for tensor in tensors)
    if there and step not in COPIES:
        for tensor in tensors:
            if tensor.dim() and not isinstance(tensor, Elsewhere):  # a number goes with any device
                raise RuntimeError(f"{step}: tensors on two devices, {DEVICE} and {tensor.device}")
    wanted = kwargs.get("device")
    if wanted is not None:
        there, kwargs = torch.device(wanted) == DEVICE, {**kwargs, "device": torch.device("cpu")}
    result = step(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    if step._schema.is_mutable and args and result is _inner(args[0]):  # in place
        return args[0]
    return tree_map(lambda leaf: Elsewhere(leaf) if there and isinstance(leaf, torch.Tensor) else leaf, result)


def _inner(leaf: Any) -> Any:
    return leaf.inner if isinstance(leaf, Elsewhere) else leaf

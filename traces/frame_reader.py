"""FrameReader: turns the frames of a clip into the inputs of a network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skipsim.errors import InputError


class FrameReader:
    """Turns frames into network inputs, checks that they fit together, and hashes them on the way."""

    def __init__(self, model: nn.Module, preprocess: Callable[[Any], Tensor] | None) -> None:
        self._preprocess = preprocess or getattr(model, "preprocess", None)
        self._device, self._dtype = device_and_dtype(model)
        self._digest = hashlib.sha256()
        self._count = 0
        self._size: list[int] = []

    def read(self, frame: Any) -> Tensor:
        """Return the input [1, channels, rows, cols] of a frame."""
        x = _to_tensor(frame, self._count) if self._preprocess is None else self._preprocess(frame)
        if not isinstance(x, Tensor) or x.dim() not in (3, 4) or (x.dim() == 4 and x.shape[0] != 1):
            got = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise InputError(
                f"frame {self._count}: preprocess must return a tensor [3, rows, cols] or [1, 3, rows, cols], got {got}"
            )
        x = x if x.dim() == 4 else x[None]
        if self._count and list(x.shape[1:]) != self._size:
            raise InputError(
                f"frame {self._count}: all frames must have one size; expected [channels, rows, cols] = {self._size}, "
                f"got {list(x.shape[1:])}"
            )
        self._size = list(x.shape[1:])
        self._count += 1
        hash_values(self._digest, frame if isinstance(frame, np.ndarray | Tensor) else x)
        return x.to(self._device, self._dtype if x.is_floating_point() else None)

    def origin(self) -> dict[str, Any]:
        """Return what is known of the frames once all were read."""
        return {"frames_sha256": self._digest.hexdigest(), "input": self._size}


def _to_tensor(frame: Any, index: int) -> Tensor:
    """Map a frame of one of the two plain kinds to float [3, rows, cols]."""
    if isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3:
        return torch.from_numpy(np.ascontiguousarray(frame.transpose(2, 0, 1), np.float32)).div_(255)
    if isinstance(frame, Tensor) and frame.is_floating_point() and frame.dim() == 3:
        return frame
    kind = f"{type(frame).__name__}"
    if isinstance(frame, np.ndarray | Tensor):
        kind += f" of {frame.dtype} {list(frame.shape)}"
    raise InputError(
        f"frame {index}: must be a uint8 array [rows, cols, 3] or a float tensor [3, rows, cols] (or give preprocess), "
        f"got {kind}"
    )


def device_and_dtype(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Return where a model's parameters lie and their floating type; of a model without any: the CPU and float32."""
    first = next((tensor for tensor in model.parameters() if tensor.is_floating_point()), torch.zeros(0))
    return first.device, first.dtype


def hash_values(digest: Any, values: Any) -> None:
    """Add type, shape and values of an array or tensor to a hash."""
    digest.update(f"{values.dtype} {list(values.shape)}".encode())
    if isinstance(values, Tensor):
        values = values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    digest.update(np.ascontiguousarray(values).data)

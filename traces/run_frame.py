"""run_frame: run a user's network on one frame; where it fails, say on what and where."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skipsim.errors import InputError

LIBRARIES = (Path(torch.__file__).parent, Path(__file__).parents[1])


def run_frame(model: nn.Module, x: Tensor, frame: int, name: str) -> Any:
    """Return the output of a frame.

    Args:
        model: the user's network, as it is or converted.
        x: what it is given, [1, channels, rows, cols].
        frame: its number in the clip, for errors.
        name: the network's name, for errors.

    Raises:
        InputError: the model fails on this frame, or puts out NaN.
    """
    try:
        output = model(x)
    except InputError:
        raise
    except Exception as error:  # the user's own code, or a picture that it is not made for
        own = [entry for entry in traceback.extract_tb(error.__traceback__) if not _is_library(entry.filename)]
        where = f" in {Path(own[-1].filename).name}, line {own[-1].lineno}" if own else ""
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise InputError(f"network {name}: failed on frame {frame}, input {list(x.shape)}{where}: {reason}") from error
    if any(tensor.isnan().any() for tensor in tensors_of(output)):
        raise InputError(f"network {name}: the output of frame {frame} is NaN somewhere")
    return output


def _is_library(file: str) -> bool:
    """Tell whether code is torch's or our own, and not the user's, who may work in a folder of either name."""
    return any(folder in Path(file).parents for folder in LIBRARIES)


def tensors_of(output: Any) -> Iterator[Tensor]:
    """Yield the floating-point tensors of an output, in order."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, dict | list | tuple):
        for part in output.values() if isinstance(output, dict) else output:
            yield from tensors_of(part)

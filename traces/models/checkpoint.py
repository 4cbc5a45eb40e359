"""Reading weights: safetensors files and PyTorch files that hold nothing but tensors."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from skipsim.errors import InputError

# What training scripts put around a state dict: an entry that holds it, and words before every tensor's name.
_ENTRIES = ("state_dict", "model", "model_state_dict", "net", "network")
_PREFIXES = ("module.", "model.", "state_dict.", "net.", "network.")
GATE_PREFIX = "gumbel_gate."  # before the tensors of gates that were trained with a network (see gumbel.py)


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a file's tensors into a model, in place; every name and shape must match.

    Takes .safetensors, or a PyTorch file of tensors (read with `weights_only`, so that nothing in it can run). A state
    dict nested under an entry such as "state_dict" is found, and prefixes such as "module." are taken off.

    Raises:
        InputError: no such file, not a weights file, or the first tensor that is missing, misshapen or not the model's.
    """
    path = Path(path)
    found = _strip(_read(path))
    wanted = model.state_dict()
    for name, tensor in wanted.items():
        if name not in found:
            # Batch-norm counters are absent from old checkpoints, and nothing reads them at test time.
            if name.endswith("num_batches_tracked"):
                found[name] = tensor
                continue
            raise InputError(
                f"weights {path}: tensor {name} of shape {list(tensor.shape)} is missing; {_contents(found)}"
            )
        if found[name].shape != tensor.shape:
            raise InputError(
                f"weights {path}: tensor {name} must have shape {list(tensor.shape)}, got {list(found[name].shape)}"
            )
        if found[name].is_floating_point() and not torch.isfinite(found[name]).all():
            raise InputError(f"weights {path}: tensor {name} holds NaN or infinity")
    for name in found:
        if name not in wanted:
            raise InputError(f"weights {path}: tensor {name} does not belong to this network")
    model.load_state_dict(found)


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise InputError(f"weights {path}: no such file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise InputError(f"weights {path}: not a whole safetensors file ({error})") from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, IndexError):
        raise InputError(
            f"weights {path}: not a PyTorch file of plain tensors (a file that holds other objects must be saved again "
            "as a state dict)"
        ) from None
    if not isinstance(content, Mapping):
        raise InputError(f"weights {path}: must hold a state dict, got {type(content).__name__}")
    return content


def _strip(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Find the tensors and give them the names that the model uses."""
    for entry in _ENTRIES:
        if isinstance(content.get(entry), Mapping):
            return _strip(content[entry])
    tensors = {
        name: value for name, value in content.items() if isinstance(value, Tensor) and not name.startswith(GATE_PREFIX)
    }
    while tensors:
        prefix = next((word for word in _PREFIXES if all(name.startswith(word) for name in tensors)), None)
        if prefix is None:
            break
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _contents(found: Mapping[str, Tensor]) -> str:
    if not found:
        return "the file holds no tensors"
    return f"the file holds {len(found)} tensors, the first by name is {min(found)}"

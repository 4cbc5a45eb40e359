"""Reading weights: safetensors files and PyTorch files that hold nothing but tensors."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from skipsim.errors import InputError

# What training scripts put around a state dict: an entry that holds it (averages only where nothing else is there), and
# words before every tensor's name.
_ENTRIES = ("state_dict", "model", "model_state_dict", "net", "network", "module", "params")
_AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "params_ema")
_PREFIXES = ("module.", "_orig_mod.", "model.", "state_dict.", "net.", "network.")
_UNREADABLE = (  # what the reader raises on damaged files
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
)
GATE_PREFIX = "gumbel_gate."  # before the tensors of gates that were trained with a network (see gumbel.py)


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a file's tensors into a model, in place; every name and shape must match.

    Takes .safetensors, or a PyTorch file of tensors (read with `weights_only`, so that nothing in it can run). A state
    dict nested under an entry such as "state_dict" is found, and prefixes such as "module." are taken off, unless they
    belong to the model's own names.

    Raises:
        InputError: no such file, not a weights file, or the first tensor that is missing, misshapen or not the model's.
    """
    path = Path(path)
    wanted = model.state_dict()
    content = _read(path)
    found = _strip(content, wanted)
    for name, tensor in wanted.items():
        if name not in found:
            # Batch-norm counters are absent from old checkpoints, and nothing reads them at test time.
            if name.endswith("num_batches_tracked"):
                found[name] = tensor
                continue
            raise InputError(
                f"weights {path}: tensor {name} of shape {list(tensor.shape)} is missing; {_contents(found, content)}"
            )
        if found[name].layout is not torch.strided or found[name].is_meta:
            raise InputError(f"weights {path}: tensor {name} must hold plain numbers, got a sparse or empty tensor")
        if found[name].shape != tensor.shape:
            raise InputError(
                f"weights {path}: tensor {name} must have shape {list(tensor.shape)}, got {list(found[name].shape)}"
            )
        if tensor.is_floating_point() and not found[name].is_floating_point():
            kind = str(found[name].dtype).removeprefix("torch.")
            raise InputError(f"weights {path}: tensor {name} must hold floating-point numbers, got {kind}")
        if found[name].is_floating_point() and not torch.isfinite(found[name]).all():
            raise InputError(f"weights {path}: tensor {name} holds NaN or infinity")
    for name in found:
        if name not in wanted:
            raise InputError(f"weights {path}: tensor {name} does not belong to this network")
    model.load_state_dict(found)


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise InputError(f"weights {path}: no such file")
    if path.suffix == ".safetensors" or _is_safetensors(path):
        try:
            return load_file(path)
        except SafetensorError as error:
            raise InputError(f"weights {path}: not a whole safetensors file ({error})") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of archives of code, which are refused, and of damaged ones
            content = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE:
        raise InputError(
            f"weights {path}: not a PyTorch file of plain tensors (a file that holds other objects must be saved again "
            "as a state dict)"
        ) from None
    if not isinstance(content, Mapping):
        raise InputError(f"weights {path}: must hold a state dict, got {type(content).__name__}")
    return content


def _is_safetensors(path: Path) -> bool:
    """Tell by its first bytes whether a file of another name is one: the length of a JSON header, then the header."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _strip(content: Mapping[str, Any], wanted: Container[str]) -> dict[str, Tensor]:
    """Find the tensors and give them the names that the model uses; `wanted`: these names."""
    for entry in (*_ENTRIES, *_AVERAGES):
        if isinstance(content.get(entry), Mapping):
            return _strip(content[entry], wanted)
    tensors = {
        str(name): value
        for name, value in content.items()
        if isinstance(value, Tensor) and not str(name).startswith(GATE_PREFIX)
    }
    # A model may itself have names that begin with such a word: these stay.
    while tensors and not any(name in wanted for name in tensors):
        prefix = next((word for word in _PREFIXES if all(name.startswith(word) for name in tensors)), None)
        if prefix is None:
            break
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _contents(found: Mapping[str, Tensor], content: Mapping[str, Any]) -> str:
    if found:
        return f"the file holds {len(found)} tensors, the first by name is {min(found)}"
    return f"the file holds no tensors{', only ' * bool(content)}{', '.join(sorted(map(str, content))[:8])}"

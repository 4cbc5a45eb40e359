"""The Gumbel gate: a small trained convolution that decides from a layer's residual what to compute.

One output channel, the layer's kernel, stride, padding and dilation: logit = v * r + c. Training draws the decisions
from Bernoulli(sigmoid(logit)) with a straight-through gradient (see gumbel_training.py); here, at test time, a position
is on if its logit is >= 0, ties included, and a block if any of its positions is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional

from skipsim.errors import InputError
from skipsim.traces.gates import BlockShape, block_parameters, block_shape, check_blocks, coarsen, one_block
from skipsim.traces.gumbel_file import read_header
from skipsim.traces.layer import Layer
from skipsim.traces.models.checkpoint import GATE_PREFIX, load_weights
from skipsim.traces.per_layer import value_for
from skipsim.traces.receptive_field import ReceptiveField

Block = BlockShape | Mapping[str, BlockShape]


@dataclass(frozen=True)
class GumbelGate:
    """Gates trained with a network, by `skipsim train --gate gumbel`.

    Args:
        weights: by layer name ("name@call" for a layer's later calls, where they differ), the gate's filter
            [1, in_channels, kernel_rows, kernel_cols] or [1, in_channels, 1, 1], and its bias [1]. A layer without an
            entry has no gate and is computed densely, unless it shares an earlier layer's (see `convert`).
        block: output pixels that share one decision: one number, or a pair (rows, cols), or a table by layer.
        threshold: a position is on if its logit is >= this; 0 as trained, higher skips more.
        share: what `convert` takes as `share`; the gates were trained that way.
        signal: what `convert` takes as `signal`; the gates were trained that way.
    """

    weights: Mapping[str, tuple[Tensor, Tensor]]
    block: Block = 1
    threshold: float = 0.0
    share: str = "layer"
    signal: str = "residual"
    kind: ClassVar[str] = "gumbel"

    def __post_init__(self) -> None:
        """Check the blocks once."""
        check_blocks(self.block)

    @property
    def block_shape(self) -> tuple[int, int]:
        """Output pixels (rows, cols) that share one decision."""
        return one_block(self)

    def for_layer(self, layer: Layer) -> LayerGumbelGate | None:
        """Return the gate of one layer; None where it has none and is computed densely."""
        found = self.weights.get(layer.label, self.weights.get(layer.name))
        if found is None:
            return None
        weight, bias = found
        wanted, channels = (
            [1, layer.in_channels, *kernel] for kernel in ((layer.kernel_rows, layer.kernel_cols), (1, 1))
        )
        if list(weight.shape) not in (wanted, channels) or list(bias.shape) != [1]:
            raise InputError(
                f"gate 'gumbel': the filter of layer {layer.name!r} must have shape {wanted}, "
                f"got {list(weight.shape)}; these gates are another network's"
            )
        block: BlockShape = value_for(self.block, layer, "gate 'gumbel': block")
        kind = LayerGumbelGate if list(weight.shape) == wanted else LayerChannelGate
        return kind(weight, bias, block_shape(block), self.threshold)

    def mask(self, residual: Tensor, conv: nn.Conv2d) -> Tensor:
        """Refuse: only a layer's own gate can decide."""
        raise InputError("gate 'gumbel': every layer has weights of its own; ask the gate of a layer (for_layer)")

    def parameters(self) -> dict[str, Any]:
        """Return the parameters as JSON data; the weights by their hash."""
        digest = hashlib.sha256()
        for name, tensors in sorted(self.weights.items()):
            digest.update(name.encode())
            for tensor in tensors:
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return {
            "block": block_parameters(self.block),
            "threshold": float(self.threshold),
            "layers": len(self.weights),
            "gate_weights_sha256": digest.hexdigest(),
        }

    def check(self, model: nn.Module) -> None:
        """Check that the gates belong to a model: every name must be one of its convolutions."""
        names = {name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
        for name in self.weights:
            if name.partition("@")[0] not in names:
                raise InputError(f"gate 'gumbel': {type(model).__name__} has no convolution {name!r}")

    def facts(self) -> dict[str, Any]:
        """Return what a weights file says about its gates beside their tensors."""
        return {"block": block_parameters(self.block), "share": self.share, "signal": self.signal}

    def header(self) -> str:
        """Return the same as the entry of a safetensors header."""
        return json.dumps(self.facts())

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors under the names that a weights file gives them."""
        named = {}
        for name, (weight, bias) in self.weights.items():
            named[f"{GATE_PREFIX}{name}.weight"], named[f"{GATE_PREFIX}{name}.bias"] = weight, bias
        return named


@dataclass(frozen=True)
class LayerGumbelGate:
    """The trained gate of one layer."""

    weight: Tensor
    bias: Tensor
    block_shape: tuple[int, int]
    threshold: float = 0.0
    kind: ClassVar[str] = "gumbel"

    def for_layer(self, layer: Layer) -> LayerGumbelGate:
        """Return this gate."""
        return self

    @torch.no_grad()
    def mask(self, residual: Tensor, conv: nn.Conv2d) -> Tensor:
        """Map the residual [1, in_channels, rows, cols] to the decisions, bool [grid_rows, grid_cols]."""
        logits = gate_logits(residual, conv, self.weight.to(residual), self.bias.to(residual))
        return coarsen(logits.reshape(logits.shape[-2:]), self.block_shape) >= self.threshold

    def parameters(self) -> dict[str, Any]:
        """Return the parameters as JSON data."""
        return {"block": list(self.block_shape), "threshold": self.threshold}


@dataclass(frozen=True)
class LayerChannelGate(LayerGumbelGate):
    """The trained gate of one layer, with one weight per channel; in operations and memory traffic a norm gate."""

    kind: ClassVar[str] = "input_norm"


def gate_logits(signal: Tensor, conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> Tensor:
    """Map [N, in_channels, rows, cols] to [N, 1, out_rows, out_cols], by a filter of the geometry of `conv`.

    A filter of 1x1 in a layer of more taps weighs the channels, and their sum is averaged over the taps on the map.
    """
    if weight.shape[-2:] == (1, 1) and conv.kernel_size != (1, 1):
        sums = functional.conv2d(signal, weight)
        return ReceptiveField.of(conv, signal.shape[-2], signal.shape[-1]).mean(sums) + bias
    padding: Any = conv.padding
    if conv.padding_mode != "zeros":
        signal = functional.pad(signal, conv._reversed_padding_repeated_twice, mode=conv.padding_mode)
        padding = 0
    return functional.conv2d(signal, weight, bias, conv.stride, padding, conv.dilation)


def load_gumbel(model: nn.Module, path: str | Path, block: Block | None = None, threshold: float = 0.0) -> GumbelGate:
    """Load a network trained with Gumbel gates: its own tensors into `model`, in place, and return its gates.

    Args:
        model: the network that was trained. Where gates alone were trained (`--freeze`), the file holds nothing else,
            and the model must have the weights that they were trained for.
        path: what `skipsim train --gate gumbel` wrote.
        block: the block that must have been trained for, or None.
        threshold: of the gates.

    Raises:
        InputError: a file without gates, of another network, or trained for another block.
    """
    gate = replace(read_gumbel(path), threshold=threshold)
    if block is not None and block_parameters(block) != block_parameters(gate.block):
        raise InputError(
            f"weights {path}: the gates were trained for block {block_parameters(gate.block)}, "
            f"asked for {block_parameters(block)}"
        )
    network = read_header(path).get("network")
    if network is None:
        load_weights(model, path)
    elif network != weights_hash(model):
        raise InputError(f"weights {path}: these gates were trained for other weights than {type(model).__name__} has")
    gate.check(model)
    return gate


def weights_hash(model: nn.Module) -> str:
    """Return the SHA-256 of a network's tensors, names included, but for counters."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if tensor.is_floating_point():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def read_gumbel(path: str | Path) -> GumbelGate:
    """Read the gates of a weights file, not the network."""
    settings = read_header(path)
    with safe_open(path, "pt") as file:
        tensors = {
            name.removeprefix(GATE_PREFIX): file.get_tensor(name)
            for name in file.keys()  # noqa: SIM118 # not a dict
            if name.startswith(GATE_PREFIX)
        }
    if not settings or not tensors:
        raise InputError(f"weights {path}: holds no Gumbel gates; train them with: skipsim train --gate gumbel")
    names = sorted(name.removesuffix(".weight") for name in tensors if name.endswith(".weight"))
    weights = {name: (tensors[f"{name}.weight"], tensors[f"{name}.bias"]) for name in names}
    return GumbelGate(weights, _block(settings["block"]), share=settings["share"], signal=settings["signal"])


def _block(saved: Any) -> Block:
    if isinstance(saved, Mapping):
        return {key: block_shape(value) for key, value in saved.items()}
    return block_shape(saved)

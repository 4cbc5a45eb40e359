"""gated_network: a network by name, converted with a gate by name, as the command line and studies ask for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipsim.analysis.inputs.networks import build_network
from skipsim.errors import InputError, nearest
from skipsim.traces.models import WEIGHTS

Block = tuple[int, int] | Mapping[str, tuple[int, int]]
Threshold = float | Mapping[str, float | None]
GATES = ("input_norm", "output_norm", "gumbel", "hold", "none")


@dataclass(frozen=True)
class Gating:
    """How a network is gated: what `convert` needs, by name.

    Attributes:
        gate: "input_norm" or "output_norm"; "gumbel", trained with the network (the weights are one file); "hold",
            every result until the next reference frame; or "none", the dense network.
        threshold: of a norm gate; of a Gumbel gate's logits (default 0, as trained).
        block: output pixels (rows, cols) that share a decision, or a table by layer; None: 1, or as trained.
        update: the update form.
        reset_every: frames between reference frames; None or 0: only the first is one.
        share: which layers go by one gate, see traces/sharing.py; None: as trained, or each its own.
        signal: what gates look at; None: as trained, or the residual.
        fold_batch_norm: whether to fold batch normalisation into the convolutions first.
    """

    gate: str = "input_norm"
    threshold: Threshold | None = None
    block: Block | None = None
    update: str = "recompute"
    reset_every: int | None = None
    share: str | None = None
    signal: str | None = None
    fold_batch_norm: bool = False

    def __post_init__(self) -> None:
        """Check without torch what fits together."""
        if self.gate not in GATES:
            raise InputError(f"gate {self.gate!r} is unknown; {nearest(self.gate, GATES)}")
        if self.gate == "none" and (self.threshold is not None or self.reset_every):
            raise InputError("gate 'none': computes everything, so it takes no threshold and no reset_every")
        if self.gate == "hold" and (self.threshold is not None or not self.reset_every):
            raise InputError("gate 'hold': needs reset_every, after how many frames to compute again, and no threshold")
        if self.gate.endswith("norm") and self.threshold is None:
            raise InputError(f"gate {self.gate!r}: threshold is missing")


def gated_network(network: str, gating: Gating, weights: str | Path | None = None, folder: str | Path = ".") -> Any:
    """Return the network by name, an nn.Module, converted as `gating` says; gate "none": as it is.

    Args:
        network: a registered name, or "package.module:factory".
        gating: how.
        weights: a file; None: what ships with the network, for a Gumbel gate the file trained for that block.
        folder: where modules are looked for.
    """
    if gating.gate == "none":
        return build_network(network, weights, folder)
    from skipsim.traces.convert import convert
    from skipsim.traces.gates import make_gate

    if gating.gate == "gumbel":
        file = weights or shipped_gates(network, gating.block)
        model = build_network(network, None, folder)
        from skipsim.traces.gumbel import load_gumbel

        threshold = 0.0 if gating.threshold is None else gating.threshold
        if isinstance(threshold, Mapping):
            raise InputError("gate 'gumbel': takes one threshold for all layers")
        gate: Any = load_gumbel(model, file, gating.block if weights else None, threshold)
    else:
        model = build_network(network, weights, folder)
        parameters = {} if gating.threshold is None else {"threshold": gating.threshold}
        gate = make_gate(gating.gate, block=gating.block or 1, **parameters)
    return convert(
        model,
        gate,
        update=gating.update,
        reset_every=gating.reset_every or None,
        share=gating.share,
        signal=gating.signal,
        fold_batch_norm=gating.fold_batch_norm,
    )


def shipped_gates(network: str, block: Block | None) -> Path:
    """Return the file of a network and its gates, trained for a block; InputError names the blocks that ship."""
    found = {path.stem.rpartition("_")[2]: path for path in WEIGHTS.glob(f"{network}_gumbel_*.safetensors")}
    wanted = "1" if block is None else "" if isinstance(block, Mapping) else str(block[0])
    if wanted in found and (block is None or block[0] == block[1]):  # type: ignore[index]  # no table has a name
        return found[wanted]
    if not found:
        raise InputError(f"gate 'gumbel': no gates ship with {network!r}; train them with: skipsim train --gate gumbel")
    raise InputError(
        f"gate 'gumbel': {network!r} ships with gates for square blocks of {', '.join(sorted(found))}, asked for "
        f"{block!r}; train others with: skipsim train --gate gumbel"
    )

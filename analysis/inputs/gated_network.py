"""gated_network: a network by name, converted with a gate by name, as the command line and studies ask for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from skipsim.analysis.inputs.gate_files import MAKING, THRESHOLDS, TRAINED, Block, is_gate_file, shipped_gates
from skipsim.analysis.inputs.networks import build_network
from skipsim.analysis.tune import read_thresholds
from skipsim.errors import InputError, nearest

Threshold = float | Mapping[str, float | None]
NORM_GATES = ("input_norm", "output_norm")
GATES = (*NORM_GATES, "tuned", "gumbel", "hold", "none")


@dataclass(frozen=True)
class Gating:
    """How a network is gated: what `convert` needs, by name.

    Attributes:
        gate: "input_norm" or "output_norm"; "tuned", a norm gate with the thresholds by layer that ship for the block;
            "gumbel", the trained gates that ship for the block, or those in the file of the weights; the file of other
            thresholds (.json) or trained gates (.safetensors); "hold", every result until the next reference frame; or
            "none", the dense network.
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
        if self.gate not in GATES and not is_gate_file(self.gate):
            raise InputError(f"gate {self.gate!r} is unknown; {nearest(self.gate, GATES)}; or a file of gates")
        if (self.gate == "tuned" or self.gate.endswith(THRESHOLDS)) and self.threshold is not None:
            raise InputError(f"gate {self.gate!r}: has thresholds of its own, so it takes no threshold")
        if self.gate == "none":
            self._check_bare()
        if self.gate == "hold" and self.threshold is not None:
            raise InputError(f"gate 'hold': goes by the frame's number, so it takes no threshold, got {self.threshold}")
        if self.gate == "hold" and not self.reset_every:
            raise InputError(
                f"gate 'hold': needs reset_every, after how many frames to compute again, got {self.reset_every}"
            )
        if self.gate in NORM_GATES and self.threshold is None:
            raise InputError(f"gate {self.gate!r}: threshold is missing")

    def _check_bare(self) -> None:
        """Refuse whatever else is asked for where there is no gate: it would be passed over."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "gate" and value != field.default:
                choices = ", ".join(gate for gate in GATES if gate != "none")
                raise InputError(
                    f"gate 'none': computes everything, so it takes no {field.name}, got {value!r}; choices: {choices}"
                )


def gated_network(network: str, gating: Gating, weights: str | Path | None = None, folder: str | Path = ".") -> Any:
    """Return the network by name, an nn.Module, converted as `gating` says; gate "none": as it is.

    Args:
        network: a registered name, or "package.module:factory".
        gating: how.
        weights: a file; None: what ships with the network, for a Gumbel gate the file trained for that block.
        folder: where modules are looked for.
    """
    model = build_network(network, None if gating.gate == "gumbel" else weights, folder)
    if gating.gate == "none":
        return model
    from skipsim.traces.convert import convert

    return convert(
        model,
        gate_of(model, network, gating, weights),
        update=gating.update,
        reset_every=gating.reset_every or None,
        share=gating.share,
        signal=gating.signal,
        fold_batch_norm=gating.fold_batch_norm,
    )


def gate_of(model: Any, network: str, gating: Gating, weights: str | Path | None = None) -> Any:
    """Return the gate that `gating` names, for a network built from `network` and `weights`.

    Gates that were trained together with their network bring its weights: they are loaded into `model`, in place.
    """
    from skipsim.traces.gates import make_gate

    file = _file_of(network, gating, weights)
    if file is not None and file.suffix == TRAINED:
        from skipsim.traces.gumbel import load_gumbel

        threshold = 0.0 if gating.threshold is None else gating.threshold
        if isinstance(threshold, Mapping):
            raise InputError(f"gate {gating.gate!r}: takes one threshold for all layers")
        return load_gumbel(model, file, gating.block, threshold)
    if file is not None:
        tuned = read_thresholds(file)
        if gating.update != tuned.update or gating.block not in (None, tuned.block):
            raise InputError(
                f"thresholds {file}: are for blocks of {tuned.block} and update {tuned.update!r}, "
                f"asked for {gating.block} and {gating.update!r}"
            )
        return make_gate(tuned.gate, block=tuned.block, threshold=tuned.threshold)
    parameters = {} if gating.threshold is None else {"threshold": gating.threshold}
    return make_gate(gating.gate, block=gating.block or 1, **parameters)


def _file_of(network: str, gating: Gating, weights: str | Path | None) -> Path | None:
    """Return the file that a gate comes from; None for a gate that is made from numbers."""
    if is_gate_file(gating.gate):
        return Path(gating.gate)
    if gating.gate == "gumbel" and weights is not None:
        if Path(weights).suffix != TRAINED:
            raise InputError(
                f"weights {weights}: Gumbel gates come in a {TRAINED} file; make it with {MAKING['gumbel']}"
            )
        return Path(weights)
    return shipped_gates(gating.gate, network, gating.block) if gating.gate in ("tuned", "gumbel") else None

"""Gates that come from a file: thresholds by layer (`skipsim tune`) and trained gates (`skipsim train --gate gumbel`).

Both were made for a block, thresholds also for an update form, and go with these only. Files ship with some networks:
"tuned" and "gumbel" name them. What is here needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipsim.analysis.tune import read_thresholds
from skipsim.errors import InputError
from skipsim.traces.gumbel_file import read_header
from skipsim.traces.models import WEIGHTS

Block = tuple[int, int] | Mapping[str, tuple[int, int]]

THRESHOLDS, TRAINED = ".json", ".safetensors"  # how the files' names end
SHIPPED = {"tuned": THRESHOLDS, "gumbel": TRAINED}  # by gate: a file WEIGHTS/NETWORK_GATE_BLOCK for some blocks
MAKING = {"tuned": "skipsim tune", "gumbel": "skipsim train --gate gumbel"}


@dataclass(frozen=True)
class GateFile:
    """What a file of gates was made for; `update` is None where it goes with any update form."""

    block: Block
    update: str | None


def is_gate_file(gate: str) -> bool:
    """Tell whether a gate is named by a file."""
    return gate.endswith((THRESHOLDS, TRAINED))


def read_gate_file(path: Path) -> GateFile:
    """Read what a file of gates was made for; anything else is an InputError."""
    if path.suffix == THRESHOLDS:
        tuned = read_thresholds(path)
        return GateFile(tuned.block, tuned.update)
    header = read_header(path)
    if "block" not in header:
        raise InputError(f"weights {path}: holds no Gumbel gates; train them with: {MAKING['gumbel']}")
    return GateFile(_block(header["block"]), None)


def shipped_gates(gate: str, network: str, block: Block | None) -> Path:
    """Return the file of a network's gates, "tuned" or "gumbel", for a block; InputError names the blocks that ship."""
    stem = f"{network}_{gate}_"
    found = {path.stem.removeprefix(stem): path for path in WEIGHTS.glob(f"{stem}*{SHIPPED[gate]}")}
    wanted = (1, 1) if block is None else block
    if not isinstance(wanted, Mapping) and wanted[0] == wanted[1] and str(wanted[0]) in found:
        return found[str(wanted[0])]
    make = f"{MAKING[gate]}, and name the file"
    if not found:
        raise InputError(f"gate {gate!r}: none ship with {network!r}; make them with {make}")
    sizes = ", ".join(sorted(found, key=int))
    raise InputError(
        f"gate {gate!r}: {network!r} ships with gates for square blocks of {sizes}, asked for {block!r}; "
        f"make others with {make}"
    )


def _block(saved: Any) -> Block:
    if isinstance(saved, Mapping):
        return {str(key): (int(rows), int(cols)) for key, (rows, cols) in saved.items()}
    rows, cols = saved
    return int(rows), int(cols)

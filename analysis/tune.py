"""tune: choose a norm gate's thresholds, one per layer, on clips; the file that keeps them.

The damage of skipping is measured on one clip (see traces/tune.py), which gives thresholds for any MAC reduction. The
rungs of a ladder of them are then tried on another clip, and the one that saves most within the loss allowed is taken.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from skipsim.atomic import write_text
from skipsim.errors import InputError

# MAC reductions of gated frames
LADDER = (1.25, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0, 8.0, 10.0, 13.0, 16.0)
NORM_GATES = ("input_norm", "output_norm")

Row = dict[str, Any]


@dataclass(frozen=True)
class Tuned:
    """Thresholds by layer, and how they were found.

    Attributes:
        network: the network's name.
        gate: "input_norm" or "output_norm".
        block: output pixels (rows, cols) that share a decision.
        update: the update form.
        threshold: by layer name, "name@call" for a layer's later calls; None: dense.
        metric: what counts as loss, a score that the clip's labels give, or "agreement" or
            "agreement_ap" with the dense network.
        drop_points: of it, lost on the clip that the choice was made on, in points of 100.
        mac_reduction: on gated frames of that clip, gates included.
        tried: every rung that was tried, in order: MAC reduction aimed at, drop_points, mac_reduction.
    """

    network: str
    gate: str
    block: tuple[int, int]
    update: str
    threshold: Mapping[str, float | None]
    metric: str
    drop_points: float
    mac_reduction: float
    tried: tuple[Row, ...]


def search(measure: Callable[[Any], Row], ladder: Sequence[Any], allowed: float) -> list[Row]:
    """Measure rungs that save more and more from the middle, up or down, until the verdict changes; return the rows.

    A row is allowed if its "drop_points" are at most `allowed`.
    """
    place = len(ladder) // 2
    rows = [measure(ladder[place])]
    first = float(rows[0]["drop_points"]) <= allowed
    for rung in ladder[place + 1 :] if first else reversed(ladder[:place]):
        rows.append(measure(rung))
        if (float(rows[-1]["drop_points"]) <= allowed) != first:
            break
    return rows


def chosen(rows: Sequence[Row], allowed: float) -> Row:
    """Return the row that saves most of those that lose at most `allowed`; if none does, the one that loses least."""
    near = [row for row in rows if float(row["drop_points"]) <= allowed]
    if near:
        return max(near, key=lambda row: float(row["mac_reduction"]))
    return min(rows, key=lambda row: float(row["drop_points"]))


def tune(
    network: str,
    clip: str,
    choose_on: str | None = None,
    *,
    gate: str = "input_norm",
    block: tuple[int, int] = (1, 1),
    update: str = "recompute",
    max_drop: float = 0.5,
    aim: float | None = None,
    weights: str | Path | None = None,
    frames: int | None = None,
    size: tuple[int, int] | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Tuned:
    """Find the thresholds of every layer's gate at which a network saves most MACs and loses at most `max_drop`.

    Args:
        network: a registered name, or "package.module:factory".
        clip: where the damage is measured: what `record` takes.
        choose_on: where the choice is made; None: the same clip. Score the outcome on clips that are neither.
        gate: "input_norm" or "output_norm".
        block: output pixels (rows, cols) that share a decision.
        update: the update form.
        max_drop: points of 100 that may be lost on `choose_on`: of what its labels score, or of the agreement with the
            dense network.
        aim: the MAC reduction of gated frames to tune for, whatever is lost; None: what `max_drop` allows.
        weights: a file; None: those that ship with the network.
        frames: at most so many of every clip.
        size: (rows, cols) to resize frames to; None: a registered network's usual size, otherwise as they are.
        progress: called with the share of the measuring that is done.
    """
    from skipsim.analysis.inputs.clips import load_clip
    from skipsim.analysis.inputs.labels import loss_of, quality_of
    from skipsim.analysis.inputs.networks import build_network, check_network_name

    if gate not in NORM_GATES:
        raise InputError(f"tune: gate must be one of {', '.join(NORM_GATES)}, got {gate!r}; Gumbel gates are trained")
    if not 0 <= max_drop < 100:
        raise InputError(f"tune: max_drop must be points of 100, 0 to 100, got {max_drop!r}")
    if aim is not None and not 1 <= aim < math.inf:
        raise InputError(f"tune: aim must be a MAC reduction, a number >= 1, got {aim!r}")
    check_network_name(network)
    measured, choice = (load_clip(name, frames, size, network) for name in (clip, choose_on or clip))

    from skipsim.traces.convert import convert
    from skipsim.traces.gates import InputNormGate, OutputNormGate
    from skipsim.traces.record import record
    from skipsim.traces.tune import damage_curves, thresholds_for

    model = build_network(network, weights)
    made: Any = {"input_norm": InputNormGate, "output_norm": OutputNormGate}[gate]
    norm_gate = partial(made, block=block)
    pictures, seen = list(measured.frames), list(choice.frames)
    curves = damage_curves(
        model,
        pictures,
        loss_of(measured, model),
        norm_gate(0.0),
        cuts=measured.cuts,
        progress=progress,
        update=update,
    )
    quality = quality_of(choice, model)
    before = record(model, seen, quality=quality, progress=False).quality
    metric, scored = before.get("headline", ""), "headline" in before
    tables: dict[float, Any] = {}

    def measure(rung: float) -> Row:
        nonlocal metric
        tables[rung] = thresholds_for(curves, rung)
        gated = convert(model, norm_gate(tables[rung]), update=update)
        options = {"quality": quality} if scored else {"agreement": True}
        trace = record(gated, seen, cuts=choice.cuts, progress=False, **options)
        if not scored:
            metric = "agreement_ap" if "agreement_ap" in trace.quality else "agreement"
        lost = (before[metric] if scored else 1.0) - trace.quality[metric]
        return {
            "aim": rung,
            "drop_points": round(100 * lost, 3),
            "mac_reduction": round(trace.gated_mac_reduction, 4),
        }

    tried = search(measure, LADDER if aim is None else (aim,), max_drop)
    best = chosen(tried, max_drop)
    return Tuned(
        network=network,
        gate=gate,
        block=block,
        update=update,
        threshold=tables[best["aim"]],
        metric=metric,
        drop_points=best["drop_points"],
        mac_reduction=best["mac_reduction"],
        tried=tuple(tried),
    )


def write_thresholds(path: Path, tuned: Tuned) -> None:
    """Write thresholds as JSON, for `skipsim record --threshold FILE.json`."""
    write_text(path, json.dumps(asdict(tuned), indent=1) + "\n")


def read_thresholds(path: str | Path) -> Tuned:
    """Read what `write_thresholds` wrote; anything else is an InputError."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        return Tuned(**{**data, "block": tuple(data["block"]), "tried": tuple(data["tried"])})
    except OSError as error:
        raise InputError(f"thresholds {path}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"thresholds {path}: not a file of `skipsim tune` ({error})") from None

"""decide: a finished study -> what to build on one machine, its band, the plan by layer, and what would help most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from skipsim.analysis.advice.find_plan import find_plan
from skipsim.analysis.advice.kernel_share import kernel_share
from skipsim.analysis.advice.layer_plan import LayerPlan
from skipsim.analysis.advice.sensitivity import Sensitivity, most_helpful, sensitivities
from skipsim.analysis.advice.uncertainty import Band, band, model_error
from skipsim.analysis.recommend import Recommendation, recommend
from skipsim.analysis.results import clips_of, overrides_of
from skipsim.analysis.running.machines import machine_of
from skipsim.analysis.running.provenance import entries_of
from skipsim.errors import InputError
from skipsim.simulator.report import Report
from skipsim.simulator.simulate import simulate, simulate_gated
from skipsim.traces.trace import load_trace


@dataclass(frozen=True)
class Decision:
    """A recommendation, the band of its speed-up, the plan by layer if one was asked for, and the sensitivities."""

    answer: Recommendation
    band: Band
    plan: LayerPlan | None
    found: Sequence[Sensitivity]
    gated: Sequence[Report]  # of the recommended run, one per clip
    dense: Report

    @property
    def notes(self) -> list[str]:
        """What must be known to read the numbers: on a measured processor, what the kernels alone gain."""
        note = kernel_share(self.gated[0], self.dense, float(self.answer.row["realised"]))
        return [note] if note else []

    def words(self) -> str:
        """Return the decision in plain words, several lines."""
        lines = [self.answer.words(), *(f"  {note}" for note in self.notes)]
        lines.append(f"  The speed-up may be {self.band.words()}.")
        if self.plan is not None:
            lines += [f"  {line}" for line in self.plan.words()]
        helpful = most_helpful(self.found)
        if helpful:
            lines.append("  What would help the machine most, each alone and twice as good, by simulation:")
            lines += [f"    {one.words()}" for one in helpful]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the decision as plain data, for `--json` and the page."""
        return {
            **self.answer.to_dict(),
            "headline": self.answer.headline(),
            "reasons": [*self.answer.reasons(), *self.notes],
            "band": {**asdict(self.band), "words": self.band.words()},
            "plan": None if self.plan is None else self.plan.to_dict(),
            "sensitivities": [{**one.to_dict(), "words": one.words()} for one in self.found],
            "most_helpful": [one.words() for one in most_helpful(self.found)],
        }


def decide(
    directory: str | Path,
    table: pd.DataFrame,
    hardware: str,
    max_drop: float | None = None,
    *,
    network: str | None = None,
    max_latency_ms: float | None = None,
    max_energy_uj: float | None = None,
    by_layer: bool = True,
    workers: int | None = None,
) -> Decision:
    """Find what to build on a machine of a finished study; budgets are those of `recommend`.

    Args:
        directory: the study's folder, with its traces.
        table: its results.
        hardware: a machine of the study, by name.
        max_drop: points of accuracy that may be lost.
        network: which network, where the study has several.
        max_latency_ms: of the mean frame.
        max_energy_uj: of the mean frame.
        by_layer: whether to look for blocks by map size and tiles by layer too, which records a few plans.
        workers: processes that record; None: one per core.

    Raises:
        InputError: see `recommend`; or a trace of the study is not there any more.
    """
    directory = Path(directory)
    answer = recommend(
        table, hardware, max_drop, network=network, max_latency_ms=max_latency_ms, max_energy_uj=max_energy_uj
    )
    rows, row = clips_of(table, answer.row), answer.row
    machine = machine_of(directory, row, overrides_of(table))
    entries = entries_of(directory)
    missing = [name for name in rows["trace_hash"] if name not in entries]
    if missing:
        raise InputError(f"{directory / 'provenance.json'}: does not name the trace of {missing[0][:12]}...")
    traces = [load_trace(directory / entries[name]["trace"]) for name in rows["trace_hash"]]
    tile = str(rows.iloc[0]["chosen_tile"] if row["tile"] == "auto" else row["tile"])
    plan = None
    if by_layer:
        lost = answer.max_drop if math.isfinite(answer.max_drop) else float(row["quality_drop"])
        plan = find_plan(
            directory, table, machine, lost, float(row["speedup"]), network=str(row["network"]), workers=workers
        )
    error = model_error(machine, traces[0].layers)
    spread = band(float(row["speedup"]), [float(value) for value in rows["speedup"]], error)
    return Decision(
        answer,
        spread,
        plan,
        sensitivities(traces, machine, tile),
        [simulate_gated(trace, machine, tile) for trace in traces],
        simulate(traces[0], machine, dense=True),
    )


def decide_all(
    directory: str | Path,
    table: pd.DataFrame,
    max_drop: float,
    *,
    by_layer: bool = True,
    workers: int | None = None,
) -> dict[tuple[str, str], Decision]:
    """Decide for every network and machine of a study that has a choice within the drop."""
    found = {}
    for network, hardware in table[["network", "hardware"]].drop_duplicates().itertuples(index=False, name=None):
        try:
            decision = decide(directory, table, hardware, max_drop, network=network, by_layer=by_layer, workers=workers)
        except InputError:  # nothing within the drop: the page says so
            continue
        found[str(network), str(hardware)] = decision
    return found

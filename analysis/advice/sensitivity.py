"""sensitivities: what a machine's numbers are worth, each changed alone by a stated factor and simulated again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import joblib

from skipsim.errors import InputError
from skipsim.hwmodels.hardware import Hardware
from skipsim.simulator.plan import Tile
from skipsim.simulator.report import Report
from skipsim.simulator.simulate import simulate_gated
from skipsim.traces.trace import Trace

FACTOR = 2
MORE_IS_BETTER = (
    "cores",
    "array.rows",
    "array.cols",
    "array.vector_macs_per_cycle",
    "array.weights_per_cycle",
    "buffers.input_bytes",
    "buffers.weight_bytes",
    "buffers.output_bytes",
    "buffers.global_bytes",
    "gate.elements_per_cycle",
    "index.blocks_per_cycle",
    "gather.bytes_per_cycle",
    "scatter.bytes_per_cycle",
    "dram.bytes_per_cycle",
    "dram.channels",
)
LESS_IS_BETTER = (
    "layer.launch_cycles",
    "array.fill_cycles",
    "index.cycles_per_tile",
    "gather.setup_cycles",
    "gather.cycles_per_segment",
    "scatter.setup_cycles",
    "scatter.cycles_per_segment",
    "dram.latency_cycles",
    "dram.burst_bytes",
)
SWITCHES: dict[str, Any] = {  # what may be on where it is off; the clock is no change of the machine alone
    "schedule.distribution": "dynamic",
    "schedule.merge_halo": True,
    "schedule.prefetch_weights": True,
    "gate.placement": "fused",
}
UNUSED_KEYS = {  # of the memory, by its rule
    "ideal": ("dram.bytes_per_cycle", "dram.channels", "dram.latency_cycles", "dram.burst_bytes"),
    "stream": ("dram.channels",),
    "banked": ("dram.bytes_per_cycle", "dram.burst_bytes"),
}
AMONG_SEVERAL_CORES = ("schedule.distribution",)


@dataclass(frozen=True)
class Sensitivity:
    """One number of a machine, changed alone; relative changes of latency, energy and area, NaN if nothing fits."""

    key: str
    direction: Literal["better", "worse"]
    before: Any
    after: Any
    latency_change: float
    energy_change: float
    area_change: float
    reason: str = ""  # why it cannot be

    def words(self) -> str:
        """Return the change in words: "dram.bytes_per_cycle from 8 to 16: latency -12.3%"."""
        area = f", area {100 * self.area_change:+.0f}%" if abs(self.area_change) >= 0.005 else ""
        change = f"{self.key} from {_text(self.before)} to {_text(self.after)}"
        return f"{change}: latency {100 * self.latency_change:+.1f}%{area}"

    def to_dict(self) -> dict[str, Any]:
        """Return the sensitivity as plain data."""
        return {**vars(self), "before": _plain(self.before), "after": _plain(self.after)}


def sensitivities(
    traces: Sequence[Trace], hardware: Hardware, tile: Tile | str | Mapping[str, Any], *, both: bool = True
) -> list[Sensitivity]:
    """Change every number of a machine alone, by FACTOR, and simulate again; the largest gains first.

    Masks and tiles stay as they are. Numbers that are no limit already (infinite rates, costs of zero) and switches
    that are on are left out; a measured processor has no numbers to change, and gives none. Clips weigh the same.

    Args:
        traces: one recording per clip.
        hardware: the machine.
        tile: what `simulate` takes, "auto" not among them.
        both: also change every number for the worse.
    """
    if hardware.processor is not None:
        return []
    changes = list(_changes(hardware, both))
    machines = [hardware, *(_changed(hardware, key, after) for key, _, _, after in changes)]
    with ThreadPoolExecutor(joblib.cpu_count()) as pool:  # compiled engines run side by side
        outcomes = list(pool.map(lambda machine: _costs(traces, machine, tile), machines))
    base = outcomes[0]
    if isinstance(base, str):
        raise InputError(base)
    found = []
    for (key, direction, before, after), outcome in zip(changes, outcomes[1:], strict=True):
        if isinstance(outcome, str):
            found.append(Sensitivity(key, direction, before, after, math.nan, math.nan, math.nan, outcome))
        else:
            latency, energy, area = (new / old - 1 for new, old in zip(outcome, base, strict=True))
            found.append(Sensitivity(key, direction, before, after, latency, energy, area))
    return sorted(found, key=lambda one: (one.direction == "worse", math.isnan(one.latency_change), one.latency_change))


def most_helpful(found: Sequence[Sensitivity], count: int = 3) -> list[Sensitivity]:
    """Return the changes for the better that save most time, at most `count`; those that save nothing are none."""
    return [one for one in found if one.direction == "better" and one.latency_change < -5e-4][:count]


def _changes(hardware: Hardware, both: bool) -> Iterator[tuple[str, Literal["better", "worse"], Any, Any]]:
    """Yield (key, direction, before, after) of every number that is in use and can be changed."""
    unused = UNUSED_KEYS[hardware.dram.rule]
    for keys, grows in ((MORE_IS_BETTER, True), (LESS_IS_BETTER, False)):
        for key in keys:
            value = _value(hardware, key)
            if value is None or not 0 < value < math.inf or key in unused:
                continue
            more, less = value * FACTOR, _part(value)
            better, worse = (more, less) if grows else (less, more)
            if better != value:
                yield key, "better", value, better
            if both and worse != value:
                yield key, "worse", value, worse
    for key, on in SWITCHES.items():
        value = _value(hardware, key)
        gates_cost = key != "gate.placement" or value == "separate"
        if value != on and gates_cost and (hardware.cores > 1 or key not in AMONG_SEVERAL_CORES):
            yield key, "better", value, on


def _part(value: float) -> float:
    """Divide by FACTOR; whole numbers stay whole, rounded up."""
    return -(-value // FACTOR) if isinstance(value, int) else value / FACTOR


def _value(hardware: Hardware, key: str) -> Any:
    value: Any = hardware
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _changed(hardware: Hardware, key: str, value: Any) -> Hardware | str:
    """Return the changed machine, or why there is none."""
    try:
        return hardware.replace(**{key: value})
    except InputError as error:
        return str(error)


def _costs(traces: Sequence[Trace], machine: Hardware | str, tile: Any) -> tuple[float, float, float] | str:
    """Return (latency, energy, area) summed over clips of one weight each, or why there are none."""
    if isinstance(machine, str):
        return machine
    try:
        reports: list[Report] = [simulate_gated(trace, machine, tile) for trace in traces]
    except InputError as error:
        return str(error)
    latency = sum(report.latency_ms_per_frame for report in reports)
    energy = sum(report.energy_uj / report.frames for report in reports)
    return latency, energy, reports[0].area_mm2


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _plain(value: Any) -> Any:
    return _text(value) if isinstance(value, float) and not math.isfinite(value) else value

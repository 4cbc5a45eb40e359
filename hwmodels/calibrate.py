"""calibrate: measure this machine and fit a Hardware to it.

Cold, as in a network: chains of layers with weights and state of their own (`measured_chain.py`), the caches flushed
before each; and hot, one layer again and again, which says what a byte out of a cache costs. Every coefficient belongs
to a count (`kernel_work.py`) and is fitted, per kernel and class of layers, by non-negative regression on relative
errors (`fit.py`). Dense layers are measured beside them, and those of a network that matters can be taken as they are:
anchors. The raw measurements are a table, so that the fit can be done again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from skipsim.errors import InputError
from skipsim.hwmodels.design import DENSE_PER_CLASS, draw_calls, draw_shapes, work_of
from skipsim.hwmodels.fit import fit, significant
from skipsim.hwmodels.hardware import Hardware
from skipsim.hwmodels.host import check_idle, check_threads, check_vectors, describe_host, load_of_others, pin_thread
from skipsim.hwmodels.kernel_paths import KERNELS
from skipsim.hwmodels.kernel_work import KernelPath, LayerShape, Registers, StageName, features
from skipsim.hwmodels.measurement_file import Measurements, call_of
from skipsim.hwmodels.processor import COEFFICIENTS, Cost, Peaks, Processor, residency_of

if TYPE_CHECKING:
    from skipsim.hwmodels.measure import Plan

STAGES: tuple[StageName, ...] = ("list", "change", "watch", "decide", "move", "combine", "silu", "mean")
OWN_PATHS: tuple[KernelPath, ...] = ("compiled", "triton")  # the kernels that gated layers run on, by preference
FUSED = {"source": "as skipsim.convert(execute='sparse') runs gates", "placement": "fused"}
FEWEST = 12  # measurements of a class that are worth a fit of their own


def fit_hardware(measurements: Measurements, name: str) -> Hardware:
    """Fit every coefficient to raw measurements; at a nominal 1 GHz, so that cycles are nanoseconds."""
    table, peaks = measurements.table, measurements.peaks
    registers = Registers(pixels=measurements.tile_pixels, lanes=measurements.lanes)
    kernels = {path: fit_kernels(table, path, peaks, registers) for path in KERNELS if (table["what"] == path).any()}
    path = next((name for name in OWN_PATHS if name in kernels), None)
    if path is None:
        raise InputError("calibrate: the measurements hold no compiled or Triton kernel; measure again")
    processor = Processor(
        source=f"measured by skipsim calibrate on {measurements.date}, {len(table)} configurations",
        date=measurements.date,
        seed=measurements.seed,
        path=path,
        fallback=True,
        footprint_bytes=None,
        repeatability=significant(float(np.median(_repeatability(table)))),
        lanes=measurements.lanes,
        tile_pixels=measurements.tile_pixels,
        host=measurements.host,
        peaks=peaks,
        kernels=kernels,
        stages={
            stage: _cost(table[table["what"] == stage], peaks, stage, registers)
            for stage in STAGES
            if (table["what"] == stage).any()
        },
        dense=fit_kernels(table, "dense", peaks, registers),
        dense_layers_ns={
            call_of(row).shape.name: significant(float(row.ns), 5)  # type: ignore[arg-type]
            for row in table[table["what"] == "dense_layer"].itertuples()
        },
    )
    return Hardware.model_validate(
        {
            "source": f"measured: {measurements.host.model}, {measurements.host.system}",
            "name": name,
            "clock_hz": 10**9,
            "cores": 1,
            **({"gate": FUSED} if "watch" in processor.stages else {}),
            "processor": processor,
        }
    )


def fit_kernels(table: pd.DataFrame, what: str, peaks: Peaks, registers: Registers) -> dict[Any, Cost]:
    """Fit a kernel path, or dense layers, class by class, to the rows of that name."""
    rows = table[table["what"] == what]
    return {
        str(kind): _cost(group, peaks, f"{what} on {kind} layers", registers)
        for kind, group in rows.groupby("kind")
        if len(group) >= FEWEST
    }


def _cost(rows: pd.DataFrame, peaks: Peaks, what: str, registers: Registers) -> Cost:
    """Fit one kernel's coefficients; errors count relative to `total_ns`, the call that a part was measured in."""
    amounts = amounts_of(rows, peaks, registers)
    return fit(amounts, rows["ns"].to_numpy(float), what, rows["total_ns"].to_numpy(float))


def amounts_of(rows: pd.DataFrame, peaks: Peaks, registers: Registers) -> dict[str, Any]:
    """Return what each coefficient is multiplied with, [measurements]."""
    columns: dict[str, list[float]] = {name: [] for name in COEFFICIENTS}
    for row in rows.itertuples(index=False):
        call = call_of(row)
        residency = residency_of(call.shape, peaks, float(row.footprint_bytes))  # type: ignore[arg-type]
        for name, amount in features(work_of(str(row.what), call, registers), residency).items():
            columns[name].append(float(amount[0]))
    return {name: np.array(values) for name, values in columns.items()}


def _repeatability(table: pd.DataFrame) -> Any:
    """Return the relative differences of the two halves' minima."""
    first, second = table["first_ns"].to_numpy(float), table["second_ns"].to_numpy(float)
    return np.abs(first - second) / np.minimum(first, second)


def calibrate(
    name: str,
    *,
    device: str = "cpu",
    plan: Plan | None = None,
    anchors: Sequence[LayerShape] = (),
    allow_busy: bool = False,
    say: Callable[[str], None] = print,
) -> tuple[Hardware, Measurements]:
    """Measure this machine and fit it; return the machine and the raw measurements.

    Args:
        name: of the machine.
        device: "cpu", or "cuda": the Triton kernel, timed by events on the device.
        plan: how much is measured.
        anchors: dense layers to be measured and taken as they are, such as those of a network that matters.
        allow_busy: only warn about much other load.
        say: receives warnings and progress.

    Raises:
        InputError: the machine is busy, or the device is not there or has no room.
    """
    from skipsim.hwmodels import measure
    from skipsim.hwmodels.measured_torch import measure_dense, measure_gathered

    plan = plan or measure.Plan()
    host = describe_host(device, plan.threads)
    if device == "cuda" and plan.threads > 1:
        raise InputError(f"calibrate: device 'cuda' is timed with 1 thread, got {plan.threads}")
    for warning in (check_threads(plan.threads), check_vectors(host), check_idle(load_of_others(), allow_busy)):
        if warning:
            say(f"warning: {warning}")
    core = pin_thread() if plan.threads == 1 else None
    measured = _measure_gpu(plan, say) if device == "cuda" else measure.measure_compiled(plan, say)
    dense = draw_shapes(plan.seed + 1, DENSE_PER_CLASS if plan.per_class is None else plan.per_class)
    tables = [measured.table, measure_dense(dense, "dense", plan, say, device)]
    calls = draw_calls(draw_shapes(plan.seed, plan.per_class), plan.seed, max(2, plan.configurations // 2))
    tables.append(measure_gathered(calls, replace(plan, passes=max(2, plan.passes // 4)), say, device))
    if anchors:
        tables.append(measure_dense(list(dict.fromkeys(anchors)), "dense_layer", plan, say, device))
    measured = replace(measured, table=pd.concat(tables, ignore_index=True), host=host)
    say("" if core is None else f"measured on core {core}")
    if device == "cpu":
        say("no GPU was measured: GPU rows are missing")
    return fit_hardware(measured, name), measured


def _measure_gpu(plan: Plan, say: Callable[[str], None]) -> Measurements:
    from skipsim.hwmodels.measured_gpu import gpu_peaks, measure_gpu, measured_on_gpu

    say("peaks of this GPU")
    peaks = gpu_peaks()
    return measured_on_gpu(measure_gpu(plan, say), peaks, plan.seed)

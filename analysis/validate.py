"""validate: hold a measured machine's predictions against the clock, on layers and networks that it never saw.

Three questions, each with the machine's own repeatability beside the error: how well are single layers predicted, cold
and hot (`layers`); does the model rank block sizes as the clock does, on identical masks (`blocks`); how well is the
speed-up of whole networks predicted (`networks`)? Beside them three naive predictors of a layer: MAC count, roofline,
and dense time x density. (Comparisons with published numbers are in the package `validation`.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skipsim.analysis.summary import table
from skipsim.analysis.validate_networks import NETWORKS, PREDICTIONS, network_errors, summarise
from skipsim.errors import InputError
from skipsim.hwmodels.calibrate import OWN_PATHS, STAGES, amounts_of, fit_kernels
from skipsim.hwmodels.design import BLOCKS, Call, draw_calls, draw_shapes
from skipsim.hwmodels.fit import errors_of, predict
from skipsim.hwmodels.hardware import Hardware
from skipsim.hwmodels.host import check_idle, check_threads, describe_host, differences, load_of_others
from skipsim.hwmodels.kernel_work import LayerClass, LayerShape
from skipsim.hwmodels.measure import Plan, measure_calls, measure_compiled
from skipsim.hwmodels.measurement_file import call_of
from skipsim.hwmodels.processor import Processor

HELD_OUT: dict[LayerClass, int] = {
    "plain": 8, "pointwise": 8, "depthwise": 6, "strided": 4, "stem": 3, "grouped": 3,
}  # fmt: skip
GATED_STEPS = ("compiled", "list", "decide", "move", "change")
GATHERED = ("torch_blocks", "torch_columns")
NAIVE = ("mac_count", "roofline", "dense_x_density")
SEED = 9100  # of the held-out layers, added to the calibration's own; nobody looked at these while counts were chosen
LARGE = 96 * 96  # output positions from which a map is a large one
Say = Callable[[str], None]


def validate(
    hardware: Hardware,
    *,
    networks: Sequence[str] = tuple(NETWORKS),
    blocks: Sequence[int] = (4,),
    passes: int = 6,
    seed: int = SEED,
    allow_busy: bool = False,
    say: Say = print,
) -> dict[str, Any]:
    """Measure and predict; return the errors as plain data.

    `seed`: of the held-out layers and masks, added to the calibration's own.

    Raises:
        InputError: the machine was not measured, or others keep this one busy.
    """
    from skipsim.hwmodels.measured_torch import measure_dense, measure_gathered

    processor = hardware.processor
    if processor is None:
        raise InputError(f"hardware {hardware.name!r}: was not measured, there is nothing to validate; see calibrate")
    warnings = [
        f"another machine: {line}" for line in differences(processor.host, describe_host(processor.host.device))
    ]
    threads = processor.host.threads
    warnings += [line for line in (check_threads(threads), check_idle(load_of_others(), allow_busy)) if line]
    for warning in warnings:
        say(f"warning: {warning}")
    plan = Plan(configurations=4, passes=passes, seed=processor.seed + seed, per_class=HELD_OUT, threads=threads)
    device = processor.host.device
    say("the calibration's own layers again")
    own = _measured_kernels(device, Plan(passes=2, seed=processor.seed, threads=threads), say)
    held_out = _measured_kernels(device, plan, say)
    shapes = draw_shapes(plan.seed, plan.per_class)
    dense = measure_dense(shapes, "dense", plan, say, device)
    calls = draw_calls(shapes, plan.seed, plan.configurations)
    gathered = measure_gathered(calls, replace(plan, passes=max(2, passes // 2)), say, device)
    held_out = pd.concat([held_out, gathered], ignore_index=True)
    on_cpu = device == "cpu"  # what runs whole networks and ranks blocks is compiled for the CPU
    cases = [(name, block) for name in networks for block in blocks] if on_cpu else []
    whole = [one for name, block in cases for one in network_errors(name, block, hardware, passes, say, threads)]
    return {
        "hardware": hardware.name,
        "warnings": warnings,
        "layers": layer_errors(held_out, dense, processor, refitted(own, processor)),
        "own_layers": own_errors(own, processor),
        "points": points(held_out, processor),
        "break_even": break_even(held_out, dense, processor),
        "blocks": rank_blocks(shapes, processor, plan, say) if on_cpu else None,
        "missing": "GPU rows: no GPU was measured" if on_cpu else "block sizes and networks: these run on CPUs",
        "networks": whole,
        "network_errors": summarise(whole) if whole else [],
    }


def _measured_kernels(device: str, plan: Plan, say: Say) -> pd.DataFrame:
    if device == "cpu":
        return measure_compiled(plan, say).table
    from skipsim.hwmodels.measured_gpu import measure_gpu

    return measure_gpu(plan, say)


def predicted_ns(rows: pd.DataFrame, processor: Processor) -> NDArray[np.float64]:
    """Predict every row of a table of measurements."""
    found = np.zeros(len(rows))
    for number, row in enumerate(rows.itertuples(index=False)):
        what, kind = str(row.what), str(row.kind)
        costs: Any = processor.dense if what == "dense" else processor.kernels.get(what, {})  # type: ignore[call-overload]
        cost = processor.stages[what] if what in STAGES else costs.get(kind)
        if cost is None:
            found[number] = np.nan
            continue
        one = rows.iloc[[number]]
        found[number] = predict(amounts_of(one, processor.peaks, processor.registers), cost)[0]
    return found


def spread(errors: NDArray[np.float64]) -> dict[str, float]:
    """Return median and 90th percentile of what is known."""
    known = errors[np.isfinite(errors)]
    return {"median": float(np.median(known)), "p90": float(np.quantile(known, 0.9)), "count": len(known)}


def refitted(own: pd.DataFrame, processor: Processor) -> Processor:
    """Return a processor whose kernels are fitted to the calibration's own layers as they are now."""
    fits = {path: fit_kernels(own, path, processor.peaks, processor.registers) for path in OWN_PATHS}
    kernels = {path: costs | fits.get(path, {}) for path, costs in processor.kernels.items()}
    return processor.model_copy(update={"kernels": kernels})


def layer_errors(
    held_out: pd.DataFrame, dense: pd.DataFrame, processor: Processor, today: Processor
) -> list[dict[str, Any]]:
    """Return errors by kernel path, class and temperature, beside repeatability and the naive predictors' errors.

    `today`: fitted to the calibration's own layers as they are now (`refitted`); with it errors have no drift in them.
    """
    rows = pd.concat([held_out, dense], ignore_index=True)
    rows["predicted"] = predicted_ns(rows, processor)
    rows["group"] = error_groups(rows)
    dense_cold = {call_of(row).shape.name: float(row.ns) for row in dense[~dense["hot"]].itertuples()}  # type: ignore[arg-type]
    found = []
    for (what, group, hot), part in rows.groupby(["what", "group", "hot"]):
        errors = np.abs(_column(part, "predicted") - _column(part, "ns")) / _column(part, "total_ns")
        again = np.abs(_column(part, "first_ns") - _column(part, "second_ns")) / _column(part, "total_ns")
        one = {"path": what, "class": group, "hot": bool(hot), "error": spread(errors), "repeat": spread(again)}
        if what in OWN_PATHS:
            found_now = predicted_ns(part, today)
            one["refitted"] = spread(np.abs(found_now - _column(part, "ns")) / _column(part, "total_ns"))
        if what in OWN_PATHS and not hot:
            one["naive"] = naive_errors(part, dense_cold, processor)
        found.append(one)
    return found


def own_errors(own: pd.DataFrame, processor: Processor) -> list[dict[str, Any]]:
    """Return how far layers that calibration fitted lie from the fit now, cold, by class, beside how far they lay then.

    What they have moved since is the machine's drift: the model and the layers are the same.
    """
    rows = own[(own["what"] == "compiled") & ~own["hot"]].copy()
    rows["predicted"] = predicted_ns(rows, processor)
    found = []
    for kind, part in rows.groupby("kind"):
        moved = _column(part, "ns") / _column(part, "predicted") - 1
        fitted = processor.kernels["compiled"][str(kind)]  # type: ignore[index]
        found.append(
            {"class": kind, "error": spread(np.abs(moved) / (1 + moved)), "moved": float(np.median(moved)),
             "fitted": {"median": fitted.median_error, "p90": fitted.p90_error}}
        )  # fmt: skip
    return found


def error_groups(rows: pd.DataFrame) -> list[str]:
    """Return what errors are told apart by: a convolution's class, large maps by themselves; nothing for stages."""
    large = (rows["out_rows"] * rows["out_cols"] >= LARGE) & rows["what"].isin(OWN_PATHS)
    kinds = rows["kind"].where(~large, rows["kind"] + ", large maps")
    return list(kinds.where(~rows["what"].isin(STAGES), ""))


def naive_errors(part: pd.DataFrame, dense_ns: dict[str, float], processor: Processor) -> dict[str, Any]:
    """Return the errors of three predictors that know nothing of kernels."""
    macs, roofline, share = [], [], []
    for row in part.itertuples(index=False):
        call = call_of(row)
        density = float(call.mask.mean())
        amounts = amounts_of(pd.DataFrame([row]), processor.peaks, processor.registers)
        touched = sum(float(amounts[name][0]) for name in amounts if name.endswith("_byte") and "exposed" not in name)
        at_peak = 2 * call.shape.macs * density / processor.peaks.fma_gflops
        macs.append(at_peak)
        roofline.append(max(at_peak, touched / processor.peaks.stream_gb_per_s[-1]))
        share.append(dense_ns[call.shape.name] * density)
    measured = part["ns"].to_numpy(float)
    return {
        "mac_count": spread(errors_of(measured, macs)),
        "roofline": spread(errors_of(measured, roofline)),
        "dense_x_density": spread(errors_of(measured, share)),
    }


def points(held_out: pd.DataFrame, processor: Processor) -> list[dict[str, Any]]:
    """Return measured and predicted time of every held-out convolution, for the figure."""
    rows = held_out[held_out["what"].isin(OWN_PATHS)]
    return [
        {"class": kind, "hot": bool(hot), "density": density, "block": block, "measured_ns": ns, "predicted_ns": guess}
        for kind, hot, density, block, ns, guess in zip(
            rows["kind"], rows["hot"], rows["density"], rows["block"], rows["ns"], predicted_ns(rows, processor),
            strict=True,
        )
    ]  # fmt: skip


def rank_blocks(shapes: Sequence[LayerShape], processor: Processor, plan: Plan, say: Say) -> dict[str, Any]:
    """Run identical masks at every block size; compare the order of the times with the predicted one.

    A mask of clustered pixels is drawn once; larger blocks compute whatever they touch of it.
    """
    chains = [
        [Call(shape, (block, block), 0.1, 3.0, 17 + index, drawn_block=1) for index, shape in enumerate(shapes)]
        for block in BLOCKS
    ]
    say("block sizes on identical masks")
    rows = measure_calls(chains, shapes, plan)
    rows = rows[rows["what"].isin(["compiled", "list", "decide", "move", "change"])].copy()
    rows["predicted"] = predicted_ns(rows, processor)
    keys = ["seed", "block"]
    sums = rows.groupby(keys)[["ns", "predicted"]].sum().reset_index()
    taus, losses = [], []
    for _, layer in sums.groupby("seed"):
        measured, guessed = layer["ns"].to_numpy(float), layer["predicted"].to_numpy(float)
        taus.append(kendall_tau(measured, guessed))
        losses.append(float(measured[np.argmin(guessed)] / measured.min() - 1))
    total = sums.groupby("block")[["ns", "predicted"]].sum()
    return {
        "blocks": list(BLOCKS),
        "measured_ns": total["ns"].tolist(),
        "predicted_ns": total["predicted"].tolist(),
        "tau_of_the_sum": kendall_tau(total["ns"].to_numpy(float), total["predicted"].to_numpy(float)),
        "tau_of_layers": float(np.median(taus)),
        "layers_with_the_best_block": float(np.mean(np.array(losses) == 0)),
        "loss": spread(np.array(losses)),
    }


def kendall_tau(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return Kendall's tau of two lists: pairs in the same order less pairs in the other, over all pairs."""
    pairs = list(combinations(range(len(first)), 2))
    return float(np.mean([np.sign(first[i] - first[j]) * np.sign(second[i] - second[j]) for i, j in pairs]))


def break_even(held_out: pd.DataFrame, dense: pd.DataFrame, processor: Processor) -> list[dict[str, Any]]:
    """Return by path and block the density at which a gated layer takes as long as the dense one, over all layers.

    Medians over all layers; the compiled path pays for gate, list and kernel. 1: gating pays at every density, 0: at
    none.
    """
    rows = held_out[~held_out["hot"]].copy()
    rows["path"] = rows["what"].map(
        dict.fromkeys(GATED_STEPS, "compiled") | {path: path for path in (*GATHERED, "triton")}
    )
    rows = rows[rows["path"].notna()]
    rows["predicted"] = predicted_ns(rows, processor)
    rows["shape"] = [call_of(row).shape.name for row in rows.itertuples(index=False)]
    whole = {call_of(row).shape.name: float(row.ns) for row in dense[~dense["hot"]].itertuples()}  # type: ignore[arg-type]
    steps = rows.drop_duplicates(["path", "what", "shape", "block", "density", "seed"])
    sums = steps.groupby(["path", "shape", "block", "density", "seed"])[["ns", "predicted"]].sum().reset_index()
    found = []
    for (path, block), part in sums[sums["predicted"] > 0].astype({"block": int}).groupby(["path", "block"]):
        share = part["shape"].map(whole).to_numpy(float)
        density = _column(part, "density")
        lines = {
            name: min(1.0, max(0.0, _crossing(density, _column(part, column) / share)))
            for name, column in (("measured", "ns"), ("predicted", "predicted"))
        }
        found.append({"path": path, "block": block, **lines})
    return found


def _crossing(density: NDArray[np.float64], relative: NDArray[np.float64]) -> float:
    """Return where the median of (time / dense time) over the calls of a density reaches 1; inf: nowhere, 0: at once.

    Between two densities the medians are taken to lie on a line.
    """
    levels = np.unique(density)
    medians = [float(np.median(relative[density == level])) for level in levels]
    if medians[0] >= 1:
        return 0.0
    for (low, before), (high, after) in pairwise(zip(levels, medians, strict=True)):
        if after >= 1:
            return float(low + (high - low) * (1 - before) / (after - before))
    return float("inf")


def _column(rows: pd.DataFrame, name: str) -> NDArray[np.float64]:
    return np.asarray(rows[name], float)


def describe(results: dict[str, Any]) -> str:
    """Say how far predictions and measurements lie apart, in tables."""
    layers: list[tuple[str, ...]] = [  # refitted: to the calibration's own layers as they are now
        ("layers never seen", "", "median", "p90", "refitted", "p90", "repeat", "MAC count", "roofline",
         "dense x density")
    ]  # fmt: skip
    for one in results["layers"]:
        naive = one.get("naive", {})
        layers.append(
            (
                f"{one['path']} {one['class']}".strip(), "hot" if one["hot"] else "cold",
                f"{one['error']['median']:.1%}", f"{one['error']['p90']:.1%}",
                *(f"{one['refitted'][part]:.1%}" if "refitted" in one else "" for part in ("median", "p90")),
                f"{one['repeat']['median']:.1%}",
                *(f"{naive[key]['median']:.0%}" if naive else "" for key in NAIVE),
            )
        )  # fmt: skip
    own = [("the calibration's own layers", "fitted", "p90", "now", "p90", "slower by")]
    own += [
        (
            one["class"], *(f"{one['fitted'][part]:.1%}" for part in ("median", "p90")),
            *(f"{one['error'][part]:.1%}" for part in ("median", "p90")), f"{one['moved']:+.1%}",
        )
        for one in results["own_layers"]
    ]  # fmt: skip
    networks = [
        ("network", "masks", "density", "dense ms", "measured ms", "repeat", "speed-up", "MACs", "predicted",
         "anchored", "drift")
    ]  # fmt: skip
    networks += [
        (
            f"{one['network']}, block {one['block']}", one["masks"], f"{one['density']:.2f}", f"{one['dense_ms']:.1f}",
            f"{one['measured_ms']:.1f}", f"{one['repeat']:.1%}", f"{one['speedup']:.2f}x",
            f"{one['mac_reduction']:.2f}x", f"{one['speedup_error']:+.1%}", f"{one['anchored_error']:+.1%}",
            f"{one['drift']:+.1%}",
        )
        for one in results["networks"]
    ]  # fmt: skip
    ranked = results["blocks"]
    lines = [table(layers, "llrrrrrrrr"), table(own, "lrrrrr"), f"missing: {results['missing']}"]
    if ranked:
        lines.append(
            f"block sizes on identical masks: Kendall's tau {ranked['tau_of_the_sum']:.2f} of the sum, "
            f"{ranked['tau_of_layers']:.2f} of layers (median); the predicted best block costs "
            f"{ranked['loss']['median']:.1%} (median), {ranked['loss']['p90']:.1%} (p90) more than the measured best"
        )
    if results["networks"]:
        lines.append(table(networks, "llrrrrrrrrr"))
        errors = [("error of the speed-up", "", "median", "p90")]
        errors += [
            (one["network"], PREDICTIONS[one["error"]], f"{one['median']:.1%}", f"{one['p90']:.1%}")
            for one in results["network_errors"]
        ]
        lines.append(table(errors, "llrr"))
    return "\n\n".join(lines)

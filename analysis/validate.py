"""validate: hold a measured machine's predictions against the clock, on layers and networks that it never saw.

Three questions, each with the machine's own repeatability beside the error: how well are single layers predicted, cold
and hot (`layers`); does the model rank block sizes as the clock does, on identical masks (`blocks`); how well is the
speed-up of whole networks predicted (`networks`)? Beside them three naive predictors of a layer: MAC count, roofline,
and dense time x density. (Comparisons with published numbers are in the package `validation`.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skipsim.analysis.summary import table
from skipsim.errors import InputError
from skipsim.hwmodels.calibrate import STAGES, amounts_of
from skipsim.hwmodels.design import BLOCKS, Call, draw_shapes
from skipsim.hwmodels.fit import errors_of, predict
from skipsim.hwmodels.hardware import Hardware
from skipsim.hwmodels.host import check_idle, describe_host, differences, load_of_others
from skipsim.hwmodels.kernel_work import LayerClass, LayerShape
from skipsim.hwmodels.measure import Plan, measure_calls, measure_compiled
from skipsim.hwmodels.measurement_file import call_of
from skipsim.hwmodels.processor import Processor
from skipsim.hwmodels.step_work import predict_step
from skipsim.simulator.processor import shape_of

NETWORKS = {"hrnet_w32": (256, 256), "efficientdet_d0": (512, 512), "unet": (256, 256)}
DENSITIES = (0.05, 0.1, 0.2, 0.3, 0.5)
ANCHOR_DENSITY = 0.15  # what is not a kernel is measured here, and left out of the errors
HELD_OUT: dict[LayerClass, int] = {
    "plain": 8, "pointwise": 8, "depthwise": 6, "strided": 4, "stem": 3, "grouped": 3,
}  # fmt: skip
NAIVE = ("mac_count", "roofline", "dense_x_density")
SEED = 1000  # of the held-out layers, added to the calibration's own
Say = Callable[[str], None]


def validate(
    hardware: Hardware,
    *,
    networks: Sequence[str] = tuple(NETWORKS),
    blocks: Sequence[int] = (4,),
    passes: int = 6,
    allow_busy: bool = False,
    say: Say = print,
) -> dict[str, Any]:
    """Measure and predict; return the errors as plain data.

    Raises:
        InputError: the machine was not measured, or others keep this one busy.
    """
    from skipsim.hwmodels.measured_torch import measure_dense

    processor = hardware.processor
    if processor is None:
        raise InputError(f"hardware {hardware.name!r}: was not measured, there is nothing to validate; see calibrate")
    warnings = [f"another machine: {line}" for line in differences(processor.host, describe_host())]
    warnings += [line for line in (check_idle(load_of_others(), allow_busy),) if line]
    for warning in warnings:
        say(f"warning: {warning}")
    plan = Plan(configurations=4, passes=passes, seed=processor.seed + SEED, per_class=HELD_OUT)
    held_out = measure_compiled(plan, say).table
    shapes = draw_shapes(plan.seed, plan.per_class)
    dense = measure_dense(shapes, "dense", plan, say)
    return {
        "hardware": hardware.name,
        "warnings": warnings,
        "layers": layer_errors(held_out, dense, processor),
        "points": points(held_out, processor),
        "break_even": break_even(held_out, dense, processor),
        "blocks": rank_blocks(shapes, processor, plan, say),
        "networks": [
            one for name in networks for block in blocks for one in network_errors(name, block, processor, passes, say)
        ],
    }


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


def layer_errors(held_out: pd.DataFrame, dense: pd.DataFrame, processor: Processor) -> list[dict[str, Any]]:
    """Return errors by kernel path, class and temperature, beside repeatability and the naive predictors' errors."""
    rows = pd.concat([held_out, dense], ignore_index=True)
    rows["predicted"] = predicted_ns(rows, processor)
    rows["group"] = np.where(rows["what"].isin(STAGES), "", rows["kind"])
    dense_cold = {call_of(row).shape.name: float(row.ns) for row in dense[~dense["hot"]].itertuples()}  # type: ignore[arg-type]
    found = []
    for (what, group, hot), part in rows.groupby(["what", "group", "hot"]):
        errors = np.abs(_column(part, "predicted") - _column(part, "ns")) / _column(part, "total_ns")
        again = np.abs(_column(part, "first_ns") - _column(part, "second_ns")) / _column(part, "total_ns")
        one = {"path": what, "class": group, "hot": bool(hot), "error": spread(errors), "repeat": spread(again)}
        if what == "compiled" and not hot:
            one["naive"] = naive_errors(part, dense_cold, processor)
        found.append(one)
    return found


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
    rows = held_out[held_out["what"] == "compiled"]
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


def network_errors(name: str, block: int, processor: Processor, repeats: int, say: Say) -> list[dict[str, Any]]:
    """Predict, then run a network at several densities; return times, speed-ups and their errors.

    Kernels are predicted from masks alone. What is no kernel (frames in, results out, what PyTorch computes) is taken
    from one configuration, which is left out of the errors, as is the dense network's time, which is measured.
    """
    from skipsim.traces.execute.timed_network import TimedNetwork

    say(f"{name}, block {block}")
    rows, cols = NETWORKS[name]
    timed = TimedNetwork(name, rows, cols, block)
    shapes = {layer.label: shape_of(layer) for layer in timed.layers}
    weights = sum(shape.weight_bytes for shape in shapes.values())
    maps = sum(2 * shape.in_bytes + shape.out_bytes for shape in shapes.values())

    def predicted(parts: Any, density: float) -> float:
        footprint = weights + density * maps
        return sum(
            predict_step(part.step, shapes.get(part.operation), processor, footprint) for part in parts if part.step
        )

    dense = timed.dense_ns(repeats)
    masks = timed.draw(ANCHOR_DENSITY, seed=1)
    anchor = timed.parts(masks, repeats)
    rest = timed.whole_ns(masks, repeats) - sum(part.nanoseconds for part in anchor if part.step)
    scale = sum(part.nanoseconds for part in anchor if part.step) / predicted(anchor, ANCHOR_DENSITY)
    found = []
    for density in DENSITIES:
        masks = timed.draw(density, seed=2)
        timed.parts(masks, 1)  # sets the masks and lists that the prediction reads
        parts = timed.parts(masks, repeats)
        guess = predicted(parts, density)
        kernels = sum(part.nanoseconds for part in parts if part.step)
        whole = timed.whole_ns(masks, repeats)
        macs = sum(
            float(masks[layer.key].mean()) * layer.macs if layer.gate != "none" else layer.macs
            for layer in timed.layers
        )
        reduction = sum(layer.macs for layer in timed.layers) / macs
        found.append(
            {
                "network": name, "block": block, "density": density, "dense_ms": dense / 1e6,
                "measured_ms": whole / 1e6, "predicted_ms": (guess + rest) / 1e6,
                "anchored_ms": (scale * guess + rest) / 1e6,
                "kernels_ms": kernels / 1e6, "predicted_kernels_ms": guess / 1e6,
                "speedup": dense / whole, "predicted_speedup": dense / (guess + rest), "mac_reduction": reduction,
                "realised": dense / whole / reduction,
                "speedup_error": whole / (guess + rest) - 1, "anchored_error": whole / (scale * guess + rest) - 1,
                "kernels_error": guess / kernels - 1, "naive_mac_error": reduction / (dense / whole) - 1,
            }
        )  # fmt: skip
    return found


def break_even(held_out: pd.DataFrame, dense: pd.DataFrame, processor: Processor) -> list[dict[str, float]]:
    """Return by block the density at which gate, list and kernel take as long as the dense layer, medians over layers.

    The time is taken to be a line over the density; 1: gating pays at every density.
    """
    rows = held_out[~held_out["hot"] & held_out["what"].isin(["compiled", "list", "decide", "move", "change"])].copy()
    rows["predicted"] = predicted_ns(rows, processor)
    rows["shape"] = [call_of(row).shape.name for row in rows.itertuples(index=False)]
    whole = {call_of(row).shape.name: float(row.ns) for row in dense[~dense["hot"]].itertuples()}  # type: ignore[arg-type]
    calls = rows[rows["total_ns"] > 0].groupby(["shape", "block", "density", "seed"])[["ns", "predicted"]].sum()
    sums = calls.reset_index()
    found = []
    for block, part in sums.groupby("block"):
        share = part["shape"].map(whole).to_numpy(float)
        density = _column(part, "density")
        lines = {
            name: min(1.0, _crossing(density, _column(part, column) / share))
            for name, column in (("measured", "ns"), ("predicted", "predicted"))
        }
        found.append({"block": float(block), **lines})  # type: ignore[arg-type]
    return found


def _crossing(density: NDArray[np.float64], relative: NDArray[np.float64]) -> float:
    """Return where a line through (density, time / dense time), errors relative to the time, reaches 1."""
    matrix = np.column_stack([np.ones_like(density), density]) / relative[:, None]
    constant, slope = np.linalg.lstsq(matrix, np.ones_like(density), rcond=None)[0]
    return float((1 - constant) / slope) if slope > 0 else float("inf")


def _column(rows: pd.DataFrame, name: str) -> NDArray[np.float64]:
    return np.asarray(rows[name], float)


def describe(results: dict[str, Any]) -> str:
    """Say how far predictions and measurements lie apart, in tables."""
    layers: list[tuple[str, ...]] = [
        ("layers never seen", "", "median", "p90", "repeat", "MAC count", "roofline", "dense x density")
    ]
    for one in results["layers"]:
        naive = one.get("naive", {})
        layers.append(
            (
                f"{one['path']} {one['class']}".strip(), "hot" if one["hot"] else "cold",
                f"{one['error']['median']:.1%}", f"{one['error']['p90']:.1%}", f"{one['repeat']['median']:.1%}",
                *(f"{naive[key]['median']:.0%}" if naive else "" for key in NAIVE),
            )
        )  # fmt: skip
    networks = [("network", "density", "dense ms", "measured ms", "predicted ms", "speed-up", "predicted", "anchored")]
    networks += [
        (
            f"{one['network']}, block {one['block']}", f"{one['density']:g}", f"{one['dense_ms']:.1f}",
            f"{one['measured_ms']:.1f}", f"{one['predicted_ms']:.1f}", f"{one['speedup']:.2f}x",
            f"{one['speedup_error']:+.1%}", f"{one['anchored_error']:+.1%}",
        )
        for one in results["networks"]
    ]  # fmt: skip
    ranked = results["blocks"]
    lines = [
        table(layers, "llrrrrrr"),
        f"block sizes on identical masks: Kendall's tau {ranked['tau_of_the_sum']:.2f} of the sum, "
        f"{ranked['tau_of_layers']:.2f} of layers (median); the predicted best block costs "
        f"{ranked['loss']['median']:.1%} (median), {ranked['loss']['p90']:.1%} (p90) more than the measured best",
    ]
    if results["networks"]:
        lines.append(table(networks, "lrrrrrrr"))
        for name in ("speedup_error", "anchored_error", "kernels_error", "naive_mac_error"):
            found = spread(np.abs([one[name] for one in results["networks"]]))
            lines.append(f"{name}: median {found['median']:.1%}, p90 {found['p90']:.1%}")
    return "\n\n".join(lines)

"""Whole networks: predicted from their masks before they run, then run; with and without an anchor.

An anchor is one measurement of the dense network and one of the gated one: it says by how much each of the network's
kernels is slower or faster than predicted, and how long everything else takes. Masks are drawn, with other densities
than the anchor's, and recorded: what gates decided on procedural clips.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skipsim.hwmodels.kernel_work import LayerShape
from skipsim.hwmodels.kernels import Step
from skipsim.hwmodels.processor import Processor
from skipsim.hwmodels.step_work import predict_step
from skipsim.simulator.processor import shape_of

if TYPE_CHECKING:
    from skipsim.traces.execute.timed_network import Masks, Timed, TimedNetwork

Times = NDArray[np.float64]

NETWORKS = {"hrnet_w32": (256, 256), "efficientdet_d0": (512, 512), "unet": (256, 256)}
DENSITIES = (0.05, 0.1, 0.2, 0.3, 0.5)
ANCHOR_DENSITY = 0.15
CLIPS = {"hrnet_w32": "pose", "efficientdet_d0": "detection", "unet": "pose"}
RECORDED = tuple((camera, share) for camera in ("static", "pan") for share in (0.1, 0.3))
"""Cameras of the clips, and thresholds as shares of a layer's mean input."""


@dataclass(frozen=True)
class Anchor:
    """One dense and one gated measurement of a network.

    Attributes:
        dense_ns: the dense network.
        scales: measured time of every kernel of the gated network over the predicted one, in the order of running.
        rest_ns: what is no kernel: the frame in, the results out, Python code.
    """

    dense_ns: float
    scales: Times
    rest_ns: float

    @classmethod
    def of(cls, dense_ns: float, gated: Timed, predicted_ns: Times) -> Anchor:
        """Compare what was measured with what was predicted, kernel by kernel."""
        return cls(dense_ns, gated.kernels_ns / np.maximum(predicted_ns, 1.0), gated.rest_ns)

    def frame_ns(self, predicted_ns: Times) -> float:
        """Return the time of a frame whose kernels are predicted to take so long."""
        return float(self.scales @ predicted_ns) + self.rest_ns


def network_errors(
    name: str, block: int, processor: Processor, repeats: int, say: Any, threads: int = 1
) -> list[dict[str, Any]]:
    """Predict, then run a network with masks that were drawn and recorded; return times, speed-ups and their errors."""
    from skipsim.traces.execute.timed_network import TimedNetwork

    say(f"{name}, block {block}")
    timed = TimedNetwork(name, *NETWORKS[name], block, threads)
    chosen = timed.draw(ANCHOR_DENSITY, seed=1)
    predicted = predict_kernels(timed, chosen, processor)
    anchor = Anchor.of(timed.dense_ns(repeats), timed.time(chosen, repeats), predicted)
    found = []
    for source, masks in _masks(timed):
        predicted = predict_kernels(timed, masks, processor)
        found.append(
            {"network": name, "block": block, "masks": source}
            | _row(timed, masks, timed.time(masks, repeats), anchor, predicted)
        )
    return found


def _masks(timed: TimedNetwork) -> Iterator[tuple[str, Masks]]:
    for density in DENSITIES:
        yield f"drawn, {density:g}", timed.draw(density, seed=2)
    for camera, share in RECORDED:
        yield f"recorded, {camera}, {share:g}", timed.record(f"{CLIPS[timed.name]}:7:{camera}", share)


def predict_kernels(timed: TimedNetwork, masks: Masks, processor: Processor) -> Times:
    """Predict the time of every kernel of a frame with these masks, which need not have run, ns, in order."""
    shapes = {layer.label: shape_of(layer) for layer in timed.layers}
    footprint = _footprint_bytes(list(shapes.values()), timed.macs(masks) / sum(layer.macs for layer in timed.layers))
    return np.array(
        [
            predict_step(entry.item, shapes.get(entry.operation), processor, footprint)
            for entry in timed.planned(masks)
            if isinstance(entry.item, Step)
        ]
    )


def _footprint_bytes(shapes: list[LayerShape], share: float) -> float:
    """Return what a frame touches that computes such a share: all weights, and that share of maps and references."""
    maps = sum(2 * shape.in_bytes + shape.out_bytes for shape in shapes)
    return sum(shape.weight_bytes for shape in shapes) + share * maps


def _row(timed: TimedNetwork, masks: Masks, measured: Timed, anchor: Anchor, predicted_ns: Times) -> dict[str, Any]:
    dense, whole, anchored = anchor.dense_ns, measured.whole_ns, anchor.frame_ns(predicted_ns)
    kernels, predicted = float(measured.kernels_ns.sum()), float(predicted_ns.sum())
    alone = predicted + anchor.rest_ns
    reduction = sum(layer.macs for layer in timed.layers) / timed.macs(masks)
    return {
        "density": 1 / reduction,
        "dense_ms": dense / 1e6,
        "measured_ms": whole / 1e6,
        "predicted_ms": alone / 1e6,
        "anchored_ms": anchored / 1e6,
        "kernels_ms": kernels / 1e6,
        "predicted_kernels_ms": predicted / 1e6,
        "speedup": dense / whole,
        "predicted_speedup": dense / alone,
        "anchored_speedup": dense / anchored,
        "mac_reduction": reduction,
        "realised": dense / whole / reduction,
        "speedup_error": whole / alone - 1,
        "anchored_error": whole / anchored - 1,
        "kernels_error": predicted / kernels - 1,
        "naive_mac_error": reduction / (dense / whole) - 1,
    }


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the errors of the speed-ups by network and over all, absolute, median and 90th percentile."""
    names = list(dict.fromkeys(row["network"] for row in rows))
    found = []
    for name in [*names, "all"]:
        chosen = [row for row in rows if name in (row["network"], "all")]
        for kind in ("speedup_error", "anchored_error", "kernels_error", "naive_mac_error"):
            errors = np.abs([row[kind] for row in chosen])
            found.append(
                {"network": name, "error": kind, "median": float(np.median(errors)),
                 "p90": float(np.quantile(errors, 0.9)), "count": len(chosen)}
            )  # fmt: skip
    return found

"""Whole networks: predicted from their masks before they run, then run; with and without an anchor.

Two predictions are those of `simulate`, from layers and masks: by the machine alone, and with the network's Anchor, one
dense and one gated measurement. Two more know the network's program, kernel by kernel, and take its dense time and what
is no kernel from the anchor: as predicted, and each kernel scaled to what it took there. Masks are drawn, with other
densities than the anchor's, and recorded: what gates decided on procedural clips.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skipsim.analysis.anchor_network import NetworkTimes, make_anchor, trace_of, without_anchors
from skipsim.hwmodels.hardware import Hardware
from skipsim.hwmodels.kernel_work import LayerShape
from skipsim.hwmodels.kernels import Step
from skipsim.hwmodels.processor import Processor
from skipsim.hwmodels.step_work import predict_step
from skipsim.simulator.simulate import simulate

if TYPE_CHECKING:
    from skipsim.traces.execute.timed_network import Masks, Timed, TimedNetwork

Times = NDArray[np.float64]

NETWORKS = {"hrnet_w32": (256, 256), "efficientdet_d0": (512, 512), "unet": (256, 256)}
DENSITIES = (0.05, 0.1, 0.2, 0.3, 0.5)
CLIPS = {"hrnet_w32": "pose", "efficientdet_d0": "detection", "unet": "pose"}
RECORDED = tuple((camera, share) for camera in ("static", "pan") for share in (0.1, 0.3))
"""Cameras of the clips, and thresholds as shares of a layer's mean input."""
PREDICTIONS = {
    "speedup_error": "simulate, no anchor",
    "anchored_error": "simulate, with an anchor",
    "kernels_error": "the program's kernels",
    "scaled_error": "the program's kernels, scaled",
    "macs_error": "MAC count",
}
"""How a speed-up is predicted, by the column of its error."""


@dataclass(frozen=True)
class KernelScales:
    """A gated frame, kernel by kernel.

    Attributes:
        scales: measured time of every kernel over the predicted one, in the order of running.
        rest_ns: what is no kernel: the frame in, the results out, Python code.
    """

    scales: Times
    rest_ns: float

    @classmethod
    def of(cls, gated: Timed, predicted_ns: Times) -> KernelScales:
        """Compare what was measured with what was predicted."""
        return cls(gated.kernels_ns / np.maximum(predicted_ns, 1.0), gated.rest_ns)

    def frame_ns(self, predicted_ns: Times) -> float:
        """Return the time of a frame whose kernels are predicted to take so long."""
        return float(self.scales @ predicted_ns) + self.rest_ns


def network_errors(
    name: str, block: int, hardware: Hardware, repeats: int, say: Any, threads: int = 1
) -> list[dict[str, Any]]:
    """Predict, then run a network with masks that were drawn and recorded; return times, speed-ups and their errors."""
    from skipsim.traces.execute.timed_network import TimedNetwork

    say(f"{name}, block {block}")
    timed = TimedNetwork(name, *NETWORKS[name], block, threads)
    times = NetworkTimes.of(timed, repeats)
    bare = without_anchors(hardware)
    anchor = make_anchor(times, bare, f"measured: {name}")
    processor = _processor(bare)
    anchored = bare.model_copy(update={"processor": processor.model_copy(update={"anchors": {name: anchor}})})
    middle = times.gated[1]
    scales = KernelScales.of(middle.timed, predict_kernels(timed, middle.masks, processor))
    found = []
    for source, masks in _masks(timed):
        trace = trace_of(timed.layers, masks)
        alone, put_right = (simulate(trace, one, tile=(block, block)) for one in (bare, anchored))
        kernels_ns = predict_kernels(timed, masks, processor)
        predicted = {
            "speedup": alone.speedup,
            "anchored": times.dense_ns / put_right.cycles,
            "kernels": times.dense_ns / (float(kernels_ns.sum()) + scales.rest_ns),
            "scaled": times.dense_ns / scales.frame_ns(kernels_ns),
        }
        row = _row(timed, masks, timed.time(masks, repeats).whole_ns, times.dense_ns, predicted)
        found.append({"network": name, "block": block, "masks": source} | row)
    return found


def _processor(hardware: Hardware) -> Processor:
    assert hardware.processor is not None
    return hardware.processor


def _masks(timed: TimedNetwork) -> Iterator[tuple[str, Masks]]:
    for density in DENSITIES:
        yield f"drawn, {density:g}", timed.draw(density, seed=2)
    for camera, share in RECORDED:
        yield f"recorded, {camera}, {share:g}", timed.record(f"{CLIPS[timed.name]}:7:{camera}", share)


def predict_kernels(timed: TimedNetwork, masks: Masks, processor: Processor) -> Times:
    """Predict the time of every kernel of a frame with these masks, which need not have run, ns, in order."""
    shapes = {layer.label: LayerShape.of(layer) for layer in timed.layers}
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


def _row(
    timed: TimedNetwork, masks: Masks, whole_ns: float, dense_ns: float, predicted: dict[str, float]
) -> dict[str, Any]:
    """Return a configuration's times, speed-ups and errors; predicted speed-ups come by the names of PREDICTIONS."""
    reduction = sum(layer.macs for layer in timed.layers) / timed.macs(masks)
    speedup = dense_ns / whole_ns
    return {
        "density": 1 / reduction,
        "dense_ms": dense_ns / 1e6,
        "measured_ms": whole_ns / 1e6,
        "speedup": speedup,
        "mac_reduction": reduction,
        "realised": speedup / reduction,
        **{f"predicted_{name}": value for name, value in predicted.items()},
        **{f"{name}_error": value / speedup - 1 for name, value in (predicted | {"macs": reduction}).items()},
    }


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the errors of the speed-ups by network and over all, absolute, median and 90th percentile."""
    names = list(dict.fromkeys(row["network"] for row in rows))
    found = []
    for name in [*names, "all"]:
        chosen = [row for row in rows if name in (row["network"], "all")]
        for kind in PREDICTIONS:
            errors = np.abs([row[kind] for row in chosen])
            found.append(
                {"network": name, "error": kind, "median": float(np.median(errors)),
                 "p90": float(np.quantile(errors, 0.9)), "count": len(chosen)}
            )  # fmt: skip
    return found

"""Whole networks: predicted from their masks before they run, then run; with and without an anchor.

Two predictions are those of `simulate`, from layers and masks: by the machine alone, and with the network's Anchor, its
dense and a few gated measurements. Two more know the network's program, kernel by kernel, and take its dense time and
what is no kernel from the anchor: as predicted, and each kernel scaled to what it took there. Masks are drawn, with
other densities than the anchor's, and recorded: what gates decided on procedural clips.

A shared machine becomes slower and faster while that goes on. So every configuration runs in each of ROUNDS, the last
in reverse order, and always between two runs of one reference, the anchor's middle frame. Where these two lie more than
STEADY apart, the configuration runs again, at most ATTEMPTS times in all, and the attempt with the steadiest reference
counts: the rule looks at the reference, never at an error. What the reference takes over what it took when the anchor
was made is the machine's *drift*; errors without it are the model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skipsim.analysis.anchor_network import MIDDLE, NetworkTimes, make_anchor, trace_of, without_anchors
from skipsim.hwmodels.anchor import Anchor
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
ROUNDS, ATTEMPTS, STEADY = 2, 3, 0.05
LOWEST = 1  # of the anchor's densities, but for zero: what is it worth?
RECORDED = tuple((camera, share) for camera in ("static", "pan") for share in (0.1, 0.3))
"""Cameras of the clips, and thresholds as shares of a layer's mean input."""
PREDICTIONS = {
    "speedup_error": "simulate, no anchor",
    "anchored_error": "simulate, with an anchor",
    "anchored_steady_error": "the same, drift taken out",
    "coarse_steady_error": "with an anchor of one density less, drift taken out",
    "kernels_error": "the program's kernels",
    "scaled_error": "the program's kernels, scaled",
    "scaled_steady_error": "the same, drift taken out",
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


@dataclass(frozen=True)
class Run:
    """A configuration on the clock, between two runs of the reference."""

    whole_ns: float
    before_ns: float
    after_ns: float

    @property
    def unsteady(self) -> float:
        """How far the two runs of the reference lie apart, relative."""
        return max(self.before_ns, self.after_ns) / min(self.before_ns, self.after_ns) - 1

    @property
    def reference_ns(self) -> float:
        """What the reference takes at that time."""
        return (self.before_ns + self.after_ns) / 2


def steadiest(run: Callable[[], float], reference: Callable[[], float], before_ns: float) -> tuple[Run, float]:
    """Run between two runs of the reference until these agree, at most ATTEMPTS times.

    Args:
        run: runs the configuration, returns its time, ns.
        reference: runs the reference, returns its time, ns.
        before_ns: what the reference took last.

    Returns the attempt that counts, and what the reference took last.
    """
    attempts: list[Run] = []
    while not attempts or (attempts[-1].unsteady > STEADY and len(attempts) < ATTEMPTS):
        attempts.append(Run(run(), attempts[-1].after_ns if attempts else before_ns, reference()))
    return min(attempts, key=lambda one: one.unsteady), attempts[-1].after_ns


def run_rounds(configurations: Sequence[Callable[[], float]], reference: Callable[[], float]) -> list[list[Run]]:
    """Run every configuration in every round, each between two runs of the reference: [configurations][rounds]."""
    found: list[list[Run]] = [[] for _ in configurations]
    last_ns = reference()
    for number in range(ROUNDS):
        places = range(len(configurations))
        for place in places if number % 2 == 0 else reversed(places):
            counted, last_ns = steadiest(configurations[place], reference, last_ns)
            found[place].append(counted)
    return found


def network_errors(
    name: str, block: int, hardware: Hardware, repeats: int, say: Any, threads: int = 1
) -> list[dict[str, Any]]:
    """Predict, then run a network with masks that were drawn and recorded; return times, speed-ups and their errors."""
    from skipsim.traces.execute.timed_network import TimedNetwork

    say(f"{name}, block {block}")
    timed = TimedNetwork(name, *NETWORKS[name], block, threads)
    configurations = dict(_masks(timed))
    times = NetworkTimes.of(timed, repeats)
    bare = without_anchors(hardware)
    anchor = make_anchor(times, bare, f"measured: {name}")
    fewer = replace(times, gated=tuple(one for one in times.gated if one is not times.gated[LOWEST]))
    coarse = make_anchor(fewer, bare, f"measured: {name}, without its lowest density")
    processor = _processor(bare)
    machines = (bare, *(_with(bare, name, one) for one in (anchor, coarse)))
    middle = times.gated[MIDDLE]
    scales = KernelScales.of(middle.timed, predict_kernels(timed, middle.masks, processor))
    predicted = []
    for masks in configurations.values():
        trace = trace_of(timed.layers, masks)
        alone, put_right, coarsely = (simulate(trace, one, tile=(block, block)) for one in machines)
        kernels_ns = predict_kernels(timed, masks, processor)
        predicted.append(
            {
                "speedup": alone.speedup,
                "anchored": times.dense_ns / put_right.cycles,
                "coarse": times.dense_ns / coarsely.cycles,
                "kernels": times.dense_ns / (float(kernels_ns.sum()) + scales.rest_ns),
                "scaled": times.dense_ns / scales.frame_ns(kernels_ns),
            }
        )

    def frame_ns(masks: Masks) -> float:
        return float(timed.time(masks, repeats).whole_ns)

    runs = run_rounds([partial(frame_ns, one) for one in configurations.values()], partial(frame_ns, middle.masks))
    return [
        {"network": name, "block": block, "masks": source}
        | _row(timed, masks, found, float(middle.timed.whole_ns), times.dense_ns, guesses)
        for (source, masks), found, guesses in zip(configurations.items(), runs, predicted, strict=True)
    ]


def _with(hardware: Hardware, name: str, anchor: Anchor) -> Hardware:
    """Return a measured machine that knows this network only."""
    processor = _processor(hardware).model_copy(update={"anchors": {name: anchor}})
    return hardware.model_copy(update={"processor": processor})


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
    timed: TimedNetwork,
    masks: Masks,
    runs: Sequence[Run],
    reference_ns: float,
    dense_ns: float,
    predicted: dict[str, float],
) -> dict[str, Any]:
    """Return a configuration's times, speed-ups and errors; predicted speed-ups come by the names of PREDICTIONS.

    `reference_ns`: what the reference took when the anchor was made; a predicted time times drift is what would have
    been predicted by an anchor made at the time of the run.
    """
    reduction = sum(layer.macs for layer in timed.layers) / timed.macs(masks)
    whole = np.array([one.whole_ns for one in runs])
    drift = float(np.mean([one.reference_ns for one in runs])) / reference_ns
    speedup = dense_ns / float(whole.mean())
    steady = {f"{name}_steady": predicted[name] / drift for name in ("anchored", "coarse", "scaled")}
    return {
        "density": 1 / reduction,
        "dense_ms": dense_ns / 1e6,
        "measured_ms": float(whole.mean()) / 1e6,
        "rounds_ms": [one / 1e6 for one in whole],
        "repeat": float(whole.max() / whole.min() - 1),
        "drift": drift - 1,
        "unsteady": max(one.unsteady for one in runs),
        "speedup": speedup,
        "mac_reduction": reduction,
        "realised": speedup / reduction,
        **{f"predicted_{name}": value for name, value in predicted.items()},
        **{f"{name}_error": value / speedup - 1 for name, value in (predicted | steady | {"macs": reduction}).items()},
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

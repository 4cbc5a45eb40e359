"""Time a network on this machine, dense and gated, and make an Anchor of it, which later predictions go by."""

from __future__ import annotations

import datetime
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from skipsim.hwmodels.anchor import Anchor
from skipsim.hwmodels.fit import significant
from skipsim.hwmodels.hardware import Hardware
from skipsim.hwmodels.kernel_work import LayerShape
from skipsim.hwmodels.kernels import Step
from skipsim.simulator.processor import copies_ns, network_bytes
from skipsim.simulator.simulate import simulate
from skipsim.traces.layer import Layer
from skipsim.traces.trace import Trace

if TYPE_CHECKING:
    from skipsim.traces.execute.timed_network import Timed, TimedNetwork

Key = tuple[str, int]
Masks = Mapping[Key, NDArray[np.bool_]]

DENSITIES = (0.0, 0.04, 0.15, 0.6)
"""Shares of the positions that the gated network computes when it is timed."""
MIDDLE = 2  # of these: what a gated frame typically computes
SEED = 1  # of those masks


@dataclass(frozen=True)
class GatedTime:
    """A gated frame: its masks, the time of every layer and of what belongs to none, and of every kernel."""

    masks: Masks
    layers_ns: NDArray[np.float64]
    rest_ns: float
    timed: Timed

    @classmethod
    def of(cls, network: TimedNetwork, density: float, repeats: int) -> GatedTime:
        """Run masks of a density; sum the kernels of every layer, its gate, list and reference included."""
        masks = network.draw(density, SEED)
        timed = network.time(masks, repeats)
        spent: dict[str, float] = defaultdict(float)
        kernels = [entry for entry in network.entries if isinstance(entry.item, Step)]
        for entry, ns in zip(kernels, timed.kernels_ns, strict=True):
            spent[entry.operation] += float(ns)
        layers_ns = np.array([spent[layer.label] for layer in network.layers])
        return cls(masks, layers_ns, timed.whole_ns - float(layers_ns.sum()), timed)


@dataclass(frozen=True)
class NetworkTimes:
    """A network on the clock: dense, and gated at DENSITIES."""

    layers: tuple[Layer, ...]
    dense_ns: float
    gated: tuple[GatedTime, ...]
    block: int
    threads: int

    @classmethod
    def of(cls, network: TimedNetwork, repeats: int) -> NetworkTimes:
        """Time it."""
        dense_ns = network.dense_ns(repeats)
        gated = tuple(GatedTime.of(network, one, repeats) for one in DENSITIES)
        return cls(network.layers, dense_ns, gated, network.block, network.threads)


def make_anchor(times: NetworkTimes, hardware: Hardware, source: str) -> Anchor:
    """Set what was measured against what a machine without anchors predicts for the same masks."""
    bare, layers = without_anchors(hardware), times.layers
    processor = bare.processor
    assert processor is not None
    blocks = {layer.label: (layer.block_rows, layer.block_cols) for layer in layers if layer.gate != "none"}
    footprint = processor.footprint_bytes or network_bytes(layers)
    frames: list[GatedTime] = []
    traces: list[Trace] = []
    copies: list[float] = []
    for frame in times.gated:  # on a small grid of blocks two densities may compute the same
        trace = trace_of(layers, frame.masks)
        spent_ns = float(copies_ns(trace, processor, footprint)[0])
        if not copies or significant(spent_ns) > copies[-1]:
            frames.append(frame)
            traces.append(trace)
            copies.append(significant(spent_ns))
    dense = simulate(traces[0], bare, dense=True)
    reports = [simulate(trace, bare, tile=blocks) for trace in traces]
    names = [LayerShape.of(layer).name for layer in layers]
    counts = Counter(names)
    scales = {}
    for name in counts:
        chosen = np.array([one == name for one in names])
        ratios = [
            float(frame.layers_ns[chosen].sum() / report.cycles_by_stage[0, chosen].sum())
            for frame, report in list(zip(frames, reports, strict=True))[1:]
        ]
        scales[name] = significant(float(np.mean(ratios)))
    return Anchor(
        source=source,
        block=times.block,
        threads=times.threads,
        dense_ns=significant(times.dense_ns, 5),
        densities=tuple(significant(report.computed_macs / report.dense_macs) for report in reports),
        gated_ns=tuple(significant(float(frame.timed.whole_ns), 5) for frame in frames),
        dense_scale=significant(times.dense_ns / dense.cycles),
        copies_ns=tuple(copies),
        rest_ns=tuple(significant(frame.rest_ns) for frame in frames),
        layers=dict(counts),
        scales=scales,
    )


def anchor_network(
    hardware: Hardware, networks: Mapping[str, TimedNetwork], repeats: int, say: Callable[[str], None]
) -> Hardware:
    """Time networks, their dense layers one by one too, and return the machine with an anchor for each, by name."""
    from skipsim.hwmodels.measure import Plan
    from skipsim.hwmodels.measured_torch import measure_dense
    from skipsim.hwmodels.measurement_file import call_of

    processor = hardware.processor
    assert processor is not None, "only for measured machines"
    shapes = [LayerShape.of(layer) for network in networks.values() for layer in network.layers]
    unknown = [shape for shape in dict.fromkeys(shapes) if shape.name not in processor.dense_layers_ns]
    if unknown:
        rows = measure_dense(
            unknown, "dense_layer", Plan(passes=repeats, threads=processor.host.threads), say
        ).itertuples()
        found = {call_of(row).shape.name: significant(float(row.ns), 5) for row in rows}  # type: ignore[arg-type]
        processor = processor.model_copy(update={"dense_layers_ns": processor.dense_layers_ns | found})
        hardware = hardware.model_copy(update={"processor": processor})
    anchors = dict(processor.anchors)
    for name, network in networks.items():
        say(f"{name}, dense and gated")
        source = f"measured by skipsim on {datetime.datetime.now(datetime.UTC).date()}: {name}, block {network.block}"
        anchors[anchor_name(name, network.block)] = make_anchor(NetworkTimes.of(network, repeats), hardware, source)
    return hardware.model_copy(update={"processor": processor.model_copy(update={"anchors": anchors})})


def anchor_name(network: str, block: int) -> str:
    """Return what a machine's file calls a network with gates of a block."""
    return f"{network}, block {block}"


def without_anchors(hardware: Hardware) -> Hardware:
    """Return a measured machine that knows no network and runs every gated layer gated, as networks are timed."""
    processor = hardware.processor
    assert processor is not None, "only for measured machines"
    return hardware.model_copy(update={"processor": processor.model_copy(update={"anchors": {}, "fallback": False})})


def trace_of(layers: Sequence[Layer], masks: Masks) -> Trace:
    """Return one gated frame as a trace."""
    return Trace.from_masks(list(layers), [masks[layer.key][None] for layer in layers], reference_frames=())

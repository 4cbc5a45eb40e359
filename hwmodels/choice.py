"""Choice: the measured machine that predicts for this host, and the layers that it predicts to be faster dense."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np

from skipsim.errors import InputError
from skipsim.hwmodels.anchor import Anchor
from skipsim.hwmodels.compiled_work import compiled_work
from skipsim.hwmodels.design import draw_mask
from skipsim.hwmodels.fit import predict
from skipsim.hwmodels.hardware import Hardware, load_hardware, machines
from skipsim.hwmodels.host import describe_host, differences
from skipsim.hwmodels.kernel_work import (
    LayerShape,
    Work,
    decide_work,
    dense_work,
    features,
    list_work,
    move_work,
    watch_work,
)
from skipsim.hwmodels.processor import Cost, Processor, residency_of

MACHINE = "SKIPSIM_MACHINE"
"""The environment variable that names this machine's file; "none": predict nothing."""
CLUSTER_BLOCKS = 2.0  # how far masks are taken to be alike
SAME = ("device", "model", "instructions", "cache_bytes")  # what must agree for a packaged machine to be this one


def machine_at_hand(given: Hardware | str | Path | None, warn: Callable[[str], None]) -> Hardware | None:
    """Return the measured machine that predicts for this host, None if there is none.

    Args:
        given: a machine, or its name or file; "auto": the one that SKIPSIM_MACHINE names, otherwise the packaged one
            that was measured on a processor like this; None: none.
        warn: is told in which ways a machine that was asked for differs from this host.

    Raises:
        InputError: the machine was not measured, or there is no such file.
    """
    asked: Hardware | str | Path | None = os.environ.get(MACHINE, "auto") if given == "auto" else given
    if asked is None or asked == "none":
        return None
    if asked == "auto":
        return _packaged()
    hardware = asked if isinstance(asked, Hardware) else load_hardware(asked)
    if hardware.processor is None:
        raise InputError(f"machine {hardware.name!r}: was not measured and predicts no kernels; see skipsim calibrate")
    found = differences(hardware.processor.host, describe_host())
    if found:
        warn(f"machine {hardware.name!r} is another machine, its predictions may not hold here: {'; '.join(found)}")
    return hardware


@cache
def _packaged() -> Hardware | None:
    """Return the packaged machine whose processor is like this host's."""
    here = describe_host()
    for name in machines():
        if name.startswith("measured-"):
            hardware = load_hardware(name)
            there = hardware.processor
            if there is not None and all(getattr(there.host, key) == getattr(here, key) for key in SAME):
                return hardware
    return None


def faster_dense(
    layers: Mapping[str, tuple[LayerShape, tuple[int, int]]],
    processor: Processor,
    density: float,
    anchor: Anchor | None = None,
) -> dict[str, float]:
    """Return the layers that are predicted to be faster dense, with dense over gated time.

    Args:
        layers: shape and block of every gated layer of a network, by name.
        processor: predicts.
        density: share of the blocks that is expected to be computed.
        anchor: the whole network as it was measured, if it was.
    """
    shapes = [shape for shape, _ in layers.values()]
    footprint = sum(shape.weight_bytes + density * (2 * shape.in_bytes + shape.out_bytes) for shape in shapes)
    times = {
        name: (
            dense_ns(shape, processor, footprint) * (1.0 if anchor is None else anchor.dense_scale),
            gated_ns(shape, block, processor, footprint, density)
            * (1.0 if anchor is None else anchor.scales[shape.name]),
        )
        for name, (shape, block) in layers.items()
    }
    return {name: dense / gated for name, (dense, gated) in times.items() if dense < gated}


def dense_ns(shape: LayerShape, processor: Processor, footprint_bytes: float) -> float:
    """Return a dense layer's time: as it was measured, otherwise predicted; infinite where nothing is known."""
    measured, cost = processor.dense_layers_ns.get(shape.name), processor.dense.get(shape.kind)
    if measured is not None:
        return measured
    return _ns(dense_work(shape), cost, shape, processor, footprint_bytes) if cost else float("inf")


def gated_ns(
    shape: LayerShape, block: tuple[int, int], processor: Processor, footprint_bytes: float, density: float
) -> float:
    """Return a gated layer's time with its gate fused into the producer, on clustered masks; 0 where it is unknown."""
    cost = processor.kernels.get("compiled", {}).get(shape.kind)
    if cost is None:
        return 0.0
    grid = -(-shape.out_rows // block[0]), -(-shape.out_cols // block[1])
    masks = draw_mask(grid, density, CLUSTER_BLOCKS, np.random.default_rng(0))[None]
    pieces = [
        (cost, compiled_work(shape, masks, block, processor.registers)),
        *(
            (processor.stages[name], count(shape, masks, block))
            for name, count in (
                ("list", list_work),
                ("watch", watch_work),
                ("decide", decide_work),
                ("move", move_work),
            )
            if name in processor.stages
        ),
    ]
    return sum(_ns(work, each, shape, processor, footprint_bytes) for each, work in pieces)


def _ns(work: Work, cost: Cost, shape: LayerShape, processor: Processor, footprint_bytes: float) -> float:
    return float(predict(features(work, residency_of(shape, processor.peaks, footprint_bytes)), cost)[0])

"""A machine like Gemmini's default one: utilisation on ResNet-50 that its developers report."""

from __future__ import annotations

from pathlib import Path

from skipsim.analysis.validation.comparison import Comparison, Pair
from skipsim.analysis.validation.oracles import path_of
from skipsim.hwmodels.hardware import load_hardware
from skipsim.simulator.simulate import simulate
from skipsim.traces.topology import topology_trace

SOURCE = "pull requests 69 (February 2021: 153,709,356 cycles, batch 4) and 90 (March 2021) of ucb-bar/gemmini"
NOTES = (
    "two states of the same hardware's software, a month apart; the model is faster than both",
    "the model has neither the shared cache, nor page walks, nor the additions and poolings that the figures contain",
)
PUBLISHED = (("ResNet-50, pull request 69", 0.40), ("ResNet-50, pull request 90", 0.51))


def compare(folder: Path | None = None) -> Comparison:
    """Compare the share of the array's multiply-accumulates that do work, over the whole network."""
    hardware = load_hardware("gemmini-like")
    trace = topology_trace(path_of("scalesim/resnet50.topology.csv", folder))
    report = simulate(trace, hardware, dense=True)
    utilisation = report.macs / (report.cycles * hardware.array.rows * hardware.array.cols)
    pairs = tuple(Pair(name, "utilisation of the array", published, utilisation) for name, published in PUBLISHED)
    return Comparison("Gemmini", SOURCE, pairs, "nothing", NOTES)

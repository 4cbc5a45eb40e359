"""A machine like the first TPU: throughput of the two multilayer perceptrons that its authors measured."""

from __future__ import annotations

from math import isqrt
from pathlib import Path

from skipsim.analysis.validation.comparison import Comparison, Pair
from skipsim.analysis.validation.layers import whole
from skipsim.hwmodels.hardware import load_hardware
from skipsim.simulator.simulate import simulate
from skipsim.traces.layer import Layer

SOURCE = "Jouppi et al., ISCA 2017, tables 1 and 3"
NOTES = (
    "the networks are not public: equal square layers with the published number of weights in all",
    "the published CNNs and LSTMs are left out: their layers' shapes are not public and matter",
    "the chip spends 17.5 % of MLP0's cycles in neither weights nor matrix work (table 3), the model none",
)
# Name, layers, weights, batch (table 1), 10^12 operations per second (table 3): two per multiply-accumulate.
PERCEPTRONS = (("MLP0", 5, 20_000_000, 200, 12.3), ("MLP1", 4, 5_000_000, 168, 9.7))


def compare(folder: Path | None = None) -> Comparison:
    """Compare with the throughput of MLP0 and MLP1; `folder` is not needed."""
    hardware, pairs = load_hardware("tpu-v1-like"), []
    for name, depth, weights, batch, published in PERCEPTRONS:
        width = isqrt(weights // depth)
        layers = [Layer(f"{name}.{number}", width, batch, 1, width, batch, 1) for number in range(depth)]
        report = simulate(whole(layers), hardware, dense=True)
        tera = 2 * report.macs / (report.cycles / hardware.clock_hz) / 1e12
        pairs.append(Pair(name, "10^12 operations per second", published, tera))
    return Comparison("TPU v1", SOURCE, tuple(pairs), "nothing", NOTES)

"""SCALE-Sim 3: cycles of plain systolic arrays, layer by layer."""

from __future__ import annotations

from pathlib import Path

from skipsim.analysis.validation.comparison import Comparison, Pair
from skipsim.analysis.validation.oracles import path_of, rows
from skipsim.hwmodels.hardware import load_hardware
from skipsim.simulator.simulate import simulate
from skipsim.traces.topology import topology_trace

SOURCE = "SCALE-Sim 3.0.0, dense, no memory stalls"
FILES = ("resnet50_a32_os", "resnet50_a32_ws", "resnet50_a32_is", "hrnet_w32_256x192_a16_os")
DATAFLOWS = {"os": "output_stationary", "ws": "weight_stationary", "is": "input_stationary"}


def compare(folder: Path | None = None) -> Comparison:
    """Compare every layer of every file; SCALE-Sim reports the index of the last cycle, one less than their number."""
    pairs = []
    for name in FILES:
        topology, side, dataflow = name.rsplit("_", 2)
        array = {"array.rows": int(side[1:]), "array.cols": int(side[1:]), "array.dataflow": DATAFLOWS[dataflow]}
        trace = topology_trace(path_of(f"scalesim/{topology}.topology.csv", folder))
        report = simulate(trace, load_hardware("systolic-32x32").replace(**array), "full", dense=True)
        published = [row for row in rows(f"scalesim/{name}.csv", folder) if row["layer"].isdecimal()]
        pairs += [
            Pair(row["name"], "array cycles", float(row["scalesim_compute_cycles"]) + 1, float(ours), name)
            for row, ours in zip(published, report.layers["array_cycles"], strict=True)
        ]
    return Comparison("systolic arrays", SOURCE, tuple(pairs), "nothing")

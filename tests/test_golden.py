"""Did simulated numbers change? A table of them is tied to MODEL_VERSION.

Regenerate with `python tests/test_golden.py --write` after bumping MODEL_VERSION and adding a RESULTS entry to the
CHANGELOG. The only test here whose expected values come from the code itself: it says that numbers moved, not that they
are right.
"""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

from skipsim.hwmodels.hardware import Hardware, load_hardware
from skipsim.simulator.simulate import simulate
from skipsim.simulator.tiles import MODEL_VERSION
from skipsim.traces.layer import Layer
from skipsim.traces.topology import topology_trace
from skipsim.traces.trace import Trace

TABLE = Path(__file__).parent / "golden" / "simulated.csv"
TOPOLOGIES = Path(__file__).parent / "oracles" / "scalesim"
COLUMNS = ("trace", "machine", "tile", "cycles", "dense_cycles", "dram_read_bytes", "dram_write_bytes", "active_tiles")
RULE = (
    "bump MODEL_VERSION in simulator/tiles.py, add a RESULTS entry to CHANGELOG.md, "
    "then run `python tests/test_golden.py --write`"
)

LAYERS = (
    Layer("stem", 3, 96, 80, 32, 48, 40, 3, 3, 2, 2, 1, 1, block_rows=2, block_cols=2, gate="input_norm"),
    Layer("wide", 32, 48, 40, 200, 48, 40, 3, 3, 1, 1, 1, 1, block_rows=2, block_cols=2, gate="input_norm"),
    Layer("depthwise", 200, 48, 40, 200, 48, 40, 5, 5, 1, 1, 2, 2, groups=200, block_rows=2, block_cols=2, gate="mask"),
    Layer("plain", 200, 48, 40, 64, 48, 40),
    Layer("deep", 64, 48, 40, 512, 24, 20, 3, 3, 2, 2, 1, 1, block_rows=4, block_cols=1, gate="gumbel"),
    Layer("head", 512, 24, 20, 17, 24, 20, dilation_rows=2, block_rows=3, block_cols=5, gate="output_norm"),
)


def blobs(rows: int, cols: int, frame: int, percent: int) -> np.ndarray:
    """Return a mask of blobs by whole-number arithmetic: the same on every machine, whatever its libraries."""
    y, x = np.mgrid[:rows, :cols].astype(np.int64)
    field = (y // 3 * 7919 + x // 3 * 104729 + frame * 1299709 + (y // 3) * (x // 3) * 31) % 100
    return field < percent


def gated_clip(update: str, percent: int) -> Trace:
    """Make three frames, the first computed densely."""
    masks = []
    for layer in LAYERS:
        size = layer.grid_rows, layer.grid_cols
        full = layer.gate == "none"
        masks.append(np.stack([blobs(*size, frame, 100 if full or frame == 0 else percent) for frame in range(3)]))
    return Trace.from_masks(LAYERS, masks, update=update, reference_frames=(0,))


TRACES = {
    "resnet50": lambda: topology_trace(TOPOLOGIES / "resnet50.topology.csv"),
    "recompute 15 %": lambda: gated_clip("recompute", 15),
    "recompute 60 %": lambda: gated_clip("recompute", 60),
    "previous 15 %": lambda: gated_clip("previous", 15),
    "accumulate 30 %": lambda: gated_clip("accumulate", 30),
}
SINGLE_CHANGES = {
    "delta": {"layer.update": "delta", "precision.state_bits": 16},
    "nchw": {"layer.layout": "nchw", "schedule.merge_halo": True},
    "tight": {"buffers.input_bytes": 8192, "buffers.weight_bytes": 8192, "buffers.output_bytes": 16384},
    "gate on the array": {"gate.placement": "array", "buffers.halves": 1},
    "weight stationary": {"array.dataflow": "weight_stationary", "array.depthwise": "array"},
}
MACHINES = ("edge-npu", "auto-npu", "systolic-32x32")
RUNS = [
    *(("resnet50", machine, tile) for machine in MACHINES for tile in ("full", "auto")),
    *(("recompute 15 %", machine, tile) for machine in MACHINES[:2] for tile in ("2x2", "8x8", "full")),
    ("recompute 60 %", "edge-npu", "4x4"),
    ("recompute 60 %", "systolic-32x32", "4x4"),
    ("previous 15 %", "edge-npu", "4x4"),
    ("previous 15 %", "edge-npu, delta", "4x4"),
    ("accumulate 30 %", "auto-npu", "4x8"),
    ("recompute 15 %", "edge-npu, nchw", "4x4"),
    ("recompute 15 %", "edge-npu, tight", "4x4"),
    ("recompute 15 %", "edge-npu, gate on the array", "4x4"),
    ("recompute 15 %", "edge-npu, weight stationary", "4x4"),
]  # fmt: skip


def hardware_of(machine: str) -> Hardware:
    """Return a machine of the catalog, with one named change."""
    name, _, change = machine.partition(", ")
    return load_hardware(name).replace(**SINGLE_CHANGES[change]) if change else load_hardware(name)


def simulated(trace: str, machine: str, tile: str) -> dict[str, str]:
    """Return one row of the table as text."""
    report = simulate(TRACES[trace](), hardware_of(machine), tile=tile)
    assert report.dense is not None
    return {
        "trace": trace,
        "machine": machine,
        "tile": tile,
        "cycles": str(report.cycles),
        "dense_cycles": str(report.dense.cycles),
        "dram_read_bytes": str(report.dram_read_bytes),
        "dram_write_bytes": str(report.dram_write_bytes),
        "active_tiles": str(report.active_tiles),
    }


def stored() -> tuple[int, dict[tuple[str, str, str], dict[str, str]]]:
    """Return the table's version and its rows by (trace, machine, tile)."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        version = int(file.readline().removeprefix("# MODEL_VERSION ").strip())
        rows = list(csv.DictReader(file))
    return version, {(row["trace"], row["machine"], row["tile"]): row for row in rows}


def test_the_table_belongs_to_this_version_of_the_model():
    version, rows = stored()
    assert version == MODEL_VERSION, (
        f"the golden table is of MODEL_VERSION {version}, the code of {MODEL_VERSION}: {RULE}"
    )
    assert list(rows) == RUNS, f"the golden table holds other runs than this test: {RULE}"


@pytest.mark.parametrize(("trace", "machine", "tile"), RUNS, ids=", ".join)
def test_numbers_change_only_with_the_version(trace, machine, tile):
    row = stored()[1][trace, machine, tile]
    now = simulated(trace, machine, tile)
    moved = [f"{column} {row[column]} -> {now[column]}" for column in COLUMNS if row[column] != now[column]]
    assert not moved, f"simulated numbers changed ({', '.join(moved)}): {RULE}"


def test_what_the_table_covers():
    """The generic machines, every update form and several tiles, so that little can change unseen."""
    _, rows = stored()
    assert {machine.partition(", ")[0] for _, machine, _ in rows} == set(MACHINES)
    assert {TRACES[trace]().update for trace, _, _ in rows} == {"recompute", "previous", "accumulate"}
    assert all(int(row["cycles"]) > 0 and int(row["dram_read_bytes"]) > 0 for row in rows.values())


def write() -> None:
    """Write the table; refuse if numbers of the same version would change."""
    rows = [simulated(*run) for run in RUNS]
    if TABLE.exists():
        version, old = stored()
        changed = [key for key, row in old.items() if key in RUNS and row != rows[RUNS.index(key)]]
        if version == MODEL_VERSION and changed:
            sys.exit(f"{len(changed)} of {len(old)} rows change, but MODEL_VERSION is still {version}: {RULE}")
    TABLE.parent.mkdir(exist_ok=True)
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        file.write(f"# MODEL_VERSION {MODEL_VERSION}\n")
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{len(rows)} rows of MODEL_VERSION {MODEL_VERSION} written to {TABLE}")


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(f"usage: {sys.argv[0]} --write")
    write()

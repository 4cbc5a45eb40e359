"""Do the array's cycles equal SCALE-Sim's, for every layer of every file it computed, and its formulas elsewhere?"""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipsim.hwmodels.hardware import Hardware, load_hardware
from skipsim.simulator.simulate import simulate
from skipsim.traces.layer import Layer
from skipsim.traces.topology import topology_trace
from skipsim.traces.trace import Trace

SCALESIM = Path(__file__).parent / "oracles" / "scalesim"
DATAFLOWS = {"os": "output_stationary", "ws": "weight_stationary", "is": "input_stationary"}
FILES = sorted(path.stem for path in SCALESIM.glob("*_a*_?s.csv"))
PLAIN = load_hardware("systolic-32x32")


def square_array(side: int, dataflow: str) -> Hardware:
    return PLAIN.replace(**{"array.rows": side, "array.cols": side, "array.dataflow": dataflow})


def oracle(name: str) -> tuple[str, Hardware, list[dict[str, str]]]:
    """Return topology, machine and SCALE-Sim's rows of one of its result files."""
    topology, side, dataflow = name.rsplit("_", 2)
    with (SCALESIM / f"{name}.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["layer"].isdecimal()]  # the last line is the total
    return topology, square_array(int(side.removeprefix("a")), DATAFLOWS[dataflow]), rows


def formula(dataflow: str, m: int, n: int, k: int, rows: int, cols: int) -> int:
    """SCALE-Sim's cycles for M pixels, N filters, K products per output value: folds x cycles per fold."""
    if dataflow == "output_stationary":
        return -(-m // rows) * -(-n // cols) * (k + rows + cols - 2)
    if dataflow == "weight_stationary":
        return -(-k // rows) * -(-n // cols) * (m + 2 * rows + cols - 2)
    return -(-k // rows) * -(-m // cols) * (n + 2 * rows + cols - 2)


def test_all_files_are_there():
    assert FILES == ["hrnet_w32_256x192_a16_os", "resnet50_a32_is", "resnet50_a32_os", "resnet50_a32_ws"]


@pytest.mark.parametrize("how", ["full tile", "dense schedule", "dense, full tile"])
@pytest.mark.parametrize("name", FILES)
def test_every_layer_takes_scalesims_cycles(name, how):
    topology, hardware, rows = oracle(name)
    trace = topology_trace(SCALESIM / f"{topology}.topology.csv")
    report = simulate(trace, hardware, tile="auto" if how == "dense schedule" else "full", dense=how != "full tile")
    assert len(rows) == len(trace.layers) == len(report.layers) > 50
    table = report.layers.to_dict("records")
    for row, layer, ours in zip(rows, trace.layers, table, strict=True):
        m, n, k = (int(row[letter]) for letter in "MNK")
        assert (ours["name"], layer.out_pixels, layer.out_channels, layer.reduction) == (row["name"], m, n, k)
        assert ours["array_cycles"] == int(row["scalesim_compute_cycles"]) + 1, row
        assert ours["cycles"] == ours["array_cycles"], row
        assert ours["macs"] == ours["dense_macs"] == m * n * k
    assert report.cycles == sum(int(row["scalesim_compute_cycles"]) + 1 for row in rows)


@pytest.mark.parametrize("name", FILES)
def test_the_formulas_are_scalesims(name):
    """What the tests below rely on where there is no file."""
    _, hardware, rows = oracle(name)
    array = hardware.array
    for row in rows:
        m, n, k = (int(row[letter]) for letter in "MNK")
        assert formula(array.dataflow, m, n, k, array.rows, array.cols) == int(row["scalesim_compute_cycles"]) + 1


def whole(layer: Layer, hardware: Hardware) -> dict[str, int]:
    """Run one layer as one tile, all of it computed."""
    trace = Trace.from_masks([layer], [np.ones((1, layer.grid_rows, layer.grid_cols), np.bool_)])
    (row,) = simulate(trace, hardware, tile="full").layers.to_dict("records")
    return row


@settings(max_examples=60, derandomize=True)
@given(
    dataflow=st.sampled_from(sorted(DATAFLOWS.values())),
    rows=st.sampled_from([1, 5, 8, 128]),
    cols=st.sampled_from([1, 3, 16, 256]),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    channels=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    kernel=st.sampled_from([(1, 1), (3, 3), (5, 5), (1, 7)]),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
)
def test_other_arrays_and_layers_follow_the_formulas(dataflow, rows, cols, size, channels, kernel, stride, dilation):
    in_rows, in_cols = ((size[a] - 1) * stride + (kernel[a] - 1) * dilation + 1 for a in range(2))
    layer = Layer(
        "layer", channels[0], in_rows, in_cols, channels[1], *size, *kernel, stride, stride,
        dilation_rows=dilation, dilation_cols=dilation,
    )  # fmt: skip
    hardware = PLAIN.replace(**{"array.rows": rows, "array.cols": cols, "array.dataflow": dataflow})
    products = kernel[0] * kernel[1] * channels[0]
    cycles = formula(dataflow, size[0] * size[1], channels[1], products, rows, cols)
    ours = whole(layer, hardware)
    assert (ours["array_cycles"], ours["cycles"]) == (cycles, cycles)


def grouped(groups: int, ins: int, outs: int) -> Layer:
    """Make a 3x3 layer of 12x10 outputs with so many channels per group."""
    return Layer("grouped", groups * ins, 12, 10, groups * outs, 12, 10, 3, 3, 1, 1, 1, 1, groups=groups)


@pytest.mark.parametrize("dataflow", DATAFLOWS.values())
@pytest.mark.parametrize(("groups", "ins", "outs"), [(40, 1, 1), (40, 1, 2), (4, 8, 6), (2, 1, 1)])
def test_groups_run_one_after_the_other_on_the_array(dataflow, groups, ins, outs):
    """Depthwise: one run per channel with K = 9 and N = 1."""
    ours = whole(grouped(groups, ins, outs), square_array(16, dataflow))
    assert ours["array_cycles"] == groups * formula(dataflow, 120, outs, 9 * ins, 16, 16)
    assert ours["macs"] == 120 * 9 * groups * ins * outs


@pytest.mark.parametrize("rate", [1, 64, 100, 10**6])
def test_a_vector_unit_takes_depthwise_layers_at_its_rate(rate):
    hardware = PLAIN.replace(**{"array.vector_macs_per_cycle": rate, "array.depthwise": "vector"})
    for multiplier in (1, 2):
        ours = whole(grouped(40, 1, multiplier), hardware)
        assert ours["array_cycles"] == -(-120 * 9 * 40 * multiplier // rate)
    others = whole(grouped(4, 8, 6), hardware)
    assert others["array_cycles"] == 4 * formula("output_stationary", 120, 6, 72, 32, 32), "not depthwise"


@pytest.mark.parametrize("dataflow", DATAFLOWS.values())
def test_tiles_add_up_pass_by_pass(dataflow):
    """A 12x10 map in 8x8 tiles: 64, 16, 32 and 8 pixels, each pass with its own fill."""
    hardware = square_array(8, dataflow).replace(**{"array.pack_tiles": False})
    layer = Layer("layer", 5, 12, 10, 20, 12, 10)
    trace = Trace.from_masks([layer], [np.ones((1, 12, 10), np.bool_)])
    (ours,) = simulate(trace, hardware, tile=(8, 8)).layers.to_dict("records")
    assert ours["tiles"] == ours["active_tiles"] == ours["passes"] == 4
    assert ours["array_cycles"] == sum(formula(dataflow, pixels, 20, 5, 8, 8) for pixels in (64, 16, 32, 8))

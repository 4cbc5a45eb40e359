"""How far is the model from what was published of real machines? Bounds as VALIDATION.md states them."""

import json
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from click.testing import CliRunner

from skipsim.analysis.advice.uncertainty import MODEL_ERROR
from skipsim.analysis.validation import dpacs, dram, eyeriss, gemmini, nvdla, scalesim, tpu
from skipsim.analysis.validation.__main__ import main
from skipsim.analysis.validation.comparison import Comparison, Pair
from skipsim.analysis.validation.dpacs_network import Workload
from skipsim.analysis.validation.oracles import rows
from skipsim.hwmodels.hardware import load_hardware

ORACLES = Path(__file__).parent / "oracles"


def errors(comparison: Comparison, quantity: str, *, calibrated: bool = False, group: str = "") -> list[float]:
    found = [
        abs(pair.error)
        for pair in comparison.pairs
        if pair.quantity == quantity and pair.calibrated == calibrated and pair.group.startswith(group)
    ]
    assert found
    return found


@pytest.fixture(scope="module")
def measured_dpacs() -> Comparison:
    return dpacs.compare(ORACLES)


def test_dpacs_is_calibrated_on_the_dense_rows_of_resnet50_and_on_nothing_else(measured_dpacs):
    fill, launch = dpacs.calibrate(ORACLES)
    for impl in ("serial", "parallel"):
        hardware = load_hardware(f"dpacs-zcu102-{impl}")
        assert hardware.array.fill_cycles == fill
        assert hardware.layer.launch_cycles == round(launch, -2)
    fitted = [pair for pair in measured_dpacs.pairs if pair.calibrated]
    assert [(pair.group, pair.name) for pair in fitted] == [
        ("resnet50 dense", "serial, dense"),
        ("resnet50 dense", "parallel, dense"),
    ]
    assert max(abs(pair.error) for pair in fitted) < 0.015


def test_dpacs_gated_rows_are_predicted(measured_dpacs):
    gated = errors(measured_dpacs, "latency in ms", group="resnet50 gated")
    assert len(gated) == 24
    assert median(gated) < 0.07
    assert max(gated) < 0.16


def test_the_band_of_speedups_takes_the_error_of_nine_in_ten_gated_latencies(measured_dpacs):
    gated = [
        error
        for network in ("resnet50", "resnet101")
        for error in errors(measured_dpacs, "latency in ms", group=f"{network} gated")
    ]
    assert pytest.approx(np.percentile(gated, 90), abs=5e-4) == MODEL_ERROR


def test_dpacs_predicts_a_network_that_it_never_saw(measured_dpacs):
    assert max(errors(measured_dpacs, "latency in ms", group="resnet101 dense")) < 0.01
    gated = errors(measured_dpacs, "latency in ms", group="resnet101 gated")
    assert len(gated) == 24
    assert median(gated) < 0.08
    assert max(gated) < 0.17


def test_dpacs_ranks_designs_and_masks_as_measured(measured_dpacs):
    pairs = [pair for pair in measured_dpacs.pairs if not pair.calibrated]
    order = sorted(pairs, key=lambda pair: pair.published)
    agreeing = total = 0
    for number, one in enumerate(order):
        for other in order[number + 1 :]:
            if other.published > 1.1 * one.published:
                total += 1
                agreeing += other.predicted > one.predicted
    assert agreeing / total > 0.98


def test_dpacs_workloads_are_the_drivers():
    """Calls and kept shares, counted from the driver's own loops."""
    for network, blocks in (("resnet50", 13), ("resnet101", 30)):
        dense, gated = Workload(network, "dense").calls(), Workload(network, "block", 0.5, 0.5).calls()
        # stem, blocks with two projections, last stage: 4 + 4 calls, twice 4, classes: 2 of 512 or 4 of 256
        assert len(dense) == 1 + blocks + 2 + 16 + 2
        assert len(gated) == 1 + blocks + 2 + 16 + 4
    bottlenecks = [call for call in gated if len(call.units) == 3]
    assert len(bottlenecks) == 30
    assert all(call.decides for call in bottlenecks)
    assert {call.layers[0].kept_out_channels for call in bottlenecks} == {None, 128}
    masks = [call.masks[0] for call in bottlenecks if call.layers[0].in_rows == 56]
    assert 0.47 < sum(mask.mean() for mask in masks) / len(masks) < 0.53
    shared = Workload("resnet50", "resolution", 0.5, 0.5).calls()
    assert [call.decides for call in shared if len(call.units) == 3].count(True) == 3


def test_eyeriss():
    comparison = eyeriss.compare(ORACLES)
    assert max(errors(comparison, "active elements")) < 0.001
    latency = errors(comparison, "processing latency in ms")
    assert median(latency) < 0.08
    assert max(latency) < 0.12
    traffic = errors(comparison, "DRAM traffic in MB, coded")
    assert median(traffic) < 0.10
    assert max(traffic) < 0.27


def test_nvdla():
    comparison = nvdla.compare(ORACLES)
    cycles = {(pair.group, pair.name): pair.error for pair in comparison.pairs if pair.quantity == "MAC cycles"}
    assert len(cycles) == 108
    assert sum(error == 0 for error in cycles.values()) == 104
    assert {name for (_, name), error in cycles.items() if error} == {"Conv1", "fc1000"}
    assert max(errors(comparison, "cycles", group="nvdla-full, network")) < 0.07
    assert max(errors(comparison, "cycles", group="nvdla-no-sram, network")) < 0.15
    assert median(errors(comparison, "DRAM cycles", group="nvdla-no-sram, without addition")) < 0.05


def test_machines_that_are_only_like_the_published_ones():
    assert max(errors(tpu.compare(ORACLES), "10^12 operations per second")) < 0.16
    (best, *_) = sorted(errors(gemmini.compare(ORACLES), "utilisation of the array"))
    assert 0.3 < best < 0.5  # the model is faster than the real one; VALIDATION.md says why


def test_systolic_arrays_are_exact():
    found = errors(scalesim.compare(ORACLES), "array cycles")
    assert len(found) == 452
    assert set(found) == {0.0}


def test_the_command_prints_and_writes(tmp_path):
    run = CliRunner().invoke(main, ["eyeriss", "--oracles", str(ORACLES), "--json", str(tmp_path / "v.json")])
    assert run.exit_code == 0, run.output
    assert "Eyeriss" in run.output
    assert "note:" in run.output
    data = json.loads((tmp_path / "v.json").read_text(encoding="utf-8"))
    assert [one["quantity"] for one in data["eyeriss"]["summary"]][:2] == [
        "processing latency in ms",
        "active elements",
    ]
    assert len(data["eyeriss"]["pairs"]) == 20


def test_missing_numbers_are_named(tmp_path):
    run = CliRunner().invoke(main, ["eyeriss", "--oracles", str(tmp_path)])
    assert "no such file; give the folder tests/oracles of a checkout" in str(run.exception)


def test_long_tables_show_the_worst():
    pairs = tuple(Pair(f"layer{number}", "cycles", 100.0, 100.0 + number) for number in range(70))
    comparison = Comparison("machine", "source", pairs, "nothing")
    assert "layer69" in comparison.table(every=False)
    assert "layer1 " not in comparison.table(every=False)
    assert "the worst 10 of 70" in comparison.table(every=False)
    assert "layer1 " in comparison.table()
    assert comparison.summary[0]["median_error"] == pytest.approx(0.345)


def test_repeated_columns_are_told_apart(tmp_path):
    (tmp_path / "file.csv").write_text("a,b  c,a,a\n1,2,3,4\n", encoding="utf-8")
    assert rows("file.csv", tmp_path) == [{"a": "1", "b c": "2", "a.1": "3", "a.2": "4"}]


def test_banked_memory_serves_what_dramsim3_serves_where_order_and_ranks_do_not_matter():
    """One bank, two banks, one bank group: reads served, activates and row hits of 200,000 clocks."""
    comparison = dram.compare(ORACLES)
    assert max(errors(comparison, "reads_served")[1:]) < 0.012  # the first row is the one that two ranks decide
    assert max(errors(comparison, "activates")) < 0.003
    assert max(errors(comparison, "row_hit_percent")) < 0.002
    assert max(errors(comparison, "latency_clocks")) < 0.025


def test_serving_in_order_is_dramsim3_without_a_queue():
    """What FR-FCFS gains on a stream that stays long in a bank group grows with its queue; in order gains nothing."""
    gained = [-pair.error for pair in dram.compare(ORACLES).pairs if pair.group.startswith(dram.REORDERED)]
    assert gained == sorted(gained)
    assert 0 < gained[0] < 0.1

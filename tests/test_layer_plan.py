"""Is the plan by layer recorded with the blocks that it names, as fast as it says, and within the drop?"""

from __future__ import annotations

import json
from dataclasses import replace
from statistics import fmean

import pytest

from skipsim.analysis.advice.decision import decide, decide_all
from skipsim.analysis.advice.find_plan import FOLDER
from skipsim.analysis.advice.layer_plan import Tried, tile_text
from skipsim.analysis.advice.mixtures import GROUPINGS
from skipsim.analysis.recommend import recommend
from skipsim.analysis.results import read_results
from skipsim.analysis.sweep import sweep
from skipsim.hwmodels.hardware import load_hardware
from skipsim.simulator.simulate import simulate
from skipsim.traces.layer import Layer
from skipsim.traces.trace import load_trace

STUDY = """name = "plan"
[recording]
network = "pose_small"
clip = "pose:2000000:static"
frames = 4
threshold = 0.1
block = [2, 8]
[simulation]
hardware = "edge-npu"
tile = ["4x4", "8x8"]
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    (folder / "study.toml").write_text(STUDY)
    sweep(folder / "study.toml", folder / "out", workers=1, progress=False)
    return folder / "out"


@pytest.fixture(scope="module")
def decision(study):
    return decide(study, read_results(study), "edge-npu", 50, workers=1)


def test_it_beats_the_best_uniform_choice(study, decision):
    answer = recommend(read_results(study), "edge-npu", 50)
    assert decision.answer.row["speedup"] == answer.row["speedup"]
    assert decision.plan.uniform_speedup == answer.row["speedup"]
    assert decision.plan.better == (decision.plan.speedup >= answer.row["speedup"] * 1.0005)
    assert decision.plan.quality_drop <= 50


def test_a_mixture_was_recorded_with_its_blocks_and_runs_as_fast_as_said(study, decision):
    plan, machine = decision.plan, load_hardware("edge-npu")
    folder = study / ("traces" if plan.uniform else FOLDER)
    group_of = GROUPINGS[plan.grouping]
    found = []
    for path in sorted(folder.glob("*.trace")):
        trace = load_trace(path)
        blocks = {group_of(layer): f"{layer.block_rows}x{layer.block_cols}" for layer in trace.layers}
        if blocks == dict(plan.blocks) and trace.origin["parameters"]["threshold"] == plan.threshold:
            found.append(trace)
    assert len(found) == 1
    reports = [simulate(trace, machine, tile=plan.tiling) for trace in found]
    assert plan.latency_ms == pytest.approx(fmean(report.latency_ms_per_frame for report in reports))
    assert plan.speedup == pytest.approx(fmean(report.speedup for report in reports))
    names = [trace.quality["headline"] for trace in found]
    drops = [trace.quality[f"dense_{name}"] - trace.quality[name] for trace, name in zip(found, names, strict=True)]
    assert plan.quality_drop == pytest.approx(100 * fmean(drops))


def test_every_gated_layer_is_in_one_group(decision):
    plan = decision.plan
    assert sum(count for _, count, _, _ in plan.groups()) == len(plan.tiling) == len(plan.layers)
    assert list(plan.blocks) == [size for size, *_ in plan.groups()]
    assert plan.dense_layers == [name for name, tile in plan.tiling.items() if tile is None]


def test_it_says_what_is_gained_over_what_and_why_not_more(decision):
    plan = replace(
        decision.plan, blocks={"64x64": "4x4", "32x32": "8x8"}, grouping="map size", speedup=1.5, uniform_speedup=1.2,
        one_block_speedup=1.25, quality_drop=0.5, max_drop=1.0, threshold=0.1, mixtures=[], predicted=1,
    )  # fmt: skip
    assert plan.better
    assert "Speed-up 1.50x, +25.0% over the best block and tile for all layers (1.20x), +20.0% over" in plan.summary
    assert "blocks by map size and tiles by layer, threshold 0.1. Recorded with these blocks" in plan.summary
    lost = [Tried(0.1, {"64x64": "4x4", "32x32": "8x8"}, 1.6, drop) for drop in (1.5, 1.25)]
    one = replace(plan, blocks={"64x64": "4x4", "32x32": "4x4"}, mixtures=lost, predicted=2)
    assert "with one block and tiles by layer" in one.summary
    assert "2 were recorded, and the least that one of them loses is 1.25 points." in one.summary
    slow = replace(one, mixtures=[*lost, Tried(0.1, {}, 1.4, 0.75)])
    assert "of 3 that were recorded, the fastest within the drop reaches 1.40x." in slow.summary
    assert not replace(one, speedup=1.2004).better  # +0.0%
    none = replace(one, speedup=1.2, predicted=0)
    assert none.summary.startswith("No plan by layer beats the best block and tile for all layers")
    assert none.summary.endswith("No mixture of blocks is predicted to be faster.")


def test_words_and_data(decision):
    said = decision.words()
    assert said.startswith(decision.answer.words())
    assert f"{decision.plan.speedup:.2f}x" in said or not decision.plan.better
    data = decision.to_dict()
    assert json.loads(json.dumps(data["plan"])) == data["plan"]
    assert set(data["plan"]["tiles"]) == {layer.label for layer in decision.plan.layers}


def test_a_second_time_nothing_is_recorded_again(study, decision):
    before = {path: path.stat().st_mtime_ns for path in study.glob(f"{FOLDER}/*/manifest.json")}
    (again,) = decide_all(study, read_results(study), 50, workers=1).values()
    assert {path: path.stat().st_mtime_ns for path in study.glob(f"{FOLDER}/*/manifest.json")} == before
    assert again.to_dict() == decision.to_dict()


def test_without_torch_there_is_a_plan_of_one_block(study, monkeypatch):
    monkeypatch.setattr("skipsim.analysis.advice.find_plan.find_spec", lambda name: None)
    plan = decide(study, read_results(study), "edge-npu", 50).plan
    assert plan.uniform
    assert not plan.mixtures
    assert not plan.predicted or "needs PyTorch" in plan.summary


def test_tiles_are_named_by_what_they_cover():
    layer = Layer("any", 1, 16, 12, 1, 16, 12)
    names = [tile_text(tile, layer) for tile in (None, (64, 64), (4, 4), (4, 1 << 30), (1, 12), (16, 4))]
    assert names == ["dense", "whole map", "4x4", "4 rows", "1 row", "16x4"]

"""Does the experiment choose thresholds as it says, keep what it has measured, and name what it leaves out?"""

from __future__ import annotations

import json
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from skipsim.analysis import accuracy
from skipsim.analysis.accuracy import Bench, Table, read_rows, run
from skipsim.analysis.accuracy_points import (
    AS_TRAINED,
    BLOCKS,
    CLIPS,
    MOST_SAVING,
    NETWORKS,
    POINTS_ALLOWED,
    SEEDS_OF,
    SMALLER,
    STRICTLY,
    THRESHOLDS,
    Point,
    cameras_of,
    candidates,
    families,
    scored_on,
)
from skipsim.analysis.accuracy_report import SCORED, describe, scored_rows
from skipsim.analysis.tune import chosen
from skipsim.errors import InputError
from skipsim.traces.datasets import SPLITS
from skipsim.traces.gumbel import weights_hash
from skipsim.traces.models import WEIGHTS, network
from skipsim.traces.procedural.vehicle_clips import vehicle_clips


def test_every_axis_of_the_experiment_is_there() -> None:
    points = list(families("pose"))
    assert len({point.key() for point in points}) == len(points)
    for method in ("tuned", "input_norm", "output_norm", "gumbel"):
        assert {point.block for point in points if point.method == method} == set(BLOCKS)
    assert {(point.seed, point.block) for point in points if point.method == "gumbel"} == {
        *((seed, block) for seed in (0, 1, 2) for block in (1, 4, 8)),
        *((0, block) for block in (2, 16)),
    }
    forms = {(point.update, point.reset_every) for point in points if point.method == "input_norm" and point.block == 4}
    assert forms == {(update, reset) for update in ("recompute", "accumulate", "previous") for reset in (0, 4, 8)}
    assert {"hold", *SMALLER, "narrow"} <= {point.method for point in points}
    assert {point.share for point in points} == {"layer", "block", "network"}
    assert {one.threshold for one in candidates(Point("pose", 0, "input_norm"))} == set(THRESHOLDS["input_norm"])


def test_a_second_run_measures_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[Point] = []

    def measure(self: Bench, point: Point) -> dict[str, Any]:
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(point)
        drop = (point.threshold or 0) * 10 - 0.5  # 0.1 is the last one that may be chosen
        return {**point.__dict__, "drop_points": drop, "mac_reduction": 1 + (point.threshold or 0)}

    monkeypatch.setattr(Bench, "measure", measure)
    monkeypatch.setattr(accuracy, "families", lambda task: iter([Point(task, 0, "input_norm", 4)]))
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a.csv", ["pose"], None, say=said.append)
    assert len(read_rows(tmp_path / "a.csv")) == 2
    done, measured[:] = list(measured), []
    monkeypatch.setattr(Bench, "measure", lambda self, point: _kept(measured, point))
    run(tmp_path / "a.csv", ["pose"], None, say=said.append)
    assert not set(done) & set(measured)
    rows = read_rows(tmp_path / "a.csv")
    assert [(found["camera"], float(found["threshold"])) for found in rows if found["split"] == "fresh"] == [
        ("static", 0.1),
        ("pan", 0.1),
    ]
    before = list(measured)
    run(tmp_path / "a.csv", ["pose"], None, say=said.append)
    assert measured == before


def _kept(measured: list[Point], point: Point) -> dict[str, Any]:
    measured.append(point)
    threshold = point.threshold or 0
    return {**point.__dict__, "drop_points": threshold * 10 - 0.5, "mac_reduction": 1 + threshold}


def test_points_without_weights_are_left_out_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "families", lambda task: iter([Point(task, 2, "gumbel", 8)]))
    said: list[str] = []
    run(tmp_path / "a.csv", ["pose"], tmp_path, say=said.append)
    assert said == ["left out, no weights: pose gumbel b=8 seed 2"]
    assert not (tmp_path / "a.csv").exists()


def test_weights_are_found_by_name(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    point = Point("pose", 1, "gumbel", 4)
    assert bench.weights(point) is None
    (tmp_path / "pose_small_gumbel_4_seed1.safetensors").touch()
    assert bench.weights(point) == tmp_path / "pose_small_gumbel_4_seed1.safetensors"
    shipped = bench.weights(Point("pose", 0, "input_norm"))
    assert shipped is not None
    assert shipped.name == "pose_small.safetensors"


def test_gates_trained_alone_run_on_the_network_of_their_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network("pose_small")
    with torch.no_grad():
        model.conv1.weight.mul_(1.01)
    save_file(model.state_dict(), tmp_path / "pose_small_seed1.safetensors")
    shipped, name = WEIGHTS / "pose_small_gumbel_4.safetensors", "pose_small_gumbel_4_seed1.safetensors"
    with safe_open(shipped, "pt") as file:
        (key,) = file.metadata()
        header = json.loads(file.metadata()[key]) | {"network": weights_hash(model)}
    save_file(load_file(shipped), tmp_path / name, {key: json.dumps(header)})
    monkeypatch.setattr(accuracy, "CLIPS", {("pose", "validation"): (1, 3, 0)})
    row = Bench(tmp_path).measure(Point("pose", 1, AS_TRAINED, 4))
    assert row["mac_reduction"] > 1
    assert row["dense_score"] == Bench(tmp_path).measure(Point("pose", 1, "hold", reset_every=1))["score"]


def test_a_point_is_measured_against_the_dense_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "CLIPS", {("pose", "validation"): (1, 4, 0), ("pose", "train"): (1, 3, 0)})
    bench = Bench(None)
    hold = bench.measure(Point("pose", 0, "hold", reset_every=2))
    assert hold["mac_reduction"] == 2  # two of four frames
    exact = bench.measure(Point("pose", 0, "input_norm", 4, threshold=0.0))
    assert exact["drop_points"] == pytest.approx(0, abs=1e-9)
    assert exact["mac_reduction"] < 1  # nothing is skipped in noise, and the gates cost
    tuned = [bench.measure(Point("pose", 0, "tuned", 4, threshold=aim)) for aim in (1.5, 6.0)]
    assert tuned[0]["gated_mac_reduction"] < tuned[1]["gated_mac_reduction"]
    small = bench.measure(Point("pose", 0, "resolution", threshold=0.5))
    assert small["mac_reduction"] == pytest.approx(4, rel=0.01)
    assert small["metric"] == "pck@0.05"


def test_the_strict_choice_takes_the_upper_end_of_the_interval() -> None:
    row = {"split": "sure", "drop_points": 0.1, "drop_high": 0.7}
    assert accuracy.judged(row)["drop_points"] == 0.7
    assert accuracy.judged({**row, "split": "choice"})["drop_points"] == 0.1
    points = list(families("pose"))
    assert len({point.key() for point in points}) == len(points)
    strict = [point for point in points if point.split == "sure"]
    assert {(point.seed, point.method) for point in strict} == set(product((0, 1, 2), ("gumbel", AS_TRAINED, "tuned")))
    assert {scored_on(point) for point in strict} == {"many"}
    assert {cameras_of(point) for point in strict} == {("static",)}
    assert {(seed, "gumbel", 1, camera) for seed in (0, 1, 2) for camera in ("static", "pan")} <= {
        (point.seed, point.method, point.block, camera) for point in points for camera in cameras_of(point)
    }


def test_a_choice_by_saving_looks_at_no_loss() -> None:
    rows = [{"split": "saving", "drop_points": lost, "mac_reduction": saved, "threshold": saved} for saved, lost in (
        (2.9, 9.0), (MOST_SAVING, 7.0), (3.3, -1.0)
    )]  # fmt: skip
    assert chosen([accuracy.judged(row) for row in rows], POINTS_ALLOWED)["threshold"] == MOST_SAVING
    (found, *others) = [point for point in families("detection") if point.split == "saving"]
    assert [scored_on(point) for point in (found, *others)] == ["many"] * 3
    assert cameras_of(found) == ("static",)


def test_a_main_row_has_the_interval_of_its_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CLIPS, ("detection", "sure"), (2, 2, 3000))
    bench = Bench(None)
    exact = bench.measure(Point("detection", 0, "input_norm", 4, threshold=0.0, split="sure"))
    assert (exact["drop_points"], exact["drop_low"], exact["drop_high"]) == pytest.approx((0, 0, 0), abs=0.01)
    blind = bench.measure(Point("detection", 0, "resolution", threshold=0.5, split="sure"))
    assert 10 < blind["drop_low"] <= blind["drop_points"] <= blind["drop_high"]


def test_a_main_row_of_pose_has_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CLIPS, ("pose", "sure"), (2, 2, 3000))
    blind = Bench(None).measure(Point("pose", 0, "resolution", threshold=0.5, split="sure"))
    assert 10 < blind["drop_low"] <= blind["drop_points"] <= blind["drop_high"]


def test_boxes_found_in_a_smaller_picture_are_scored_in_the_clips_own() -> None:
    (clip,) = vehicle_clips("validation", 1, frames=2, rows=64, cols=64)
    detections = []
    for frame in range(2):
        here = clip.labels.of_frame(frame) & ~clip.labels.ignored
        count = int(here.sum())
        detections.append(np.column_stack((clip.labels.box[here] / 2, np.ones(count), clip.labels.label[here])))
    assert accuracy._scorer("detection", [clip], (32, 32, 3))(detections)["ap"] == pytest.approx(1)
    assert accuracy._scorer("detection", [clip], (64, 64, 3))(detections)["ap"] < 0.5


def test_another_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"a.csv: not a table of accuracies; columns needed: block, camera"):
        Table(tmp_path / "a.csv")


@pytest.mark.checkout
def test_the_table_in_the_document_is_that_of_the_measured_rows() -> None:
    root = Path(__file__).parents[1]
    for task in NETWORKS:
        table = describe(scored_rows(root / "docs/accuracy.csv"), task)
        assert table in (root / "VALIDATION.md").read_text(encoding="utf-8")
        assert len(table.splitlines()) > 4


@pytest.mark.checkout
def test_every_scored_row_was_chosen_on_other_clips() -> None:
    ladders: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    rows = read_rows(Path(__file__).parents[1] / "docs/accuracy.csv")
    assert rows
    names = [field.name for field in fields(Point) if field.name not in ("threshold", "split")]
    for found in rows:
        if found["split"] in ("validation", "choice", STRICTLY[found["task"]]):
            family = tuple(found[name] for name in names)
            ladders.setdefault((*family, str(found["split"] in STRICTLY.values())), []).append(accuracy.judged(found))
    best = {family: chosen(tried, POINTS_ALLOWED)["threshold"] for family, tried in ladders.items()}
    scored = set()
    for found in rows:
        if found["split"] in SCORED and found["method"] in THRESHOLDS:
            family = (*(found[name] for name in names), str(found["split"] == "many"))
            assert found["threshold"] == best[family]
            scored.add(family)
    # A strict choice takes hours, and its ladder is kept while it is under way.
    assert scored == {family for family in ladders if family[-1] == "False" or family in scored}


def test_no_clip_has_two_uses() -> None:
    for task in NETWORKS:
        used: set[int] = set()
        for (of, split), (count, _, first) in CLIPS.items():
            if of == task:
                seeds = set(SPLITS[SEEDS_OF.get(split, split)][first : first + 2 * count])
                assert not used & seeds
                used |= seeds

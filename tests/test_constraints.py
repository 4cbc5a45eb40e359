"""Are a study's constraints read as they are meant, without evaluating anything, and do contradictions get one line?"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from skipsim.analysis.constraints import Constraint, read_constraints
from skipsim.analysis.pareto import on_front
from skipsim.analysis.study import Study, load_study
from skipsim.analysis.sweep import sweep
from skipsim.errors import InputError
from skipsim.hwmodels.area import area_mm2
from skipsim.hwmodels.hardware import load_hardware
from skipsim.traces.synthetic import synthetic_trace

STUDY = """
name = "bounds"
constraints = [CONSTRAINTS]
[recording]
trace = ["a.trace", "b.trace"]
[simulation]
hardware = ["edge-npu", "auto-npu"]
tile = ["4x4", "8x8"]
"dram.bytes_per_cycle" = [8, 16]
"""
COLUMNS = ("latency_ms", "area_mm2", "dram.bytes_per_cycle", "gate.placement", "network")


def read(*texts: str) -> list[Constraint]:
    return read_constraints(texts, COLUMNS, ("network",))


def study(folder: Path, constraints: str) -> Study:
    file = folder / "study.toml"
    file.write_text(STUDY.replace("CONSTRAINTS", constraints))
    return load_study(file)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("latency_ms <= 1e1", 10, 10.001),
        ("latency_ms<10", 9.9, 10),
        ("latency_ms >= -.5", -0.5, -0.6),
        (" latency_ms > 2.5 ", 3, 2.5),
        ("dram.bytes_per_cycle == 8", 8, 9),
        ("dram.bytes_per_cycle != 8", 9, 8),
        ("network == pose_small", "pose_small", "hrnet_w32"),
        ("network != 'pose_small'", "hrnet_w32", "pose_small"),
        ("gate.placement == fused", "fused", "separate"),
    ],
)
def test_a_bound(text: str, inside: float | str, outside: float | str) -> None:
    (one,) = read(text)
    assert one.holds(inside)
    assert not one.holds(outside)
    assert one.violation(inside) == 0 < one.violation(outside)
    assert not Constraint("latency_ms", "<=", 1.0).holds(math.nan)
    assert not Constraint("latency_ms", "<=", 1.0).holds(pd.NA)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["latency_ms"], 'must be "COLUMN <=|>=|<|>|==|!= VALUE", for example "area_mm2 <= 10", not \'latency_ms\''),
        (["__import__('os') <= 1"], "must be"),
        (["latncy_ms <= 1"], "no column 'latncy_ms' in 'latncy_ms <= 1'; did you mean 'latency_ms'?"),
        (["latency_ms <= fast"], "'fast' in 'latency_ms <= fast' is not a number"),
        (["latency_ms <= nan"], "is not a number"),
        (["network <= 3"], "network is text, so only == and != compare it, not 'network <= 3'"),
        (["area_mm2 <= 1", "area_mm2 >= 2"], "no value satisfies 'area_mm2 <= 1' and 'area_mm2 >= 2'"),
        (["area_mm2 < 1", "area_mm2 >= 1"], "no value satisfies"),
        (["area_mm2 == 1", "area_mm2 != 1"], "no value satisfies"),
        (["network == a", "network == b"], "no value satisfies 'network == a' and 'network == b'"),
    ],
)
def test_a_mistake_is_one_line(texts: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read(*texts)
    assert "\n" not in str(caught.value)


def test_bounds_that_leave_something_are_no_contradiction() -> None:
    assert len(read("area_mm2 > 1", "area_mm2 < 1.0001", "area_mm2 != 1.00001")) == 3
    assert len(read("network != a", "network != b")) == 2


def test_what_is_known_beforehand_is_left_out(tmp_path: Path) -> None:
    edge = area_mm2(load_hardware("edge-npu"))["total"]
    assert edge < area_mm2(load_hardware("auto-npu"))["total"]
    some = study(tmp_path, f'"area_mm2 <= {edge + 0.001}", "tile != 8x8", "dram.bytes_per_cycle > 8"')
    assert [choice.columns() for choice in some.simulation_choices()] == [
        {"hardware": "edge-npu", "tile": "4x4", "dram.bytes_per_cycle": 16}
    ]
    assert {choice.tile for choice in study(tmp_path, '"cores >= 1"').simulation_choices()} == {"4x4", "8x8"}


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        ('"area_mm2 <= 0.001"', "constraints: no combination has 'area_mm2 <= 0.001'; the axes go from "),
        ('"hardware == edge"', "constraints: no combination has 'hardware == edge'"),
        ('"area_mm2 <= 1", "area_mm2 > 1"', "constraints: no value satisfies 'area_mm2 <= 1' and 'area_mm2 > 1'"),
        ('"area_mm <= 1"', "constraints: no column 'area_mm' in 'area_mm <= 1'; did you mean 'area_mm2'?"),
        ("3", "constraints: must be"),
    ],
)
def test_a_study_with_nothing_left_is_one_line(tmp_path: Path, constraints: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        study(tmp_path, constraints).simulation_choices()
    assert str(caught.value).startswith("study ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_only_a_simulation_tells_marks_rows(tmp_path: Path) -> None:
    for name, density, block in (("a", 0.2, 4), ("b", 0.6, 8)):
        synthetic_trace("pose_small", rows=64, cols=64, frames=3, density=density, cluster_pixels=8, block=block).save(
            tmp_path / f"{name}.trace"
        )
    study(tmp_path, '"mac_reduction >= 1.7", "latency_ms > 0"')
    table = sweep(tmp_path / "study.toml", tmp_path / "out", 1)
    assert len(table) == 16
    fewer = table["mac_reduction"] < 1.7
    assert set(table["clip"][fewer]) == {"b.trace"}
    assert (table["violates"] == np.where(fewer, "mac_reduction >= 1.7", "")).all()
    assert table["on_front"][~fewer].sum() == 1, "without accuracy only the fastest is on the front"
    assert table["latency_ms"][table["on_front"] == 1].item() == table["latency_ms"][~fewer].min()


def test_the_front_is_that_of_the_mean_over_clips(tmp_path: Path) -> None:
    rows = [
        # latency and points lost of two clips: means (2, 1), (3, 0.5), (4, 2), and one that fails on a clip
        ("1x1", "a", 1.0, 2.0, ""),
        ("1x1", "b", 3.0, 0.0, ""),
        ("2x2", "a", 3.0, 0.5, ""),
        ("2x2", "b", 3.0, 0.5, ""),
        ("4x4", "a", 0.5, 3.0, ""),
        ("4x4", "b", 7.5, 1.0, ""),
        ("8x8", "a", 0.1, 0.1, "broken"),
        ("8x8", "b", 0.1, 0.1, ""),
    ]
    names = ["configuration", "clip", "latency_ms", "quality_drop", "error"]
    table = pd.DataFrame(rows, columns=names).assign(group=0)
    table["fails"] = table["error"] != ""
    assert on_front(table, ("latency_ms", "quality_drop")).tolist() == [1, 1, 1, 1, 0, 0, 0, 0]

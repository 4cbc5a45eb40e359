"""Can gates be compared with a narrower network, smaller pictures and held results, in one study and one figure?"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from safetensors.torch import save_file
from torch import nn

from skipsim.analysis.advice.decision import decide, decide_all
from skipsim.analysis.figures.alternatives_figure import alternatives_figure, has_alternatives
from skipsim.analysis.figures.mark_names import name_marks
from skipsim.analysis.inputs.gated_network import Gating, gated_network
from skipsim.analysis.plots import draw_all
from skipsim.analysis.recommend import recommend
from skipsim.analysis.report.page import write_report
from skipsim.analysis.results import gated_rows, make_table, mean_over_clips
from skipsim.analysis.search import space_of, trial_of
from skipsim.analysis.study import load_study
from skipsim.analysis.sweep import sweep
from skipsim.errors import InputError
from skipsim.hwmodels.hardware import load_hardware
from skipsim.simulator.simulate import simulate
from skipsim.traces.record import record
from skipsim.traces.trace import load_trace

OWN = """
from torch import manual_seed, nn

def make():
    manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3))
"""
STUDY = """
name = "cheaper"
[[recording]]
network = "own_network:make"
clip = ["clip.npy", "other.npy"]
gate = ["none", "input_norm", "hold"]
threshold = 0.05
block = [1, 4]
reset_every = 2
[[recording]]
network = "own_network:make"
clip = ["clip.npy", "other.npy"]
size = ["12x16", [6, 8]]
gate = "none"
[[recording]]
network = "own_network:make"
weights = "other.safetensors"
clip = ["clip.npy", "other.npy"]
gate = "none"
[simulation]
hardware = "edge-npu"
tile = "auto"
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "own_network.py").write_text(OWN, encoding="utf-8")
    rng = np.random.default_rng(1)
    for name in ("clip.npy", "other.npy"):
        clip = np.repeat(rng.integers(0, 256, (1, 18, 20, 3), np.uint8), 3, axis=0)
        clip[1:, 4:9, 5:9] = rng.integers(0, 256, 3)
        np.save(tmp_path / name, clip)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3))
    save_file(network.state_dict(), tmp_path / "other.safetensors")
    file = tmp_path / "study.toml"
    file.write_text(STUDY, encoding="utf-8")
    return file


def test_sizes_and_weights_of_one_network_are_rows_of_their_own(study: Path, tmp_path: Path) -> None:
    table = sweep(study, tmp_path / "out", 1)
    assert (table["error"] == "").all()
    own = "own_network:make"
    assert list(dict.fromkeys(table["network"])) == [
        own,
        "own_network:make 12x16",
        "own_network:make 6x8",
        "own_network:make other",
    ]
    means = mean_over_clips(table)
    assert set(means["clip"]) == {"2 clips"}
    gates = list(means[means["network"] == own][["gate", "block", "reset_every"]].itertuples(index=False, name=None))
    assert gates == [
        ("none", "1x1", 0),  # once, whatever the axes of gates are
        ("input_norm", "1x1", 2), ("input_norm", "4x4", 2),
        ("hold", "1x1", 2),  # decides nothing by block
    ]  # fmt: skip
    bare = means[means["gate"] == "none"]
    assert bare["mac_reduction"].tolist() == bare["speedup"].tolist() == bare["quality"].tolist() == [1.0] * 4
    sizes = bare.set_index("network")["dense_latency_ms"]
    assert sizes["own_network:make 12x16"] < sizes[own]
    # Weights change no time, sizes do; each network has a front of its own, since points are lost of its own accuracy.
    assert sizes["own_network:make other"] == sizes[own]
    assert (table.groupby("network")["on_front"].max() == 1).all()

    assert recommend(table, "edge-npu", 100.0).row["network"] == own  # the only one with gates
    several = pd.concat([table, table.assign(network="other")])
    with pytest.raises(
        InputError, match=r"recommend: the table has several networks; name one of: other, own\w+:make$"
    ):
        recommend(several, "edge-npu", 100.0)
    assert recommend(table, "edge-npu", 100.0, network=own).row["gate"] == "hold"
    with pytest.raises(InputError, match="recommend: no row has gates for 'own_network:make 6x8' on 'edge-npu'"):
        recommend(table, "edge-npu", network="own_network:make 6x8")
    decisions = decide_all(tmp_path / "out", table, 100.0)
    assert list(decisions) == [(own, "edge-npu")]
    write_report(tmp_path / "out", tmp_path / "page.html", max_drop=100.0)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert all(name in page for name in sizes.index)
    gated = gated_rows(table)
    assert set(gated["gate"]) == {"input_norm", "hold"}
    assert gated_rows(table[table["gate"] == "none"])["gate"].tolist() == ["none"] * 8
    assert {file.stem for file in draw_all(tmp_path / "out", decisions)} >= {"gates", "latency-accuracy"}


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("[96, 64]", [(96, 64)]),
        ('"96x64"', [(96, 64)]),
        ('["96x64", "64x64"]', [(96, 64), (64, 64)]),
        ('[[96, 64], "64x64", [96, 64]]', [(96, 64), (64, 64)]),
    ],
)
def test_how_sizes_are_written(tmp_path: Path, size: str, expected: list[tuple[int, int]]) -> None:
    file = tmp_path / "s.toml"
    file.write_text(
        f'name = "s"\n[recording]\nnetwork = "pose_small"\nclip = "pose:1"\ngate = "none"\nsize = {size}\n'
        '[simulation]\nhardware = "edge-npu"\n',
        encoding="utf-8",
    )
    choices = load_study(file).recording_choices()
    assert [choice.size for choice in choices] == expected
    assert [choice.columns()["network"] for choice in choices] == [
        f"pose_small {rows}x{cols}" for rows, cols in expected
    ]


def test_a_networks_usual_size_is_the_same_size_said_or_not(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    table = '[[recording]]\nnetwork = "pose_small"\nclip = "pose:1"\ngate = "none"\n'
    file.write_text(
        f'name = "s"\n{table}{table}size = [128, 128]\n[simulation]\nhardware = "edge-npu"\n', encoding="utf-8"
    )
    assert {choice.columns()["network"] for choice in load_study(file).recording_choices()} == {"pose_small"}


def test_weights_of_one_name_in_two_folders_are_told_apart(tmp_path: Path) -> None:
    tables = [
        f'[[recording]]\nnetwork = "pose_small"\nclip = "pose:1"\ngate = "none"\nweights = "{name}"\n'
        for name in ("a/w.safetensors", "b/w.safetensors", "c.safetensors")
    ]
    file = tmp_path / "s.toml"
    file.write_text('name = "s"\n' + "".join(tables) + '[simulation]\nhardware = "edge-npu"\n', encoding="utf-8")
    assert [choice.columns()["network"] for choice in load_study(file).recording_choices()] == [
        "pose_small a/w", "pose_small b/w", "pose_small c",
    ]  # fmt: skip


@pytest.mark.parametrize("size", ["[96]", "[0, 96]", '"96"', "[[96, 64], 5]", "[96.5, 64]", "true"])
def test_a_size_that_is_none_is_one_line(tmp_path: Path, size: str) -> None:
    file = tmp_path / "s.toml"
    file.write_text(
        f'name = "s"\n[recording]\nnetwork = "pose_small"\nclip = "pose:1"\ngate = "none"\nsize = {size}\n'
        '[simulation]\nhardware = "edge-npu"\n',
        encoding="utf-8",
    )
    with pytest.raises(InputError, match=r"recording.size: must be \[rows, cols\], whole numbers >= 1, not .*; or a"):
        load_study(file)


def test_weights_of_a_later_table_are_checked_before_anything_runs(study: Path, tmp_path: Path) -> None:
    (tmp_path / "other.safetensors").unlink()
    with pytest.raises(InputError, match=r"weights .*other\.safetensors: no such file"):
        sweep(study, tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()


def point(network: str, gate: str, latency: float, quality: float, **more: Any) -> dict[str, Any]:
    dense = {"wide": (2.0, 0.95), "wide 32x32": (1.0, 0.93), "thin": (0.5, 0.2)}[network]
    return {
        "network": network, "gate": gate, "clip": "a", "hardware": "chip", "tile": "full", "block": "1x1",
        "loop": "closed", "quality_metric": "pck@0.05", "latency_ms": latency, "dense_latency_ms": dense[0],
        "quality": quality, "dense_quality": dense[1], "quality_drop": 100 * (dense[1] - quality), **more,
    }  # fmt: skip


POINTS = [
    point("wide", "input_norm", 1.5, 0.945),
    point("wide", "input_norm", 1.2, 0.94),
    point("wide", "input_norm", 1.6, 0.93),  # beaten by both
    point("wide", "hold", 1.0, 0.5),  # too bad to be seen
    point("wide 32x32", "none", 4.0, 0.93),  # in the study's tiles; the star stands at the dense schedule's own
    point("thin", "none", 0.5, 0.2),
]


def test_the_figure_has_a_star_by_name_for_each_network_and_a_line_for_each_gate() -> None:
    figure = alternatives_figure(make_table(POINTS), 1.0)
    (axis,) = figure.axes
    stars = [line.get_xydata().tolist()[0] for line in axis.lines if line.get_marker() == "*"]
    assert stars == [[2.0, 95.0], [1.0, 93.0]]
    line = next(line for line in axis.lines if line.get_marker() == "o")
    assert np.asarray(line.get_xydata()) == pytest.approx(np.array([[1.2, 94.0], [1.5, 94.5]]))
    assert [text.get_text() for text in axis.texts] == ["\u2193 thin; hold", "wide", "32x32"]
    low, high = axis.get_ylim()
    assert (low, high) == (pytest.approx(84.7), pytest.approx(95.8))
    assert axis.get_xlim() == (0, pytest.approx(2.5))
    assert axis.get_ylabel() == "PCK@0.05 [%]"
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["input_norm", "hold", "dense, by name", "\u2264 1 lost"]


def test_only_networks_scored_alike_are_compared() -> None:
    table = make_table(POINTS)
    assert has_alternatives(table)
    assert not has_alternatives(table[table["network"] == "wide"])
    assert not has_alternatives(table.assign(quality_metric="agreement"))  # each with its own dense output
    assert not has_alternatives(table.assign(quality_metric=["pck@0.05"] * 5 + ["ap"]))
    with pytest.raises(InputError, match="alternatives figure: needs several networks, sizes or weights, scored alike"):
        alternatives_figure(table.assign(quality=float("nan")), 1.0)


def test_groups_of_clips_are_rows_of_panels() -> None:
    rows = [{**one, "group": group, "clip": group} for group in ("static", "pan") for one in POINTS]
    with warnings.catch_warnings(action="error"):  # a mark outside of the panels would leave them no room
        figure = alternatives_figure(pd.DataFrame(make_table(rows)), 1.0)
    assert [axis.get_ylabel() for axis in figure.axes] == ["static clips\nPCK@0.05 [%]", "pan clips\nPCK@0.05 [%]"]
    assert [axis.get_title() for axis in figure.axes] == ["chip", ""]


def test_a_name_stands_where_it_hides_no_mark() -> None:
    figure = Figure(figsize=(2, 2))
    axis = figure.subplots()
    axis.plot([1, 1.2, 0.8, 1.05], [1, 1, 1, 0.9], "o")  # marks on both sides and below
    axis.set_xlim(0, 2)
    axis.set_ylim(0, 2)
    name_marks(axis, {"first": (1, 1), "edge": (2, 1.7), "second": (1, 1)})
    sides = {text.get_text(): (text.get_ha(), text.get_va()) for text in axis.texts}
    assert (sides["first"], sides["edge"]) == (("center", "bottom"), ("right", "center"))
    assert sides["second"] != sides["first"], "names do not hide each other either"


def test_traces_of_several_sizes_are_networks_of_their_own(study: Path, tmp_path: Path) -> None:
    sweep(study, tmp_path / "out", 1)
    traces = sorted(str(path) for path in (tmp_path / "out" / "traces").iterdir())
    names = ", ".join(f'"{name}"' for name in traces)
    file = tmp_path / "traces.toml"
    text = f'name = "t"\n[recording]\ntrace = [{names}]\n[simulation]\nhardware = "edge-npu"\n'
    file.write_text(text, encoding="utf-8")
    table = sweep(file, tmp_path / "again", 1)
    sizes = ("18x20", "12x16", "6x8")
    assert set(table["network"]) == {f"own_network:make {size}" for size in sizes}
    bare = table[table["gate"] == "none"]
    assert (bare["dense_quality"] == 1).all(), "the network itself"


@pytest.mark.parametrize("machine", ["edge-npu", "auto-npu"])
def test_a_held_network_takes_its_share_of_the_dense_time(machine: str) -> None:
    frames = list(np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8))
    for every in (1, 2, 3):
        trace = record(gated_network("pose_small", Gating("hold", reset_every=every)), frames, progress=False)
        for tile in ("auto", "4x4"):
            report = simulate(trace, load_hardware(machine), tile)
            assert report.dense is not None
            assert report.cycles * every == report.dense.cycles
            assert report.dram_read_bytes * every == report.dense.dram_read_bytes
            assert report.energy_uj * every == pytest.approx(report.dense.energy_uj)


def test_hold_takes_the_numbers_that_are_its_own(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    table = '[recording]\nnetwork = "pose_small"\nclip = "pose:1"\ngate = ["hold", "input_norm"]\nthreshold = 0.1\n'
    file.write_text(f'name = "s"\n{table}reset_every = [0, 2]\n[simulation]\nhardware = "edge-npu"\n', encoding="utf-8")
    choices = [(one.gate, one.reset_every) for one in load_study(file).recording_choices()]
    assert choices == [("hold", 2), ("input_norm", 0), ("input_norm", 2)]
    with pytest.raises(InputError, match=r"gate 'hold': needs reset_every, .*, got None"):
        Gating("hold")
    with pytest.raises(InputError, match=r"gate 'hold': goes by the frame's number, .* no threshold, got 0\.1"):
        Gating("hold", 0.1, reset_every=2)


def test_names_that_would_be_alike_stay_whole_and_every_gate_has_a_line() -> None:
    networks = ("wide 32x32", "thin 32x32")
    rows = [
        {**point("wide", f"gate {number}", 1.0 + number / 10, 0.94), "network": network}
        for network in networks
        for number in range(6)
    ]
    figure = alternatives_figure(make_table(rows), 1.0)
    (axis,) = figure.axes
    assert sorted(text.get_text() for text in axis.texts) == ["thin 32x32", "wide 32x32"]
    assert len([line for line in axis.lines if line.get_marker() not in ("*", "None")]) == 12
    assert len(figure.legends[0].get_texts()) == 12 + 2


def test_a_plan_by_layer_where_thresholds_leave_a_layer_dense_in_large_blocks(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text(
        'name = "s"\n[recording]\nnetwork = "pose_small"\nclip = "pose:1"\nframes = 3\ngate = "tuned"\nblock = [4, 8]\n'
        '[simulation]\nhardware = "edge-npu"\ntile = "8x8"\n',
        encoding="utf-8",
    )
    table = sweep(file, tmp_path / "out", 1)
    traces = [load_trace(path) for path in (tmp_path / "out" / "traces").iterdir()]
    assert len({tuple(layer.gate for layer in trace.layers) for trace in traces}) == 2
    decision = decide(tmp_path / "out", table, "edge-npu", 100.0, workers=1)
    assert decision.plan is not None
    assert decision.plan.speedup > 0


def test_a_search_names_networks_as_its_plan_does(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text(
        'name = "s"\n[recording]\nnetwork = "pose_small"\nclip = "pose:1"\ngate = "hold"\nreset_every = 2\n'
        "size = [96, 96]\n"
        '[simulation]\nhardware = "edge-npu"\n[search]\ntrials = 1\n',
        encoding="utf-8",
    )
    study = load_study(file)
    trial = trial_of(study, {one.name: 0 for one in space_of(study)})
    found = [choice.columns()["network"] for choice in (*trial.recordings, *study.recording_choices())]
    assert found == ["pose_small 96x96"] * 2

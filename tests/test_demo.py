"""Does the demo go the whole way, from frames to figures and an answer in words, and go on where it was stopped?"""

from __future__ import annotations

import pytest

from skipsim import InputError
from skipsim.analysis.demo import MAX_DROP_POINTS, STUDY, demo
from skipsim.analysis.figures.variants import gate_name
from skipsim.analysis.recommend import recommend
from skipsim.analysis.results import mean_over_clips, read_results
from skipsim.analysis.study import load_study

SMALL = """name = "demo"
[[recording]]
network = "pose_small"
clip = { static = "pose:2000000:static", pan = "pose:2000001:pan" }
frames = 4
threshold = [0, 0.1]
block = [1, 8]
[[recording]]
network = "pose_small"
clip = { static = "pose:2000000:static", pan = "pose:2000001:pan" }
frames = 4
gate = ["tuned", "gumbel"]
block = 4
[[recording]]
network = "pose_small"
clip = { static = "pose:2000000:static", pan = "pose:2000001:pan" }
frames = 4
threshold = 0.1
block = 8
loop = "open"
[simulation]
hardware = ["edge-npu", "systolic-32x32"]
tile = ["4x4", "8x8"]
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "out"
    said = []
    return folder, demo(folder, workers=1, study=SMALL, say=said.append), "\n".join(said)


def test_answers_are_the_fastest_rows_within_the_drop(small):
    folder, answers, _ = small
    table = read_results(folder)
    assert len(table) == 2 * 2 * 2 * (2 * 2 + 2 + 1), (
        "clips, machines, tiles, and thresholds x blocks, two shipped gates, and one more in open loop"
    )
    assert (table["error"] == "").all()
    assert [answer.hardware for answer in answers] == ["edge-npu", "systolic-32x32"]
    for answer in answers:
        rows = mean_over_clips(table[(table["hardware"] == answer.hardware) & (table["loop"] == "closed")])
        allowed = rows[rows["quality_drop"] <= MAX_DROP_POINTS + 1e-9]
        assert answer.row["speedup"] == allowed["speedup"].max()
        assert answer.row["quality_drop"] <= MAX_DROP_POINTS + 1e-9


def test_threshold_0_on_noisy_frames_loses_nothing_and_skips_nothing(small):
    table = read_results(small[0])
    exact = table[table["threshold"] == 0]
    assert exact["quality_drop"].abs().max() == 0
    assert (exact["density"] > 0.99).all()


def test_it_says_in_words_what_to_build_and_why(small):
    folder, answers, said = small
    for answer in answers:
        row = answer.row
        line = next(line for line in said.splitlines() if line.startswith(f"{answer.hardware} ") and " all " in line)
        assert line.split()[1:] == [
            "all",
            *gate_name(row).split(),
            row["block"],
            row["tile"],
            f"{row['quality_drop']:.2f}",
            f"{row['mac_reduction']:.2f}x",
            f"{row['speedup']:.2f}x",
            f"{row['realised']:.0%}",
            *(["stay", "dense"] if row["speedup"] <= 1 else []),
        ]
        assert answer.words() in said
    figures = {
        "latency-accuracy",
        "speedup-mac-reduction",
        "cycles-by-cause",
        "density-by-block",
        "gate-masks",
        "gates",
    }
    figures |= {"open-and-closed-loop"}
    assert "Open loop against closed, 4 pairs: latency " in said
    assert "12 recordings, 2 made coarser, 56 simulations" in said
    assert figures <= {file.stem for file in (folder / "figures").glob("*.png")}
    figures |= {f"{kind}-edge-npu" for kind in ("layers", "roofline", "energy", "sensitivities")}
    assert f"as one page, for a browser: {folder / 'report.html'}" in said
    assert (folder / "report.html").stat().st_size > 1e6
    assert "What would help the machine most" in said
    assert "By layer: " in said
    for name in figures:
        assert f"{name}.png" in said
        assert (folder / "figures" / f"{name}.png").stat().st_size > 5_000


def test_groups_of_clips_are_answered_apart(small):
    """Every clip is a group of its own here: the answer for a group is the recommendation on that clip's rows alone."""
    folder, answers, said = small
    table = read_results(folder)
    assert set(zip(table["clip"], table["group"], strict=True)) == {
        ("pose:2000000:static", "static"),
        ("pose:2000001:pan", "pan"),
    }
    for answer in answers:
        lines = {line.split()[1]: line for line in said.splitlines() if line.startswith(f"{answer.hardware} ")}
        for group in ("static", "pan"):
            own = table[table["group"] == group]
            row = recommend(own, answer.hardware, MAX_DROP_POINTS).row
            assert f"{row['mac_reduction']:.2f}x" in lines[group]
            assert f"{row['speedup']:.2f}x" in lines[group]
            same = own[own["hardware"] == answer.hardware]
            for name in ("gate", "block", "tile", "loop", "update"):
                same = same[same[name] == answer.row[name]]
            same = same[(same["threshold"] == answer.row["threshold"]) | same["threshold"].isna()]
            assert answer.groups[group]["speedup"] == pytest.approx(same["speedup"].item())
            assert f"{group} {same['mac_reduction'].item():.2f}x fewer MACs" in answer.words()


def test_a_second_run_does_only_what_is_missing_and_gives_the_same_table(small):
    folder, answers, _ = small
    table = (folder / "results.parquet").read_bytes()
    traces = {path: path.stat().st_mtime_ns for path in folder.glob("traces/*/manifest.json")}
    assert len(traces) == 12 + 2
    again = demo(folder, workers=1, say=lambda text: None)
    assert [answer.to_dict() for answer in again] == [answer.to_dict() for answer in answers]
    assert (folder / "results.parquet").read_bytes() == table
    assert {path: path.stat().st_mtime_ns for path in folder.glob("traces/*/manifest.json")} == traces


def test_the_real_study_has_what_the_demo_is_about(tmp_path):
    (tmp_path / "study.toml").write_text(STUDY)
    study = load_study(tmp_path / "study.toml")
    assert {choice.block.default for choice in study.recording_choices()} == {(side, side) for side in (1, 2, 4, 8, 16)}
    assert len({choice.threshold for choice in study.recording_choices()}) >= 4
    assert {choice.clip.rpartition(":")[2] for choice in study.recording_choices()} == {"static", "pan"}
    machines = {choice.hardware.name for choice in study.simulation_choices()}
    assert machines == {"edge-npu", "auto-npu", "systolic-32x32"}
    assert len({choice.tile for choice in study.simulation_choices()}) >= 4


def test_an_edited_study_with_a_mistake_is_one_line(tmp_path):
    (tmp_path / "study.toml").write_text(SMALL.replace("threshold", "thresholdd"))
    with pytest.raises(InputError, match="did you mean 'threshold'"):
        demo(tmp_path, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["study.toml"]


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds something that is not a study"):
        demo(tmp_path, workers=1, study=SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]

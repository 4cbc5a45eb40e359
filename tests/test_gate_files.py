"""Are thresholds by layer and trained gates values of a study's axes, beside one threshold for all layers?"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skipsim.analysis.cli import main
from skipsim.analysis.compare import compare
from skipsim.analysis.figures.gates_figure import gates_figure
from skipsim.analysis.inputs.gate_files import shipped_gates
from skipsim.analysis.inputs.gated_network import Gating, gated_network
from skipsim.analysis.recommend import recommend
from skipsim.analysis.running.recordings import task_of
from skipsim.analysis.study import load_study
from skipsim.analysis.sweep import Pending, pending, sweep
from skipsim.errors import InputError

STUDY = """
name = "gates"
[recording]
network = "small_network:make"
clip = { quiet = "quiet.npy", busy = "busy.npy" }
gate = ["input_norm", "tuned_4.json"]
threshold = [0.05, 0.2]
block = [1, 2]
[simulation]
hardware = "edge-npu"
tile = "4x4"
"""
SHIPPED = """
name = "shipped"
[recording]
network = "pose_small"
clip = "pose:1"
gate = ["input_norm", "tuned", "gumbel"]
threshold = [0.05, 0.1]
block = [1, 4]
[simulation]
hardware = "edge-npu"
"""


def thresholds(**changed: Any) -> str:
    """Return a file of `skipsim tune` for the small network, 0.2 in both layers."""
    table = {"0": 0.2, "2": 0.2}
    fixed = {"network": "small_network:make", "gate": "input_norm", "block": [4, 4], "update": "recompute"}
    found = {"metric": "agreement", "drop_points": 0.5, "mac_reduction": 2.0, "tried": []}
    return json.dumps({**fixed, "threshold": table, **found, **changed})


@pytest.fixture
def study(tmp_path: Path, small_network: str) -> Path:
    rng = np.random.default_rng(3)
    for name, changed in (("quiet", 3), ("busy", 14)):
        clip = np.repeat(rng.integers(0, 256, (1, 16, 16, 3), np.uint8), 4, axis=0)
        for frame in range(1, 4):
            clip[frame, :changed, :changed] = rng.integers(0, 256, 3)
        np.save(tmp_path / f"{name}.npy", clip)
    (tmp_path / "tuned_4.json").write_text(thresholds())
    file = tmp_path / "study.toml"
    file.write_text(STUDY)
    return file


def test_a_file_brings_its_block_and_has_no_threshold_of_the_axis(study: Path) -> None:
    quiet = [choice for choice in load_study(study).recording_choices() if choice.group == "quiet"]
    seen = [(choice.gate, str(choice.block), str(choice.threshold)) for choice in quiet]
    assert seen == [
        ("input_norm", "1x1", "0.05"),
        ("input_norm", "1x1", "0.2"),
        ("input_norm", "2x2", "0.05"),
        ("input_norm", "2x2", "0.2"),
        ("tuned_4.json", "4x4", "nan"),
    ]


def test_shipped_gates_go_with_the_blocks_of_the_axis(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(SHIPPED)
    found = load_study(tmp_path / "study.toml")
    seen = [(choice.gate, str(choice.block), str(choice.threshold)) for choice in found.recording_choices()]
    norm = [("input_norm", block, threshold) for block in ("1x1", "4x4") for threshold in ("0.05", "0.1")]
    assert seen == norm + [(gate, block, "nan") for gate in ("tuned", "gumbel") for block in ("1x1", "4x4")]
    keys = {task_of(found, choice).key() for choice in found.recording_choices()}
    assert len(keys) == len(seen), "recordings of different gates are different recordings"


def test_thresholds_of_logits_stand_in_a_table_of_trained_gates_alone(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(SHIPPED.replace('"input_norm", "tuned", ', ""))
    choices = load_study(tmp_path / "study.toml").recording_choices()
    assert [choice.threshold for choice in choices] == [0.05, 0.1] * 2
    (tmp_path / "study.toml").write_text(
        SHIPPED.replace('"input_norm", "tuned", ', "").replace("threshold = [0.05, 0.1]\n", "")
    )
    assert all(math.isnan(choice.threshold) for choice in load_study(tmp_path / "study.toml").recording_choices())


def test_a_file_of_equal_thresholds_records_what_one_threshold_does(study: Path, tmp_path: Path) -> None:
    """Then everything goes on with it: resuming, a changed file, compare, recommend, groups, and the figure."""
    study.write_text(STUDY.replace("block = [1, 2]", "block = [1, 4]"))
    out = tmp_path / "out"
    table = sweep(study, out, 1)
    assert (table["error"] == "").all()
    assert table.groupby("clip")["group"].unique().map(list).to_dict() == {"quiet.npy": ["quiet"], "busy.npy": ["busy"]}
    one = table[(table["gate"] == "input_norm") & (table["threshold"] == 0.2) & (table["block"] == "4x4")]
    tuned = table[table["gate"] == "tuned_4.json"]
    assert len(tuned) == 2
    assert tuned["threshold"].isna().all()
    for name in ("trace_hash", "cycles", "quality"):
        assert tuned[name].tolist() == one[name].tolist()
    assert pending(study, out) == Pending(rows=10, recordings=10, missing_recordings=0, missing_simulations=0)

    answer = recommend(table, "edge-npu", 100.0)
    rows = table[(table["gate"] == answer.row["gate"]) & (table["block"] == answer.row["block"])]
    rows = rows[(rows["threshold"] == answer.row["threshold"]) | rows["threshold"].isna()]
    assert answer.groups == {
        row["group"]: {name: row[name] for name in ("mac_reduction", "speedup", "quality_drop")}
        for row in rows.to_dict("records")
    }
    figure = gates_figure(table, 100.0)
    assert [axis.get_ylabel().splitlines()[0] for axis in figure.axes] == ["quiet clips", "busy clips"]
    assert [text.get_text() for text in figure.legends[0].get_texts()][:2] == ["input_norm", "tuned_4.json"]

    (tmp_path / "tuned_4.json").write_text(thresholds(threshold={"0": 0.2, "2": None}))
    assert pending(study, out).missing_recordings == 2
    changed = sweep(study, tmp_path / "again", 1)
    states = compare(out, tmp_path / "again").rows.set_index("gate")["state"]
    assert set(states["input_norm"]) == {"same"}
    assert set(states["tuned_4.json"]) == {"changed"}
    assert (changed[changed["gate"] == "tuned_4.json"]["density"] > tuned["density"].to_numpy()).all()


def test_open_loop_takes_files_of_single_pixels(study: Path, tmp_path: Path) -> None:
    text = STUDY.replace('"input_norm", ', "").replace("threshold = [0.05, 0.2]\n", 'loop = "open"\n')
    (tmp_path / "tuned_4.json").write_text(thresholds(block=[1, 1]))
    study.write_text(text)
    assert [str(one.block) for one in load_study(study).recording_choices()] == ["1x1", "2x2"] * 2
    (tmp_path / "tuned_4.json").write_text(thresholds())
    with pytest.raises(InputError, match=r"gate 'tuned_4.json': open loop needs gates of single pixels, .* of 4x4"):
        load_study(study).recording_choices()


BAD = {
    'gate = "tuned"\nblock = 16': "gate 'tuned': 'pose_small' ships with gates for square blocks of 1, 2, 4, 8, asked",
    'gate = "gumbel"\nblock = 3': "gate 'gumbel': 'pose_small' ships with gates for square blocks of 1, 2, 4, 8, 16,",
    'gate = "tunde"': "gate 'tunde' is unknown; did you mean 'tuned'",
    'gate = "none.json"': "none.json: No such file or directory",
    'gate = "none.safetensors"': "none.safetensors: no such file",
    'gate = "study.json"': "study.json: not a file of `skipsim tune`",
    'gate = "input_norm"\nthreshold = "a.json"': "threshold: a file of gates stands in gate, got 'a.json'",
    'gate = "input_norm"\nthreshold = [0.1, "tuned"]': "threshold: a file of gates stands in gate, got 'tuned'",
    'clip = { a = "pose:1", b = ["pose:1"] }\ngate = "hold"': "a clip belongs to one group, 'pose:1' is in several",
    'clip = { a = 3 }\ngate = "hold"': "must be names of clips, or a table of names by group, not 3",
    'clip = { a = [] }\ngate = "hold"': "recording.clip is empty; an axis needs at least one value",
}


@pytest.mark.parametrize("lines", BAD)
def test_mistakes_are_one_line(
    lines: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.json").write_text("{}")
    clip = "" if "clip" in lines else 'clip = "pose:1"\n'
    text = f'name = "bad"\n[recording]\nnetwork = "pose_small"\n{clip}{lines}\n[simulation]\nhardware = "edge-npu"\n'
    (tmp_path / "study.toml").write_text(text)
    with pytest.raises(SystemExit) as stopped:
        main(["sweep", "study.toml", "-o", "out"])
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert len(said.splitlines()) == 1
    assert BAD[lines] in said
    assert not (tmp_path / "out").exists()


def test_gumbel_gates_in_another_kind_of_file_are_refused() -> None:
    with pytest.raises(InputError, match=r"weights a\.pth: Gumbel gates come in a \.safetensors file; make it with"):
        gated_network("pose_small", Gating("gumbel"), "a.pth")


@pytest.mark.parametrize(
    ("name", "value"),
    [("threshold", 0.0), ("block", (4, 4)), ("update", "previous"), ("reset_every", 2), ("share", "block"),
     ("signal", "frame"), ("fold_batch_norm", True)],
)  # fmt: skip
def test_without_a_gate_nothing_of_a_gate_is_taken(name: str, value: object) -> None:
    with pytest.raises(InputError) as error:
        Gating("none", **{name: value})  # type: ignore[arg-type]
    said = f"gate 'none': computes everything, so it takes no {name}, got {value!r}; choices: input_norm, output_norm, "
    assert str(error.value) == f"{said}tuned, gumbel, hold"
    assert Gating("none").block is None


def test_a_network_without_gates_says_how_to_make_them() -> None:
    with pytest.raises(InputError, match="gate 'tuned': none ship with 'unet'; make them with skipsim tune, and name"):
        shipped_gates("tuned", "unet", (4, 4))

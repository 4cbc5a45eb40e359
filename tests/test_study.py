"""Is a study file read as it is meant, and does a mistake in it get one clear line?"""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from skipsim.analysis.axes import BlockPlan
from skipsim.analysis.study import Study, load_study
from skipsim.errors import InputError
from skipsim.traces.layer import Layer

STUDY = """
name = "trial"
[recording]
network = ["pose_small"]
clip = ["pose:1", "street.mp4"]
gate = ["input_norm"]
threshold = [0.02, 1]
block = [1, "2x8", [4, 2]]
update = "accumulate"
[simulation]
hardware = ["edge-npu", "auto-npu"]
tile = [4, "8x2", "full", "auto"]
dram.bytes_per_cycle = { from = 8, to = 16, steps = 3 }
"gate.placement" = ["fused", "separate"]
"""


def read(folder: Path, text: str) -> Study:
    file = folder / "study.toml"
    file.write_text(text, encoding="utf-8")
    return load_study(file)


def test_every_combination_of_the_recording_axes_once(tmp_path: Path) -> None:
    choices = read(tmp_path, STUDY).recording_choices()
    seen = [(choice.clip, choice.block, choice.threshold) for choice in choices]
    blocks = [BlockPlan((1, 1)), BlockPlan((2, 8)), BlockPlan((4, 2))]
    assert seen == [(clip, b, t) for clip in ("pose:1", "street.mp4") for b in blocks for t in (0.02, 1.0)]
    assert {(c.network, c.gate, c.update, c.reset_every, c.trace) for c in choices} == {
        ("pose_small", "input_norm", "accumulate", 0, None)
    }


def test_blocks_by_group_of_layers_are_axes_of_their_own(tmp_path: Path) -> None:
    text = STUDY.replace(
        'block = [1, "2x8", [4, 2]]', 'block = [8, { "stage4.*" = [1, 2], "16x16" = 4, "*" = [8, 16] }]'
    )
    plans = read(tmp_path, text).recording[0].block_plans()
    assert [str(plan) for plan in plans] == [
        "8x8",
        "8x8, stage4.*: 1x1, 16x16: 4x4",
        "16x16, stage4.*: 1x1, 16x16: 4x4",
        "8x8, stage4.*: 2x2, 16x16: 4x4",
        "16x16, stage4.*: 2x2, 16x16: 4x4",
    ]
    layers = [Layer(name, 1, side, side, 1, side, side) for name, side in (("stage4.0", 16), ("stem", 16), ("stem", 8))]
    assert [plans[1].block_of(layer) for layer in layers] == [(1, 1), (4, 4), (8, 8)]
    assert [plan.setting() for plan in plans[:2]] == [(8, 8), {"stage4.*": (1, 1), "16x16": (4, 4), "*": (8, 8)}]
    columns = read(tmp_path, text).recording_choices()[2].columns()
    assert (columns["block"], columns["block_rows"]) == ("8x8, stage4.*: 1x1, 16x16: 4x4", None)


def test_networks_with_axes_of_their_own(tmp_path: Path) -> None:
    second = (
        '[[recording]]\nnetwork = "hrnet_w32"\nclip = "street.mp4"\nthreshold = 1\ngate = ["output_norm", "hold"]\n'
    )
    both = read(
        tmp_path, STUDY.replace("[recording]", "[[recording]]").replace("[simulation]", f"{second}[simulation]")
    )
    choices = both.recording_choices()
    assert [choice.network for choice in choices] == ["pose_small"] * 12 + ["hrnet_w32"] * 2
    assert [str(choice.threshold) for choice in choices[-2:]] == ["1.0", "nan"], "holding has no threshold"


def test_every_combination_of_the_simulation_axes_once(tmp_path: Path) -> None:
    choices = read(tmp_path, STUDY).simulation_choices()
    seen = [(c.hardware.name, *[value for _, value in c.overrides], c.tile) for c in choices]
    assert seen == [
        (name, width, placement, tile)
        for name in ("edge-npu", "auto-npu")
        for width in (8, 12, 16)
        for placement in ("fused", "separate")
        for tile in ("4x4", "8x2", "full", "auto")
    ]
    for choice in choices:
        overrides = dict(choice.overrides)
        assert choice.hardware.dram.bytes_per_cycle == overrides["dram.bytes_per_cycle"]
        assert choice.hardware.gate.placement == overrides["gate.placement"]


def test_quoted_and_nested_hardware_keys_are_the_same(tmp_path: Path) -> None:
    quoted = STUDY.replace("dram.bytes_per_cycle", '"dram.bytes_per_cycle"')
    assert read(tmp_path, quoted).simulation == read(tmp_path, STUDY).simulation


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("{ from = 1, to = 1000, steps = 4, log = true }", (1, 10, 100, 1000)),
        ("{ from = 0.5, to = 1.5, steps = 3 }", (0.5, 1, 1.5)),
        ("{ from = 65536, to = 1048576, steps = 5, log = true }", (2**16, 2**17, 2**18, 2**19, 2**20)),
        ("{ from = 9, to = 3, steps = 3 }", (9, 6, 3)),
        ("7", (7,)),
        ("[8, 2, 8]", (8, 2)),
    ],
)
def test_axis_forms(tmp_path: Path, text: str, values: tuple[float, ...]) -> None:
    lines = STUDY.replace("{ from = 8, to = 16, steps = 3 }", text)
    found = read(tmp_path, lines).simulation.overrides["dram.bytes_per_cycle"]
    assert found == values
    assert [type(value) for value in found] == [int if value == int(value) else float for value in values]


def test_existing_traces_instead_of_recordings(tmp_path: Path) -> None:
    study = read(
        tmp_path, 'name = "t"\n[recording]\ntrace = ["a.trace", "b.csv"]\n[simulation]\nhardware = "edge-npu"\n'
    )
    assert [choice.trace for choice in study.recording_choices()] == ["a.trace", "b.csv"]
    assert all(math.isnan(choice.threshold) for choice in study.recording_choices())
    assert [choice.tile for choice in study.simulation_choices()] == ["auto"]
    assert study.resolve("a.trace") == tmp_path / "a.trace"


def test_own_machines_lie_beside_the_study(tmp_path: Path) -> None:
    from skipsim.hwmodels.hardware import load_hardware

    load_hardware("edge-npu").replace(name="mine", cores=3).save(tmp_path / "mine.toml")
    study = read(tmp_path, STUDY.replace('"auto-npu"', '"mine.toml"'))
    assert {choice.hardware.name: choice.hardware.cores for choice in study.simulation_choices()} == {
        "edge-npu": load_hardware("edge-npu").cores,
        "mine": 3,
    }


MISTAKES = [
    ("threshold =", "thresholdd =", "unknown axis 'recording.thresholdd'; did you mean 'threshold'?"),
    ("tile =", "tiles =", "unknown axis 'simulation.tiles'; did you mean 'tile'?"),
    (
        "bytes_per_cycle",
        "byte_per_cycle",
        "unknown axis 'simulation.dram.byte_per_cycle'; did you mean 'dram.bytes_per",
    ),
    ("[simulation]", "[simulations]", "unknown axis 'simulations'; did you mean 'simulation'?"),
    ('name = "trial"', "", "name is missing"),
    ('network = ["pose_small"]', "", "recording: network is missing (or give trace, for existing traces)"),
    ('network = ["pose_small"]', 'trace = "a.trace"', "recording: trace excludes block, clip, gate, threshold, update"),
    ('["pose_small"]', "[]", "recording.network is empty; an axis needs at least one value"),
    ('["pose_small"]', '""', "recording.network: string should have at least 1 character, got ''"),
    ('["edge-npu", "auto-npu"]', "[]", "simulation.hardware is empty; an axis needs at least one value"),
    ('hardware = ["edge-npu", "auto-npu"]', "", "simulation.hardware is missing"),
    (
        '"full"',
        '"0x8"',
        'simulation.tile: must be "auto", "full", "per-layer" or "ROWSxCOLS" with sides >= 1, not \'0x8\'',
    ),
    ("[4, 2]]", "0]", 'recording.block: must be a whole number >= 1 or "ROWSxCOLS", not 0'),
    ("[0.02, 1]", "[-0.1]", "recording.threshold: input should be greater than or equal to 0, got -0.1"),
    ("[0.02, 1]", '["a"]', "recording.threshold: input should be a valid number, got 'a'"),
    (
        '"accumulate"',
        '"accumulat"',
        "recording.update: input should be 'previous', 'accumulate' or 'recompute', got 'accumulat'",
    ),
    ("steps = 3", "steps = 1", "simulation.dram.bytes_per_cycle: steps of a range must be a whole number >= 2, not 1"),
    ("from = 8", "form = 8", "simulation.dram.bytes_per_cycle: unknown key 'form' of a range; did you mean 'from'?"),
    ("from = 8", "from = 0, log = true", "simulation.dram.bytes_per_cycle: a log range needs from > 0 and to > 0"),
    ("update =", "size = 128\nupdate =", "recording.size: must be [rows, cols], whole numbers >= 1, not 128"),
    ("update =", "frames = 0\nupdate =", "recording.frames: input should be greater than or equal to 1, got 0"),
    ("update =", "reset_every = 1.5\nupdate =", "recording.reset_every: input should be a valid integer, got 1.5"),
    ("network = [", 'weights = "w"\nnetwork = ["a", ', "recording: weights needs a single network"),
    ('"edge-npu", ', '"edge-npuu", ', "hardware 'edge-npuu' is unknown; did you mean 'edge-npu'?"),
    ('"auto-npu"', '"absent.toml"', "absent.toml': no such file"),
    ("from = 8", "from = -8", "hardware 'edge-npu': dram.bytes_per_cycle: input should be greater than 0, got -8"),
    (
        '"separate"',
        '"separated"',
        "hardware 'edge-npu': gate.placement: input should be 'none', 'separate', 'fused' or",
    ),
    ("name =", "name", "not valid TOML: "),
    ("[4, 2]]", '{ "stem" = 4 }]', "recording.block: a table of blocks by layer needs '*', for all other layers"),
    ("[4, 2]]", '{ "*" = [] }]', "recording.block: every group of layers needs at least one block"),
    ("update =", 'loop = "opn"\nupdate =', "recording.loop: input should be 'closed' or 'open', got 'opn'"),
    (
        "[recording]",
        'objectives = ["latency"]\n[recording]',
        "objectives: no objective 'latency'; did you mean 'latency_ms'",
    ),
    ("[recording]", "[search]\ntrails = 9\n[recording]", "unknown axis 'search.trails'; did you mean 'trials'?"),
    (
        "[recording]",
        '[search]\ntrials = 9\n[recording]\nloop = ["open", "closed"]',
        "search needs one [recording] table",
    ),
    ("[recording]", "[[recording]]\ntrace = 3\n[[recording]]", "recording 1.trace: input should be a valid string"),
]


@pytest.mark.parametrize(("old", "new", "message"), MISTAKES)
def test_a_mistake_is_one_clear_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in STUDY
    with pytest.raises(InputError) as caught:
        read(tmp_path, STUDY.replace(old, new, 1)).simulation_choices()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.checkout
def test_the_documented_study_is_one(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "docs" / "studies.md").read_text(encoding="utf-8")
    grid, gates, tricks, search = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    axes = read(tmp_path, f'name = "gates"\n{gates}[simulation]\nhardware = "edge-npu"\n').recording[0]
    assert [clip.group for clip in axes.clip or ()] == ["static", "static", "pan"]
    assert len(axes.gate) == 5
    study = read(tmp_path, grid)
    assert len(study.recording_choices()) == 2 * 2 * 2 * 2 * 3 * 2 + 5 * 2 * 2
    assert {choice.hardware.name for choice in study.simulation_choices()} <= {"edge-npu", "auto-npu"}
    assert len(study.late_constraints) == 1
    cheaper = read(tmp_path, f'name = "tricks"\n{tricks}[simulation]\nhardware = "edge-npu"\n')
    assert [(one.columns()["network"], one.gate) for one in cheaper.recording_choices() if one.gate == "none"] == [
        ("pose_small", "none"), ("pose_small 112x112", "none"), ("pose_small 96x96", "none"),
        ("pose_narrow 112x112", "none"), ("pose_narrow 96x96", "none"),
    ]  # fmt: skip
    assert read(tmp_path, STUDY + search).search is not None


def test_an_empty_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is empty; a study needs name, \[recording\] and \[simulation\]"):
        read(tmp_path, "# nothing\n")


def test_machines_of_one_name_are_refused(tmp_path: Path) -> None:
    from skipsim.hwmodels.hardware import load_hardware

    load_hardware("edge-npu").replace(cores=3).save(tmp_path / "mine.toml")
    with pytest.raises(InputError, match=r"machines must differ in name, got \['edge-npu', 'edge-npu'\]"):
        read(tmp_path, STUDY.replace('"auto-npu"', '"mine.toml"')).simulation_choices()


def test_no_study_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.toml: no such file"):
        load_study(tmp_path / "absent.toml")
    with pytest.raises(InputError, match="not a file"):
        load_study(tmp_path)

"""Are damage and savings what they should be, and are thresholds those of least damage?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from skipsim.analysis.cli import main
from skipsim.analysis.inputs.clips import load_clip
from skipsim.analysis.tune import LADDER, chosen, read_thresholds, search
from skipsim.errors import InputError
from skipsim.traces.convert import convert
from skipsim.traces.damage import EDGES, Curve, Gradients, Probe, output_gradients
from skipsim.traces.gates import InputNormGate, OutputNormGate
from skipsim.traces.layer import Layer
from skipsim.traces.record import record
from skipsim.traces.tune import damage_curves, labelled, projected, thresholds_for


def layer(name: str, macs: int, pixels: int = 1, gate: str = "none", call: int = 0) -> Layer:
    """A layer of `pixels` output positions and as many MACs for each."""
    return Layer(name, 1, 1, pixels, macs, 1, pixels, gate=gate, call=call)


def curve(name: str, macs: int, entries: list[tuple[float, float, float]], **options: Any) -> Curve:
    """A curve of one frame from (norm, pixels, damage) of its blocks."""
    made = Curve(layer(name, macs, len(entries), **options))
    norms, pixels, damage = (torch.tensor(part) for part in zip(*entries, strict=True))
    made.add(norms, damage, pixels)
    return made


def chain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()


def clip(frames: int = 4, side: int = 12) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    still = torch.rand((3, side, side), generator=generator)
    moving = [still.clone() for _ in range(frames)]
    for number, picture in enumerate(moving):
        picture[:, 2:6, number : number + 4] = 1.0
    return moving


def test_gradients_are_those_of_every_call() -> None:
    conv = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(conv.weight, 3.0)
    twice = nn.Sequential(conv, conv)
    found = output_gradients(twice, torch.full((1, 1, 2, 2), 5.0), lambda output: (output * output).sum() / 2)
    # y = 3 * (3 * 5) = 45: the loss' gradient is y at the second call and 3 y at the first.
    assert torch.equal(found["0", 1], torch.full((1, 1, 2, 2), 45.0))
    assert torch.equal(found["0", 0], torch.full((1, 1, 2, 2), 135.0))


@pytest.mark.parametrize("block", [1, 2])
def test_damage_is_the_square_of_what_a_skipped_block_moves_the_loss_by(block: int) -> None:
    conv = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(conv.weight, 2.0)
    gradients: Gradients = {("", 0): torch.tensor([[[[1.0, -1.0, 4.0], [0.0, 3.0, 2.0]]]])}
    curves: dict[tuple[str, int], Curve] = {}
    probe = Probe(InputNormGate(0.35, block), gradients, curves)
    gated_layer = Layer("", 1, 2, 3, 1, 2, 3, block_rows=block, block_cols=block, gate="input_norm")
    residual = torch.tensor([[[[0.1, 0.2, 0.3], [0.4, 0.5, 0.0]]]])
    mask = probe.for_layer(gated_layer).mask(residual, conv)
    error = 2 * residual * gradients["", 0]  # of each position
    if block == 1:
        assert mask.tolist() == [[False, False, False], [True, True, False]]
        blocks = [(float(r), 1.0, float(e) ** 2) for r, e in zip(residual.flatten(), error.flatten(), strict=True)]
    else:
        assert mask.tolist() == [[True, False]]
        blocks = [
            (0.5, 4.0, float(error[..., :2].sum()) ** 2),
            (0.3, 2.0, float(error[..., 2:].sum()) ** 2),
        ]
    seen = curves["", 0]
    for index in range(0, len(EDGES), 7):
        edge = float(EDGES[index])
        macs = sum(pixels for norm, pixels, _ in blocks if norm > edge) + gated_layer.gate_macs
        assert float(seen.computed()[index]) == pytest.approx(macs)
        assert float(seen.harm()[index]) == pytest.approx(sum(harm for norm, _, harm in blocks if norm <= edge))


def test_thresholds_are_those_of_least_damage() -> None:
    """Every pair of thresholds of two layers is tried: none saves as much at less damage."""
    rng = np.random.default_rng(0)
    curves = [
        curve(name, macs, [(10 ** rng.uniform(-3, 0), 1.0, 10 ** rng.uniform(-4, 0)) for _ in range(8)])
        for name, macs in (("a", 100), ("b", 30))
    ]
    dense = sum(one.layer.macs for one in curves)
    best = {}
    for reduction in (0.3, 0.5, 0.8):
        found = thresholds_for(curves, 1 / reduction)
        places = [0 if found[name] is None else int((EDGES - found[name]).abs().argmin()) for name in "ab"]  # type: ignore[operator]
        cost = sum(float(one.computed()[place]) for one, place in zip(curves, places, strict=True))
        harm = sum(float(one.harm()[place]) for one, place in zip(curves, places, strict=True))
        costs = curves[0].computed()[:, None] + curves[1].computed()[None]
        harms = curves[0].harm()[:, None] + curves[1].harm()[None]
        assert cost <= dense * reduction
        assert harm <= float(harms[costs <= cost].min()) + 1e-12
        best[reduction] = harm
    assert best[0.3] >= best[0.5] >= best[0.8]


def test_a_layer_whose_gate_costs_more_than_it_saves_is_left_dense() -> None:
    # The gate costs 1 + 1 MACs a frame, the layer 1; the other has the same damage and 50 times the MACs.
    dear = curve("dear", 1, [(0.1, 1.0, 0.5)], gate="input_norm")
    other = curve("other", 50, [(0.1, 1.0, 0.5)], gate="input_norm")
    found = thresholds_for([dear, other], 40.0)
    assert found["dear"] is None
    assert found["other"] is not None
    gate = InputNormGate(found)
    assert gate.for_layer(dear.layer) is None
    assert gate.for_layer(other.layer) == InputNormGate(found["other"])


def test_later_calls_of_a_layer_have_thresholds_of_their_own() -> None:
    curves = [curve("head", 50, [(0.1 * call + 0.05, 1.0, 1.0)], gate="none", call=call) for call in range(3)]
    found = thresholds_for(curves, 10.0)
    assert list(found) == ["head@1", "head@2", "head"]  # the name without a call fits all, so that it comes last
    gate = OutputNormGate(found)
    resolved = [gate.for_layer(layer("head", 50, call=call)) for call in range(3)]
    assert [one.threshold for one in resolved if one] == [found["head"], found["head@1"], found["head@2"]]


def test_layers_that_do_not_matter_are_skipped_and_those_that_do_are_not() -> None:
    """One of two branches counts: the other is free to skip."""

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(2)
            self.used, self.unused = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.used(x), self.unused(x)

    model = Branches().eval()
    curves = damage_curves(model, clip(), lambda output, frame: output[0].square().sum(), InputNormGate(0.0, 2))
    harms = {one.layer.name: float(one.harm()[-1]) for one in curves}
    assert harms["unused"] == 0 < harms["used"]
    found = thresholds_for(curves, 1.6)
    gated = convert(model, InputNormGate(found, 2))
    trace = record(gated, clip(), progress=False)
    assert trace.density("unused") < trace.density("used")
    exact = [model(picture[None])[0] for picture in clip()]
    got = [convert(model, InputNormGate({"used": 0.0, "unused": 9.0}, 2))(picture[None])[0] for picture in clip()]
    assert all(torch.allclose(one, other) for one, other in zip(exact, got, strict=True))


def test_the_gradient_without_labels_has_the_square_that_all_outputs_together_have() -> None:
    outputs = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    loss = projected(seed=1)
    squares = []
    for frame in range(200):
        outputs.grad = None
        loss([outputs], frame).backward()
        assert outputs.grad is not None
        squares.append(outputs.grad.square().mean())
    wanted = 1 / (float(outputs.detach().double().var()) * outputs.numel())
    assert float(torch.stack(squares).mean()) == pytest.approx(wanted, rel=0.05)


def test_labels_are_those_of_the_frame() -> None:
    labels = [(np.arange(3),), (np.arange(10, 12),)]
    loss = labelled(labels, lambda output, numbers: output * numbers.sum())
    assert [float(loss(torch.ones(()), frame)) for frame in range(5)] == [0, 1, 2, 10, 11]


def test_the_search_goes_on_until_the_verdict_changes() -> None:
    for last_allowed, seen in (
        (5, [3, 4, 5]),
        (3, [3, 4]),
        (4, [3, 4, 5]),
        (1, [3, 2, 1]),
        (0, [3, 2, 1]),
        (2, [3, 2]),
    ):
        rows = search(
            lambda rung, last=last_allowed: {"rung": rung, "drop_points": rung - last + 0.5}, range(1, 6), 0.5
        )  # type: ignore[misc]
        assert [row["rung"] for row in rows] == seen


def test_the_greatest_saving_within_the_loss_allowed_is_chosen() -> None:
    rows = [{"drop_points": drop, "mac_reduction": saving} for drop, saving in ((0.0, 1.5), (0.5, 3.0), (0.51, 9.0))]
    assert chosen(rows, 0.5)["mac_reduction"] == 3.0
    assert chosen(rows[2:], 0.5)["mac_reduction"] == 9.0
    assert chosen([{"drop_points": 2.0, "mac_reduction": 1.5}, {"drop_points": 0.9, "mac_reduction": 1.2}], 0.5) == {
        "drop_points": 0.9,
        "mac_reduction": 1.2,
    }


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def test_the_command_writes_thresholds_that_record_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, trace = str(tmp_path / "t.json"), str(tmp_path / "a.trace")
    options = ["--block", "4", "--frames", "3", "--max-drop", "5", "-o", out]
    assert run("tune", "pose_small", "pose:1", "--choose-on", "pose:1000000", *options) == 0
    tuned = read_thresholds(out)
    assert (tuned.network, tuned.block, tuned.metric) == ("pose_small", (4, 4), "pck@0.05")
    assert tuned.tried[0]["aim"] == LADDER[len(LADDER) // 2]
    assert len(set(tuned.threshold.values())) > 10
    capsys.readouterr()
    arguments = ["record", "pose_small", "pose:1000000", "-o", trace, "--frames", "3", "--threshold", out]
    assert run(*arguments, "--json") == 0
    # The same clip as the choice was made on: the same saving, the dense first frame counted.
    facts = json.loads(capsys.readouterr().out)
    assert facts["mac_reduction"] == pytest.approx(3 / (1 + 2 / tuned.mac_reduction), rel=1e-3)
    assert run(*arguments, "--block", "8") == 2
    assert f"--block 8: the thresholds of {out} are for blocks of 4x4" in capsys.readouterr().err


def test_the_command_tunes_for_a_reduction_on_clips_of_one_camera(tmp_path: Path) -> None:
    out = tmp_path / "t.json"
    options = ["--block", "4", "--frames", "4", "--aim", "4", "-o", str(out)]
    assert run("tune", "pose_small", "pose:train:1:2:static", *options) == 0
    tuned = read_thresholds(out)
    assert [row["aim"] for row in tuned.tried] == [4.0]
    assert 3 < tuned.mac_reduction < 5  # to first order, what was asked for


@pytest.mark.parametrize("kind", ["pose", "detection"])
def test_clips_of_one_camera_are_every_second_one_of_a_split(kind: str) -> None:
    both = load_clip(f"{kind}:train:4:2", frames=2, size=(64, 64))
    pan = load_clip(f"{kind}:train:2:2:pan", frames=2, size=(64, 64))
    assert both.cuts == (2, 4, 6)
    assert pan.cuts == (2,)
    frames = list(both.frames)
    assert np.array_equal(list(pan.frames), [*frames[2:4], *frames[6:8]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--aim", "0.5"], "tune: aim must be a MAC reduction, a number >= 1, got 0.5"),
        (["--gate", "gumbel"], "tune: gate must be one of input_norm, output_norm, got 'gumbel'; Gumbel gates are"),
        (["--max-drop", "-1"], "tune: max_drop must be points of 100, 0 to 100, got -1.0"),
        (["--frames", "1"], "tune: clips need two frames or more, got 1 frames in 1 clips"),
        (["-o", "thresholds.toml"], "tune: the output must end in .json, got thresholds.toml"),
    ],
)
def test_what_cannot_be_tuned_is_refused(
    change: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("tune", "pose_small", "pose:1", "-o", str(tmp_path / "t.json"), *change) == 2
    assert message in capsys.readouterr().err


def test_a_network_that_these_pictures_do_not_fit_is_one_line() -> None:
    message = r"network Conv2d: failed on frame 0, input \[1, 3, \d+, \d+\]: RuntimeError: Given groups=1, weight of"
    with pytest.raises(InputError, match=message):
        damage_curves(nn.Conv2d(4, 2, 1), clip(), projected(), InputNormGate(0.0))


def test_files_that_are_no_thresholds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"thresholds .*none.json: No such file or directory"):
        read_thresholds(tmp_path / "none.json")
    (tmp_path / "other.json").write_text('{"a": 1}')
    with pytest.raises(InputError, match=r"thresholds .*other.json: not a file of `skipsim tune`"):
        read_thresholds(tmp_path / "other.json")
    with pytest.raises(InputError, match=r"tune: mac_reduction must be a number >= 1, got 0.5"):
        thresholds_for([], 0.5)

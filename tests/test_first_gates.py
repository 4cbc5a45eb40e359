"""Do gates begin as the norm gates that they are told to be like, and learn alone to be exact?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_hrnet import tiny_hrnet
from torch import nn

from skipsim.errors import InputError
from skipsim.traces.convert import convert, layer_gates
from skipsim.traces.gates import InputNormGate
from skipsim.traces.gumbel import GumbelGate, load_gumbel, read_gumbel
from skipsim.traces.layer import Layer
from skipsim.traces.record import layers_of
from skipsim.traces.train import train
from skipsim.traces.training.detection_task import detection_distance
from skipsim.traces.training.evaluation import flushing_denormals
from skipsim.traces.training.first_gates import SHARPNESS, first_gates
from skipsim.traces.training.gumbel_training import GateSettings, GumbelTraining
from skipsim.traces.training.pose_task import POSE, heatmap_distance
from skipsim.traces.training.training_run import Plan

SMALL: dict[str, Any] = {
    "steps": 2,
    "batch": 2,
    "clip_frames": 3,
    "pool_clips": 2,
    "pool_frames": 3,
    "camera": "static",
    "rows": 32,
    "cols": 32,
    "validation_clips": 1,
    "test_clips": 1,
    "test_frames": 3,
}


def depthwise() -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, 2, 1, groups=6)).eval()


def begun(layers: tuple[Layer, ...], filter: str, thresholds: dict[str, float | None]) -> GumbelGate:
    made = first_gates(layers, filter, "magnitude", thresholds, 0)
    weights = {
        layer.label: (gate.weight.detach(), gate.bias.detach()) for layer, gate in zip(layers, made, strict=True)
    }
    return GumbelGate(weights, 2, signal="magnitude")


@pytest.mark.parametrize("filter", ["channels", "convolution"])
def test_gates_begin_as_norm_gates(filter: str) -> None:
    """A filter of channels decides as the norm gate everywhere, a convolution where no tap lies beyond the edge."""
    model, thresholds = depthwise(), {"0": 0.1, "2": 0.07}
    layers = layers_of(model, (1, 3, 16, 16))
    learned, norm = convert(model, begun(layers, filter, thresholds)), convert(model, InputNormGate(thresholds, 2))
    generator = torch.Generator().manual_seed(0)
    frames = [torch.rand((1, 3, 16, 16), generator=generator)]
    for _ in range(3):
        frames.append(frames[-1] + 0.5 * (torch.rand((1, 1, 16, 16), generator=generator) > 0.9))
    seen = 0
    for frame in frames:
        for one in (learned, norm):
            one(frame)
        for name in thresholds:
            masks = [one.get_submodule(name).last_mask for one in (learned, norm)]
            if filter == "convolution":
                masks = [mask[1:-1, 1:-1] for mask in masks]
            else:
                seen += int(masks[0].sum() not in (0, masks[0].numel()))
            if name == "0" or filter == "channels":
                assert torch.equal(*masks)
    assert filter == "convolution" or seen > 2  # masks were neither full nor empty
    kinds = [one.layer.gate for one in layer_gates(learned)]
    assert kinds == ["input_norm" if filter == "channels" else "gumbel"] * 2


def test_a_gate_of_channels_costs_what_a_norm_gate_does() -> None:
    model = depthwise()
    layers = layers_of(model, (1, 3, 16, 16))
    converted = convert(model, begun(layers, "channels", {"0": 0.1, "2": 0.1}))
    converted(torch.rand(1, 3, 16, 16))
    strided = layer_gates(converted)[1].layer
    assert strided.gate_macs == 6 * 16 * 16 + 9 * 8 * 8 < strided.macs
    whole = convert(model, begun(layers, "convolution", {"0": 0.1, "2": 0.1}))
    whole(torch.rand(1, 3, 16, 16))
    assert layer_gates(whole)[1].layer.gate_macs == strided.macs


def test_logits_are_centred_on_the_threshold() -> None:
    gate = first_gates([Layer("a", 4, 8, 8, 2, 8, 8)], "channels", "magnitude", {"a": 0.2}, 0)[0]
    for change, logit in ((0.0, -SHARPNESS), (0.2, 0.0), (0.4, SHARPNESS)):
        assert gate(torch.full((1, 4, 1, 1), change)).item() == pytest.approx(logit, abs=1e-5)


def training(**settings: Any) -> GumbelTraining:
    plan = Plan(batch=2, clip_frames=3, pool_frames=3, pool_clips=4, rows=32, cols=32, beta=0.1)
    return GumbelTraining(
        tiny_hrnet().eval(), POSE, plan, GateSettings(signal="magnitude", filter="channels", **settings)
    )


def test_frozen_networks_stay_and_gates_learn_to_be_exact() -> None:
    trained = training(freeze=True, thresholds={"*": 0.05})
    before = {name: value.clone() for name, value in trained.module.get_submodule("network").state_dict().items()}
    (group,) = trained.parameter_groups()
    optimiser = torch.optim.Adam(group["params"], lr=0.1)
    pictures = torch.rand((2, 3, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    labels = (torch.full((2, 3, 15, 2), 9.0), torch.ones((2, 3, 15), dtype=torch.bool))
    distances = []
    with flushing_denormals():
        for _ in range(12):
            distance, _ = trained.parts(pictures, labels, 0)
            optimiser.zero_grad()
            (1e5 * distance).backward()  # of an untrained network, close to nothing
            optimiser.step()
            distances.append(distance.item())
    assert 0 <= distances[-1] < 0.7 * distances[0]
    after = trained.module.get_submodule("network").state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_gates_can_be_trained_after_a_recording_in_the_same_process() -> None:
    model = convert(tiny_hrnet().eval(), InputNormGate(0.1))
    with torch.inference_mode():
        model(torch.rand(1, 3, 24, 24))
        model(torch.rand(1, 3, 24, 24))
    plan = Plan(batch=2, clip_frames=2, pool_frames=2, pool_clips=4, rows=24, cols=24)
    settings = GateSettings(signal="magnitude", filter="channels", freeze=True, thresholds={"*": 0.05})
    trained = GumbelTraining(tiny_hrnet().eval(), POSE, plan, settings)
    labels = (torch.zeros((1, 2, 15, 2)), torch.ones((1, 2, 15), dtype=torch.bool))
    distance, _ = trained.parts(torch.rand(1, 2, 3, 24, 24), labels, 0)
    distance.backward()
    assert any(part.bias.grad is not None for part in trained.module.get_submodule("filters"))  # type: ignore[attr-defined]


def test_layers_that_are_left_dense_have_no_gate() -> None:
    names = training(thresholds={"conv1": None, "*": 0.1}).gates().weights
    assert "conv1" not in names
    assert "conv2" in names


def test_a_file_of_gates_alone_needs_the_network_that_they_were_trained_for(tmp_path: Path) -> None:
    out, network = tmp_path / "gates.safetensors", tiny_hrnet().eval()
    given = {name: value.clone() for name, value in network.state_dict().items()}
    settings = GateSettings(2, signal="magnitude", filter="channels", freeze=True, thresholds={"*": 0.1})
    train(network, "pose", out, gates=settings, progress=False, **SMALL)
    assert all(name.startswith("gumbel_gate.") for name in load_file(out))
    same = tiny_hrnet().eval()
    same.load_state_dict(given)
    gate = load_gumbel(same, out, block=2)
    assert gate.weights.keys() == read_gumbel(out).weights.keys()
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in given.items())
    other = tiny_hrnet().eval()
    nn.init.zeros_(next(iter(other.parameters())))
    with pytest.raises(InputError, match="these gates were trained for other weights than HRNet has"):
        load_gumbel(other, out, block=2)


def test_distances_are_zero_where_equal_and_follow_their_formulas() -> None:
    maps = torch.tensor([[[[0.0, 0.0]]]])
    other = torch.tensor([[[[0.0, torch.log(torch.tensor(3.0))]]]])  # probabilities 1/4, 3/4
    assert float(heatmap_distance(maps, maps)) == 0
    # KL(wanted 1/4, 3/4 || found 1/2, 1/2) = 1/4 log(1/2) + 3/4 log(3/2)
    wanted = 0.25 * torch.log(torch.tensor(0.5)) + 0.75 * torch.log(torch.tensor(1.5))
    assert float(heatmap_distance(maps, other)) == pytest.approx(float(wanted), abs=1e-6)
    generator = torch.Generator().manual_seed(0)
    classes, boxes = (torch.randn((1, 9 * values, 2, 2), generator=generator) for values in (3, 4))
    assert float(detection_distance(([classes], [boxes]), ([classes], [boxes]))) == pytest.approx(0, abs=1e-4)
    moved = float(detection_distance(([classes], [boxes + 0.05]), ([classes], [boxes])))
    # Each of an anchor's four offsets is 0.05 off: 50 x mean of 0.05^2 / 2, weighted by the score it is divided by.
    assert moved == pytest.approx(50 * 0.05**2 / 2, rel=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"filter": "channel"}, "training: filter 'channel' is unknown"),
        ({"thresholds": {"*": 0.1}, "signal": "residual"}, "training: thresholds are of the change's magnitude"),
    ],
)
def test_what_does_not_fit_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        GateSettings(**settings)
    with pytest.raises(InputError, match="training: camera 'fixed' is unknown"):
        Plan(camera="fixed")

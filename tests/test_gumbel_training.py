"""Do gates learn by the gradient and the price they should, and does a killed training end as an undisturbed one?"""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_hrnet import tiny_hrnet
from torch import Tensor, nn

from skipsim.errors import InputError
from skipsim.traces.convert import convert
from skipsim.traces.gumbel import load_gumbel, read_gumbel
from skipsim.traces.skipconv import UPDATES, SkipConv2d
from skipsim.traces.train import train
from skipsim.traces.training.gumbel_training import GateSettings, GumbelTraining, draw
from skipsim.traces.training.pose_task import POSE
from skipsim.traces.training.task import Task
from skipsim.traces.training.training_run import Plan

SMALL: dict[str, Any] = {
    "seed": 3,
    "steps": 4,
    "batch": 2,
    "clip_frames": 3,
    "pool_clips": 4,
    "pool_frames": 3,
    "rows": 32,
    "cols": 32,
    "checkpoint_every": 2,
    "validation_clips": 1,
    "test_clips": 2,
    "test_frames": 3,
}


def sum_task() -> Task:
    """A task whose loss is the mean of the output, so that its gradient is known."""
    return Task(
        POSE.clips, POSE.labels, POSE.mirror, lambda output, labels, plan: output.mean(), POSE.scorer, POSE.distance
    )


def pointwise() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 2, 1))


def training(network: nn.Module, **settings: Any) -> GumbelTraining:
    plan = Plan(batch=2, clip_frames=3, pool_frames=3, pool_clips=4, rows=32, cols=32)
    return GumbelTraining(network, sum_task(), plan, GateSettings(**settings))


def gate_of(trained: GumbelTraining, index: int = 0) -> nn.Conv2d:
    gate = list(trained.module.get_submodule("filters"))[index]  # type: ignore[call-overload]
    assert isinstance(gate, nn.Conv2d)
    return gate


def fix_gates(trained: GumbelTraining, bias: float) -> None:
    for gate in trained.module.get_submodule("filters"):  # type: ignore[attr-defined]
        nn.init.zeros_(gate.weight)
        nn.init.constant_(gate.bias, bias)


def test_draws_are_zero_or_one_at_the_right_rate_with_the_relaxed_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    for logit in (-1.0, 0.6, 2.0):
        logits = torch.full((1, 1, 200, 200), logit, requires_grad=True)
        drawn = draw(logits, generator)
        assert set(drawn.detach().unique().tolist()) <= {0.0, 1.0}
        wanted = 1 / (1 + torch.tensor(-logit).exp().item())
        # 40000 draws: the standard error is at most 0.0025.
        assert drawn.mean().item() == pytest.approx(wanted, abs=0.0125)
    # The gradient is that of sigmoid((logit + noise) / temperature): its own value s gives s (1 - s) / temperature.
    logits = torch.zeros((1, 1, 1, 5), requires_grad=True)
    draw(logits, torch.Generator().manual_seed(4)).sum().backward()  # type: ignore[no-untyped-call]
    noise = torch.logit(torch.rand((1, 1, 1, 5), generator=torch.Generator().manual_seed(4)).double())
    soft = (noise / (2 / 3)).sigmoid()
    assert logits.grad is not None
    assert torch.allclose(logits.grad.double(), soft * (1 - soft) / (2 / 3), atol=1e-5)


def test_gates_start_open_with_the_papers_bias() -> None:
    trained = training(tiny_hrnet())
    assert all(gate.bias.item() == pytest.approx(0.6) for gate in trained.module.get_submodule("filters"))  # type: ignore[attr-defined]


@pytest.mark.parametrize("update", sorted(UPDATES))
def test_open_gates_give_the_dense_network_and_its_whole_price(update: str) -> None:
    network = tiny_hrnet().eval()
    pictures = torch.rand(2, 3, 3, 32, 32)
    with torch.no_grad():
        dense = torch.stack([network(pictures[:, frame]).mean() for frame in range(3)]).mean()
    trained = training(network, update=update)
    fix_gates(trained, 50.0)
    trained.prepare()
    task, computed = trained.parts(pictures, (), 0)
    assert task.item() == pytest.approx(dense.item(), rel=1e-4)
    layers = [call.layer for call in trained._sequence.calls.values()]
    gates = sum(layer.kernel_rows * layer.kernel_cols * layer.in_channels * layer.out_pixels for layer in layers)
    assert computed.item() == pytest.approx(1 + gates / sum(layer.macs for layer in layers))


def test_closed_gates_hold_the_first_frame_and_cost_only_themselves() -> None:
    network = pointwise()
    pictures = torch.rand(2, 3, 3, 32, 32)
    with torch.no_grad():
        first = network(pictures[:, 0]).mean()
    trained = training(network)
    fix_gates(trained, -50.0)
    task, computed = trained.parts(pictures, (), 0)
    assert task.item() == pytest.approx(first.item(), rel=1e-5)
    assert computed.item() == pytest.approx(1 / 2)  # one gate channel on three, where the layer has two


def test_the_price_pushes_gates_shut_by_its_closed_form() -> None:
    trained = training(pointwise())
    fix_gates(trained, 0.6)
    _, computed = trained.parts(torch.rand(2, 3, 3, 32, 32), (), 0)
    share = torch.tensor(0.6).sigmoid().item()
    assert computed.item() == pytest.approx(share + 1 / 2)
    computed.backward()  # type: ignore[no-untyped-call]
    bias = gate_of(trained).bias
    assert bias is not None
    assert bias.grad is not None
    assert bias.grad.item() == pytest.approx(share * (1 - share), rel=1e-4)


def test_the_tasks_gradient_reaches_the_gates_through_their_decisions() -> None:
    trained = training(pointwise())
    task, _ = trained.parts(torch.rand(2, 3, 3, 32, 32), (), 0)
    task.backward()  # type: ignore[no-untyped-call]
    assert gate_of(trained).weight.grad is not None
    assert gate_of(trained).weight.grad.abs().sum() > 0  # type: ignore[union-attr]


def test_what_closed_gates_keep_carries_the_gradient_back_to_the_first_frame() -> None:
    trained, pictures = training(pointwise()), torch.rand(2, 3, 3, 32, 32)
    fix_gates(trained, -50.0)
    task, _ = trained.parts(pictures, (), 0)
    task.backward()  # type: ignore[no-untyped-call]
    # On all three frames the output is w * x_1 + b, and the loss its mean over two channels.
    (weight,) = (tensor for name, tensor in trained.module.named_parameters() if name == "network.0.weight")
    expected = (pictures[:, 0].mean(dim=(0, 2, 3)) / 2).expand(2, 3)
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad[:, :, 0, 0], expected)


def test_every_step_draws_anew_and_the_same_step_the_same() -> None:
    trained, pictures = training(pointwise()), torch.rand(2, 3, 3, 32, 32)
    first, again, next_step = (trained.parts(pictures, (), step)[0].item() for step in (0, 0, 1))
    assert first == again
    assert first != next_step


@pytest.mark.parametrize("freeze", [False, True])
def test_gates_learn_at_a_rate_of_their_own(freeze: bool) -> None:
    trained = training(pointwise(), freeze=freeze)
    groups = trained.parameter_groups()
    assert [group.get("rate", 1.0) for group in groups] == ([] if freeze else [1.0]) + [Plan().gate_rate]
    assert groups[-1]["params"] == list(trained.module.get_submodule("filters").parameters())


@pytest.mark.parametrize(("share", "block"), [("layer", 1), ("layer", 3), ("block", 2), ("network", 4)])
def test_training_and_test_time_compute_the_same_where_gates_are_certain(share: str, block: int) -> None:
    """Every gate's bias is so far from 0, and its filter so steep, that drawing decides as the test does."""
    torch.manual_seed(2)
    network = tiny_hrnet().eval()
    trained = training(network, share=share, block=block, signal="magnitude")
    for gate in trained.module.get_submodule("filters"):  # type: ignore[attr-defined]
        nn.init.constant_(gate.weight, 1e4)
        nn.init.constant_(gate.bias, -40.0)
    frames = torch.rand(1, 1, 3, 32, 32).repeat(1, 3, 1, 1, 1)
    frames[:, 1:, :, 8:12, 8:20] += 0.5
    frames[:, 2:, :, 20:23, 4:9] += 0.5
    trained.prepare()
    outputs: list[Tensor] = []
    trained._task = Task(
        POSE.clips,
        POSE.labels,
        POSE.mirror,
        lambda output, labels, plan: (outputs.append(output.detach()), output.mean())[1],  # type: ignore[func-returns-value]
        POSE.scorer,
        POSE.distance,
    )
    trained.parts(frames, (), 0)
    plain = tiny_hrnet().eval()
    plain.load_state_dict(trained.module.get_submodule("network").state_dict())
    converted = convert(plain, trained.gates())
    computed = []
    with torch.no_grad():
        for frame in range(3):
            assert torch.allclose(converted(frames[:, frame]), outputs[frame], atol=1e-4)
            masks = [
                module.last_mask.float().mean() for module in converted.modules() if isinstance(module, SkipConv2d)
            ]
            computed.append(float(torch.stack(masks).mean()))
    assert computed[0] == 1
    assert 0 < computed[1] < 1


def test_depthwise_layers_are_dense_alone_and_share_in_a_block() -> None:
    class Separable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
            self.pointwise = nn.Conv2d(4, 15, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.pointwise(self.depthwise(x))
            return out

    def network() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Separable())

    assert set(training(network()).gates().weights) == {"0", "1.pointwise"}
    shared = training(network(), share="block").gates()
    assert set(shared.weights) == {"0", "1.depthwise"}
    # The gate of a depthwise layer sees all its channels.
    assert shared.weights["1.depthwise"][0].shape == (1, 4, 3, 3)


def run(out: Path, **changes: Any) -> dict[str, Any]:
    gates = GateSettings(block=2)
    return train(tiny_hrnet(), "pose", out, gates=gates, progress=False, **{**SMALL, **changes})


KILLED = """
    import os, signal, sys
    import skipsim.traces.training.gumbel_training as training
    from skipsim.traces.train import train
    sys.path.insert(0, {folder!r})
    from test_gumbel_training import run
    from pathlib import Path
    real, calls = training.GumbelTraining.parts, []
    def parts(self, *arguments):
        calls.append(0)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, *arguments)
    training.GumbelTraining.parts = parts
    run(Path({out!r}))
"""


def test_killed_and_resumed_gate_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    straight, killed = tmp_path / "straight.safetensors", tmp_path / "killed.safetensors"
    run(straight)
    script = textwrap.dedent(KILLED.format(folder=str(Path(__file__).parent), out=str(killed)))
    died = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=os.environ)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert (tmp_path / "killed.checkpoint.safetensors").exists()
    run(killed)
    one, other = load_file(straight), load_file(killed)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert straight.with_suffix(".csv").read_text() == killed.with_suffix(".csv").read_text()


def test_a_high_price_shuts_gates_and_the_file_holds_what_was_reached(tmp_path: Path) -> None:
    out = tmp_path / "gated.safetensors"
    report = run(out, steps=12, checkpoint_every=4, beta=100.0, beta_rise=0.0, learning_rate=0.02)
    rows = list(csv.DictReader(out.with_suffix(".csv").open()))
    saved = [float(row["validation_gated_mac_reduction"]) for row in rows]
    assert saved[-1] > 2  # gates start open, and open ones cost more than the dense network: below 1
    network = tiny_hrnet().eval()
    gate = load_gumbel(network, out, block=2)
    converted = convert(network, gate)
    assert report["gate"]["block"] == 2
    assert set(report["scores"]["all"]) >= {"pck@0.05", "mac_reduction", "gated_mac_reduction"}
    assert all(layer in dict(converted.named_modules()) for layer in read_gumbel(out).weights)


def test_beta_rises_from_zero() -> None:
    plan = Plan(steps=100, beta=2.0, beta_rise=0.5)
    assert [plan.price(step) for step in (0, 25, 50, 99)] == [0, 1, 2, 2]
    assert Plan(beta=2.0, beta_rise=0.0).price(0) == 2


def test_gates_that_cannot_be_trained_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="clip_frames must be at least 2 to train gates, got 1"):
        run(tmp_path / "w.safetensors", clip_frames=1)
    with pytest.raises(InputError, match="test_frames must be at least 2 to score gates, got 1"):
        run(tmp_path / "w.safetensors", test_frames=1)
    with pytest.raises(InputError, match=r"gates need a trained network, and 'hrnet_w32' ships without weights"):
        train("hrnet_w32", "pose", tmp_path / "w.safetensors", gates=GateSettings(), progress=False)
    with pytest.raises(InputError, match="share 'blocks' is unknown"):
        training(tiny_hrnet(), share="blocks")
    assert not list(tmp_path.iterdir())

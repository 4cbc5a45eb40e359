"""Does training on another device than the CPU run whole, and give what the CPU gives?"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from second_device import DEVICE, SecondDevice

import skipsim.traces.train as training
from skipsim.traces.training.gumbel_training import GateSettings
from skipsim.traces.training.training_run import TrainingRun

NETWORKS = {"pose": ("pose_small", 64), "detection": ("detection_small", 128)}
WAYS = {
    "network": None,
    "gates": GateSettings(block=4),
    "frozen": GateSettings(block=4, signal="magnitude", filter="channels", freeze=True),
    "shared": GateSettings(share="block", update="accumulate"),
}
SHORT = {
    "steps": 2,
    "batch": 1,
    "clip_frames": 2,
    "pool_frames": 2,
    "pool_clips": 1,
    "validation_clips": 1,
    "test_clips": 1,
    "test_frames": 2,
    "checkpoint_every": 1,
}
take_step = training._take_step


@pytest.fixture
def conversion_keeps_subclasses() -> Iterator[None]:
    """Let `Module.to` put the second device's tensors in the place of parameters."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    yield
    torch.__future__.set_overwrite_module_params_on_conversion(False)


def test_the_second_device_refuses_what_a_gpu_would() -> None:
    here = torch.ones(3)
    with SecondDevice():
        there = here.to(DEVICE)
        assert there.device == DEVICE
        assert (there + 1).sum().item() == 6
        with pytest.raises(RuntimeError, match="two devices"):
            there + here
        with pytest.raises(RuntimeError):
            there.numpy()


def stopped_after_one(run: TrainingRun, *others: Any) -> float:
    """Take the first step only."""
    if run.step:
        raise KeyboardInterrupt
    return take_step(run, *others)


@pytest.mark.parametrize(
    ("task", "way"), [("pose", "network"), ("pose", "shared"), ("detection", "gates"), ("detection", "frozen")]
)
@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")  # to "meta", which is the second device
@pytest.mark.usefixtures("conversion_keeps_subclasses")
def test_training_elsewhere_stopped_and_resumed_ends_as_on_the_cpu(
    task: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, side = NETWORKS[task]
    plan = {**SHORT, "rows": side, "cols": side}

    def run(name: str) -> dict[str, torch.Tensor]:
        out = tmp_path / f"{name}.safetensors"
        report = training.train(network, task, out, gates=WAYS[way], progress=False, **plan)
        assert report["device"] == name
        return load_file(out)

    monkeypatch.setattr(training, "training_device", lambda: torch.device("cpu"))
    expected = run("cpu")
    monkeypatch.setattr(training, "training_device", lambda: DEVICE)
    monkeypatch.setattr(training, "_take_step", stopped_after_one)
    with SecondDevice(), pytest.raises(KeyboardInterrupt):
        run(DEVICE.type)
    monkeypatch.setattr(training, "_take_step", take_step)
    with SecondDevice():
        found = run(DEVICE.type)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6, msg=name)

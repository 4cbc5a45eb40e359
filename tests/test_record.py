"""Does a recording hold what the network really computed?"""

from __future__ import annotations

import hashlib
import importlib
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recorded_subject import Net, as_input, clip
from torch import Tensor, nn
from torch.nn import functional

from skipsim import load_trace
from skipsim.traces.convert import convert
from skipsim.traces.gates import InputNormGate, OutputNormGate
from skipsim.traces.layer import Layer
from skipsim.traces.quality import agreement
from skipsim.traces.record import layers_of, record
from skipsim.traces.skipconv import SkipConv2d

GATE = InputNormGate(threshold=0.02)


LAYERS = (
    Layer("stem", 3, 20, 16, 8, 10, 8, 3, 3, 2, 2, 1, 1),
    Layer("deep", 8, 10, 8, 8, 10, 8, 3, 3, 1, 1, 1, 1, groups=2),
    Layer("head", 8, 10, 8, 4, 10, 8),
    Layer("head", 8, 5, 4, 4, 5, 4, call=1),
)


def with_gate(layers: tuple[Layer, ...], gate: str, rows: int, cols: int) -> tuple[Layer, ...]:
    return tuple(
        Layer.from_dict(layer.to_dict() | {"gate": gate, "block_rows": rows, "block_cols": cols}) for layer in layers
    )


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_layers_come_in_call_order(device: str) -> None:
    with torch.device(device):
        model = Net()
    model.drop.train()
    model.deep.eval()
    assert layers_of(model, (1, 3, 20, 16)) == LAYERS
    assert layers_of(model, torch.zeros(1, 3, 20, 16, device=device), block=(2, 4), gate="output_norm") == with_gate(
        LAYERS, "output_norm", 2, 4
    )
    assert (model.drop.training, model.deep.training) == (True, False)
    converted = convert(model, InputNormGate(threshold=0.1, block=3))
    assert layers_of(converted, (1, 3, 20, 16)) == with_gate(LAYERS, "input_norm", 3, 3)


def masks_by_hand(model: nn.Module, gate: Any, **options: Any) -> list[list[Any]]:
    """Run the converted network frame by frame and read every layer's mask from it."""
    converted = convert(model, gate, **options).eval()
    found: list[list[Any]] = []

    def note(module: Any, arguments: Any, output: Any) -> None:
        found[-1].append(module.last_mask.numpy().copy())

    for module in converted.modules():
        if isinstance(module, SkipConv2d):
            module.register_forward_hook(note)
    with torch.no_grad():
        for frame in clip():
            found.append([])
            converted(as_input(frame))
    return found


@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize("kind", [InputNormGate, OutputNormGate])
def test_a_recording_holds_the_masks_of_every_call(where: str, kind: Any, tmp_path: Path) -> None:
    model, gate = Net(), kind(threshold=0.02, block=(2, 3))
    out = tmp_path / "run.trace" if where == "disk" else None
    trace = record(model, iter(clip()), gate, update="accumulate", reset_every=4, out=out)
    assert trace.layers == with_gate(LAYERS, gate.kind, 2, 3)
    assert (trace.frames, trace.reference_frames, trace.update) == (6, (0, 4), "accumulate")
    expected = masks_by_hand(model, gate, update="accumulate", reset_every=4)
    for frame, masks in enumerate(expected):
        for index, mask in enumerate(masks):
            np.testing.assert_array_equal(trace.mask(index, frame), mask)
    assert 0 < trace.density(frame=1) < 1
    assert not any(isinstance(module, SkipConv2d) for module in model.modules())
    assert model.training
    if out:
        assert trace.path == out
        assert load_trace(out).hash == trace.hash


def test_memory_and_disk_give_the_same_trace(tmp_path: Path) -> None:
    gate = InputNormGate(threshold=0.02)
    one, two = (record(Net(), clip(), gate, out=out) for out in (None, tmp_path / "a"))
    assert one.hash == two.hash
    assert one.origin == two.origin


def test_the_origin_says_how_to_repeat_it() -> None:
    model, frames = Net(), clip()
    trace = record(model, frames, InputNormGate(threshold=0.02, block=4), reset_every=5, network="mine", cuts=[3])
    origin = dict(trace.origin)
    versions = origin.pop("versions")
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(b"uint8 [20, 16, 3]")
        digest.update(frame.tobytes())
    weights = hashlib.sha256()
    for name in ("deep.bias", "deep.weight", "head.bias", "head.weight", "stem.bias", "stem.weight"):
        values = model.state_dict()[name]
        weights.update(f"{name}torch.float32 {list(values.shape)}".encode())
        weights.update(values.numpy().tobytes())
    assert origin == {
        "kind": "recorded",
        "network": "mine",
        "gate": "input_norm",
        "parameters": {"threshold": 0.02, "block": [4, 4]},
        "update": "recompute",
        "reset_every": 5,
        "share": "layer",
        "signal": "residual",
        "fold_batch_norm": False,
        "clip_starts": [0, 3],
        "left_dense": {},
        "weights_sha256": weights.hexdigest(),
        "frames_sha256": digest.hexdigest(),
        "input": [3, 20, 16],
    }
    assert versions["torch"] == torch.__version__
    assert set(versions) == {"skipsim", "torch", "numpy", "python"}


def test_cuts_start_a_new_clip() -> None:
    frames = clip()
    gate = InputNormGate(threshold=0.02)
    joined = record(Net(), frames[:4] + frames[2:], gate, cuts=[4], reset_every=3)
    first, second = record(Net(), frames[:4], gate, reset_every=3), record(Net(), frames[2:], gate, reset_every=3)
    assert joined.reference_frames == (0, 3, 4, 7)
    for index in range(len(LAYERS)):
        np.testing.assert_array_equal(joined.masks(index), np.concatenate([first.masks(index), second.masks(index)]))


def test_a_converted_model_is_recorded_as_it_is() -> None:
    gate = InputNormGate(threshold=0.02, block=2)
    converted = convert(Net(), gate, update="accumulate", reset_every=4)
    twice = [record(converted, clip()) for _ in range(2)]  # from a fresh state each time
    direct = record(Net(), clip(), gate, update="accumulate", reset_every=4)
    assert twice[0].hash == twice[1].hash == direct.hash
    assert twice[0].origin == direct.origin
    assert all(not module._states for module in converted.modules() if isinstance(module, SkipConv2d))


def test_a_model_alone_is_recorded_densely() -> None:
    trace = record(Net(), clip(1))
    assert trace.layers == LAYERS
    assert (trace.frames, trace.density(), trace.reference_frames, trace.origin["gate"]) == (1, 1.0, (), "none")
    assert trace.macs == trace.dense_macs


def test_convolutions_that_stay_dense_are_recorded_in_full() -> None:
    class Padded(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(functional.pad(input, (1, 1, 1, 1)))

    model = nn.Sequential(nn.Conv2d(3, 4, 3), Padded(4, 2, 3), nn.ConvTranspose2d(2, 2, 2))
    with pytest.warns(UserWarning, match="left dense"):
        trace = record(model, clip(), InputNormGate(threshold=0.02, block=2))
    assert [(layer.name, layer.gate, layer.block_rows, layer.out_rows) for layer in trace.layers] == [
        ("0", "input_norm", 2, 18),
        ("1", "none", 1, 18),
    ]
    assert (trace.density("1"), trace.density("0") < 1, trace.reference_frames) == (1.0, True, (0,))
    assert trace.origin["left_dense"] == {"1": "Padded", "2": "ConvTranspose2d"}


class OwnGate(nn.Module):
    """A user's module that skips by itself, with its mask for others to see; `late` sets it after the convolution."""

    def __init__(self, conv: nn.Conv2d, late: bool = False) -> None:
        super().__init__()
        self.conv = conv
        self.late = late
        self.last_mask: Tensor | None = None
        self.held: Tensor | None = None
        self.frame = 0

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.conv(x)
        rows, cols = -(-z.shape[2] // 2), -(-z.shape[3] // 4)
        mask = torch.arange(rows * cols).reshape(rows, cols) % 3 == self.frame % 3
        self.last_mask = mask[None, None] if self.frame else None
        if self.held is not None:
            pixels = mask.repeat_interleave(2, 0)[: z.shape[2]].repeat_interleave(4, 1)[:, : z.shape[3]]
            z = torch.where(pixels, z, self.held)
        self.held = z
        self.frame += 1
        return z


def test_masks_of_modules_that_skip_by_themselves() -> None:
    model = nn.Sequential(OwnGate(nn.Conv2d(3, 4, 3, padding=1)), nn.ReLU(), nn.Sequential(nn.Conv2d(4, 4, 1)))
    trace = record(model, clip(4), mask=lambda module: module.last_mask, block=(2, 4), update="previous")
    gated, dense = trace.layers
    assert (gated.name, gated.gate, gated.block_rows, gated.block_cols) == ("0.conv", "mask", 2, 4)
    assert (dense.name, dense.gate, dense.block_rows) == ("2.0", "none", 1)
    assert (trace.reference_frames, trace.update) == ((0,), "previous")
    for frame in range(1, 4):
        expected = np.arange(40).reshape(10, 4) % 3 == frame % 3
        np.testing.assert_array_equal(trace.mask(0, frame), expected)
    assert trace.density("2.0") == 1
    assert trace.origin["gate"] == "mask"
    assert trace.origin["parameters"] == {"block": [2, 4]}
    assert [type(module) for module in model.modules() if isinstance(module, nn.Conv2d)] == [nn.Conv2d, nn.Conv2d]


def test_masks_of_convolutions_that_skip_by_themselves() -> None:
    class Own(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            z = super().forward(input)
            self.last_mask = z[0].mean(0) > z.mean()  # one entry per pixel
            return z

    torch.manual_seed(0)
    conv = Own(3, 4, 3)
    trace = record(conv, clip(3), mask=lambda module: module.last_mask)
    assert trace.layers[0].name == "Own"
    with torch.no_grad():
        for frame, picture in enumerate(clip(3)):
            z = conv(as_input(picture))
            np.testing.assert_array_equal(trace.mask(0, frame), (z[0].mean(0) > z.mean()).numpy())


def test_quality_is_called_with_the_outputs_of_all_frames() -> None:
    model, gate = Net(), InputNormGate(threshold=0.1, block=2)
    seen = []

    def quality(outputs: list[Any]) -> dict[str, Any]:
        seen.append([output["levels"][0] for output in outputs])
        return {"sum": float(sum(output["levels"][1].sum() for output in outputs)), "headline": "sum"}

    trace = record(model, clip(), gate, quality=quality, agreement=True)
    gated, dense = seen
    with torch.no_grad():
        expected = [model.eval()(as_input(frame))["levels"] for frame in clip()]
        converted = convert(model, gate)
        reached = [converted(as_input(frame))["levels"] for frame in clip()]
    for got, wanted in zip(dense + gated, [level[0] for level in expected + reached], strict=True):
        torch.testing.assert_close(got, wanted)
    flat = [
        np.concatenate([tensor.numpy().ravel() for pair in levels for tensor in pair]) for levels in (reached, expected)
    ]
    assert trace.quality == {
        "sum": pytest.approx(sum(float(pair[1].sum()) for pair in reached), rel=1e-5),
        "dense_sum": pytest.approx(sum(float(pair[1].sum()) for pair in expected), rel=1e-5),
        "agreement": pytest.approx(agreement(*flat), abs=1e-6),
        "headline": "sum",
    }
    assert trace.quality["agreement"] < 1
    assert record(convert(model, gate), clip(), agreement=True).quality == {"agreement": trace.quality["agreement"]}
    assert record(model, clip(), InputNormGate(threshold=0), agreement=True).quality["agreement"] > 1 - 1e-9
    bare = record(model, clip(), quality=quality, agreement=True)  # the dense network itself, which runs once a frame
    assert bare.quality["agreement"] == 1
    assert bare.macs == bare.dense_macs
    assert record(model, clip(), gate).quality == {}


def test_outputs_are_not_kept_unless_asked_for() -> None:
    model, alive = nn.Conv2d(3, 2, 3), []
    references: list[weakref.ref[Tensor]] = []

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = model

        def forward(self, x: Tensor) -> Tensor:
            alive.append(sum(reference() is not None for reference in references))
            output: Tensor = 2 * self.conv(x)
            references.append(weakref.ref(output))
            return output

    for quality, most in ((None, 1), (lambda outputs: {"frames": len(outputs)}, 5)):
        alive.clear()
        references.clear()
        record(Whole(), clip(), GATE, quality=quality)
        assert max(alive) == most


def test_frames_are_prepared_as_the_user_says() -> None:
    gate = InputNormGate(threshold=0.02)
    frames = clip()

    def prepare(frame: Any) -> Tensor:
        return as_input(frame)

    usual = record(Net(), frames, gate)
    tensors = record(Net(), [as_input(frame)[0] for frame in frames], gate)
    own = record(Net(), frames, gate, preprocess=prepare)
    model = Net()
    model.preprocess = prepare  # type: ignore[assignment]
    attribute = record(model, frames, gate)
    named = record(
        Net(), [(index, frame) for index, frame in enumerate(frames)], gate, preprocess=lambda f: as_input(f[1])[0]
    )
    assert usual.hash == tensors.hash == own.hash == attribute.hash == named.hash
    assert usual.origin["frames_sha256"] == own.origin["frames_sha256"] != tensors.origin["frames_sha256"]


def test_a_path_is_read_as_a_video(tmp_path: Path) -> None:
    np.save(tmp_path / "clip.npy", np.stack(clip()))
    gate = InputNormGate(threshold=0.02)
    assert record(Net(), tmp_path / "clip.npy", gate).hash == record(Net(), clip(), gate).hash


def test_double_precision_and_training_afterwards() -> None:
    converted = convert(Net().double(), InputNormGate(threshold=0.02))
    record(converted, clip())
    converted.train()
    for frame in clip():
        output = converted(as_input(frame).double())["levels"]
    (output[0].sum() + output[1].sum()).backward()
    assert all(parameter.grad is not None for parameter in converted.parameters())


def test_progress_shows_only_on_longer_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("skipsim.traces.record")
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    shown = {}
    for seconds, wanted in [(1e9, True), (-1.0, True), (-1.0, False)]:
        monkeypatch.setattr(module, "PROGRESS_AFTER_SECONDS", seconds)
        record(Net(), clip(), GATE, progress=wanted)
        captured = capsys.readouterr()
        assert captured.out == ""
        shown[seconds, wanted] = "recording" in captured.err
        assert shown[seconds, wanted] or captured.err == ""
    assert shown == {(1e9, True): False, (-1.0, True): True, (-1.0, False): False}


def test_the_first_layer_sees_only_what_moves() -> None:
    """The square moves by two rows and one column: exactly the receptive fields of old and new place are computed."""
    frames = clip()
    trace = record(Net(), frames, InputNormGate(threshold=0))
    for frame in range(1, 6):
        changed = (frames[frame] != frames[frame - 1]).any(axis=2)
        padded = np.pad(changed, 1)
        expected = [[bool(padded[2 * r : 2 * r + 3, 2 * c : 2 * c + 3].any()) for c in range(8)] for r in range(10)]
        np.testing.assert_array_equal(trace.mask("stem", frame), expected)

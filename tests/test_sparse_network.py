"""Does a network that runs sparsely compute what the same network with dense convolutions and a selection computes?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from skipsim.errors import InputError
from skipsim.traces.convert import convert, reset
from skipsim.traces.execute.sparse_network import SparseNetwork
from skipsim.traces.gates import Gate, InputNormGate, OutputNormGate
from skipsim.traces.layer import Layer
from skipsim.traces.models.efficientdet import EfficientDet
from skipsim.traces.models.efficientnet import Stage
from skipsim.traces.models.hrnet import HRNet
from skipsim.traces.models.unet import UNet
from skipsim.traces.record import record
from skipsim.traces.skipconv import SkipConv2d


class Everything(nn.Module):
    """One of everything that networks are made of, on odd sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, padding="valid", bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.expand = nn.Conv2d(8, 24, 1)
        self.depthwise = nn.Conv2d(24, 24, 5, padding=2, groups=24)
        self.squeeze, self.excite = nn.Conv2d(24, 6, 1), nn.Conv2d(6, 24, 1)
        self.project = nn.Conv2d(24, 8, 1)
        self.dilated = nn.Conv2d(8, 8, 3, padding="same", dilation=2, groups=2)
        self.down = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        self.up = nn.Conv2d(16, 8, 1)
        self.transposed = nn.ConvTranspose2d(8, 4, 2, 2)
        self.weights = nn.Parameter(torch.tensor([0.5, 1.5]))
        self.head = nn.Conv2d(16, 16, 1)
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).reshape(3, 1, 1))

    def forward(self, images: Tensor) -> dict[str, Any]:
        x = functional.pad((images - self.mean) / 0.25, (0, 1, 0, 1))
        x = functional.silu(self.norm(self.stem(x)))
        y = functional.silu(self.depthwise(functional.silu(self.expand(x))))
        factors = torch.sigmoid(self.excite(functional.silu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        x = x + self.project(y * factors)
        x = torch.relu(self.dilated(x)) + x
        small = self.down(x)
        weights = torch.relu(self.weights) / self.weights.sum()
        joined = weights[0] * x + weights[1] * functional.interpolate(self.up(small), size=x.shape[-2:], mode="nearest")
        pooled = functional.max_pool2d(functional.pad(joined, (0, 1, 0, 1), value=-torch.inf), 3, 2)
        averaged = functional.avg_pool2d(joined, 2)
        smooth = functional.interpolate(joined, scale_factor=2, mode="bilinear")
        heads = [self.head(self.head(torch.cat([pooled, averaged], 1)))]
        rows = heads[0].permute(0, 2, 3, 1).reshape(1, -1, 4)
        return {
            "heads": heads,
            "rows": rows,
            "smooth": smooth + functional.pad(smooth, (0, 0, 0, 0)),
            "up": self.transposed(joined),
        }


def network(seed: int = 0) -> nn.Module:
    """Return a network with statistics as after training, so that no layer's output is all zero or one sign."""
    torch.manual_seed(seed)
    model = Everything()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return model.eval()


def clip(frames: int = 4, rows: int = 31, cols: int = 39) -> Iterator[Tensor]:
    """Yield a still picture with a little noise, and an object of noise that moves across it."""
    generator = torch.Generator().manual_seed(1)
    still = torch.rand(1, 3, rows, cols, generator=generator)
    for frame in range(frames):
        picture = still + 0.01 * torch.rand(still.shape, generator=generator)
        picture[..., 4:12, 3 + 4 * frame : 11 + 4 * frame] = torch.rand(1, 3, 8, 8, generator=generator)
        yield picture


class PerFrame(Mapping[tuple[str, int], np.ndarray]):
    """Masks of one frame of a densely executed network, by layer and call."""

    def __init__(self, model: nn.Module) -> None:
        self.found: dict[tuple[str, int], np.ndarray] = {}
        for module in model.modules():
            if isinstance(module, SkipConv2d):
                module.register_forward_hook(self._note)

    def _note(self, module: Any, arguments: Any, output: Any) -> None:
        self.found[module.layer_name, module.call] = module.last_mask.numpy()

    def __getitem__(self, key: tuple[str, int]) -> np.ndarray:
        return self.found[key]

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)


def agree(sparse: SparseNetwork, dense: nn.Module, frames: Iterator[Tensor]) -> float:
    """Check that both networks decide and compute the same on every frame; return the mean density after the first."""
    expected_masks, densities = PerFrame(dense), []
    for number, frame in enumerate(frames):
        with torch.inference_mode():
            expected, got = dense(frame), sparse(frame)
        for wanted, computed in zip(pytree.tree_leaves(expected), pytree.tree_leaves(got), strict=True):
            torch.testing.assert_close(computed, wanted, atol=2e-5, rtol=2e-5)
        masks = sparse.masks()
        assert masks.keys() == expected_masks.keys()
        for key, mask in expected_masks.items():
            np.testing.assert_array_equal(masks[key], mask, err_msg=f"{key}, frame {number}")
        if number > 0:
            densities.append(np.mean([mask.mean() for mask in masks.values()]))
    return float(np.mean(densities))


GATES: dict[str, Gate] = {
    "every change": InputNormGate(threshold=0.0),
    "pixels": InputNormGate(threshold=0.05),
    "blocks": InputNormGate(threshold=0.05, block=4),
    "oblong blocks": InputNormGate(threshold=0.03, block=(2, 3)),
    "output norm": OutputNormGate(threshold=0.3, block=2),
}


@pytest.mark.parametrize("name", GATES)
def test_masks_and_outputs_are_those_of_dense_execution(name: str) -> None:
    model, gate = network(), GATES[name]
    density = agree(SparseNetwork(convert(model, gate)), convert(model, gate), clip())
    assert density == 1 if name == "every change" else 0.02 < density < 0.9


class WholeLayer:
    """A gate of the user's own: all of a layer, or nothing, by the largest change."""

    kind: ClassVar[str] = "mask"
    block_shape = (8, 8)

    def for_layer(self, layer: Layer) -> WholeLayer:
        return self

    def mask(self, residual: Tensor, conv: nn.Conv2d) -> Tensor:
        rows, cols = functional.conv2d(
            residual, conv.weight, None, conv.stride, conv.padding, conv.dilation, conv.groups
        ).shape[2:]
        return torch.full((-(-rows // 8), -(-cols // 8)), bool(residual.abs().amax() > 0.3))

    def parameters(self) -> dict[str, Any]:
        return {}


def test_a_gate_of_the_users_own_decides_from_the_whole_residual() -> None:
    model = network()
    assert 0 < agree(SparseNetwork(convert(model, WholeLayer())), convert(model, WholeLayer()), clip()) < 1


def test_masks_of_the_users_own_are_asked_for_with_layer_call_and_frame() -> None:
    def mask(module: SkipConv2d) -> Any:
        layer = module.last_layer
        if module.layer_name == "head" or layer.out_rows < 2:
            return None
        pixels = torch.zeros(layer.out_rows, layer.out_cols, dtype=torch.bool)
        pixels[module.frame :, 1:] = True
        return pixels

    model = network()
    sparse = convert(model, mask=mask, block=2, execute="sparse")
    assert isinstance(sparse, SparseNetwork)
    assert 0.5 < agree(sparse, convert(model, mask=mask, block=2), clip()) < 1


def test_reference_frames_and_new_clips_compute_all() -> None:
    model, gate = network(), InputNormGate(threshold=0.1, block=2)
    sparse = SparseNetwork(convert(model, gate, reset_every=2))
    dense = convert(model, gate, reset_every=2)
    agree(sparse, dense, clip(5))
    assert sparse.reference
    reset(dense)
    reset(sparse)
    agree(sparse, dense, reversed(list(clip(3))))  # type: ignore[arg-type]


def test_a_gate_apart_from_its_producer_decides_the_same() -> None:
    model, gate = network(), InputNormGate(threshold=0.05, block=2)
    agree(SparseNetwork(convert(model, gate), placement="separate"), convert(model, gate), clip())


class Inverted(nn.Module):
    """An inverted residual block with squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.depthwise = nn.Conv2d(6, 18, 1), nn.Conv2d(18, 18, 3, 1, 1, groups=18)
        self.squeeze, self.excite = nn.Conv2d(18, 4, 1), nn.Conv2d(4, 18, 1)
        self.project = nn.Conv2d(18, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.silu(self.depthwise(functional.silu(self.expand(x))))
        factors = torch.sigmoid(self.excite(functional.silu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        out: Tensor = x + self.project(y * factors)
        return out


class Residual(nn.Module):
    """An inverted and a plain residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inverted = nn.Conv2d(3, 6, 3, 2, 1), Inverted()
        self.plain = nn.Sequential(nn.Conv2d(6, 6, 3, 1, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        x = self.inverted(torch.relu(self.stem(images)))
        out: Tensor = torch.relu(self.plain(x) + x)
        return out


@pytest.mark.parametrize("share", ["block", "network"])
@pytest.mark.parametrize("block", [1, 4])
def test_a_shared_gate_is_carried_on_as_in_dense_execution(share: str, block: int) -> None:
    torch.manual_seed(0)
    model, gate = Residual().eval(), InputNormGate(threshold=0.05, block=block)
    sparse = SparseNetwork(convert(model, gate, share=share))
    assert 0.01 < agree(sparse, convert(model, gate, share=share), clip(rows=32, cols=40)) < 0.9
    assert [layer.gate for layer in sparse.layers].count("shared") == {"block": 3, "network": 7}[share]


def test_dense_layers_compute_all_and_have_no_gate() -> None:
    model, gate = network(), InputNormGate(threshold=10.0)
    names = convert(model, gate, execute="sparse", dense_layers=["stem", "dilated"])
    rule = convert(
        model, gate, execute="sparse", dense_layers=lambda layer: layer.groups == 2 or layer.in_channels == 3
    )
    for frame in clip(3):
        for sparse in (names, rule):
            sparse(frame)
            found = {key[0]: bool(mask.all()) for key, mask in sparse.masks().items()}
            full = {name for name, everywhere in found.items() if everywhere}
            assert full == (set(found) if sparse.reference else {"stem", "dilated"})
    pixels = {layer.name: layer.macs for layer in names.layers}
    assert names.macs() == pixels["stem"] + pixels["dilated"]


def test_replayed_masks_are_executed_whatever_the_gates_say() -> None:
    model, gate = network(), InputNormGate(threshold=1e9, block=2)
    rng = np.random.default_rng(0)
    given: dict[int, dict[tuple[str, int], Any]] = {}

    def replay(frame: int) -> dict[tuple[str, int], Any]:
        layers = recorded.layers
        given[frame] = {each.key: rng.random((each.grid_rows, each.grid_cols)) < 0.4 for each in layers}
        return given[frame]

    recorded = SparseNetwork(convert(model, gate), replay=replay)
    by_hand = convert(model, mask=lambda module: given[module.frame][module.layer_name, module.call], block=2)
    for frame in clip(4):
        got, wanted = recorded(frame), by_hand(frame)
        for a, b in zip(pytree.tree_leaves(got), pytree.tree_leaves(wanted), strict=True):
            torch.testing.assert_close(a, b, atol=2e-5, rtol=2e-5)


def test_the_profile_names_every_convolution_and_runs_a_frame() -> None:
    model, gate = network(), InputNormGate(threshold=0.05)
    sparse, twin = (SparseNetwork(convert(model, gate)) for _ in range(2))
    for frame in clip(3):
        timings = sparse.profile(frame)
        twin(frame)
        assert all(timing.nanoseconds >= 0 for timing in timings)
        convolved = [timing.operation for timing in timings if timing.part == "convolve"]
        assert convolved == [layer.name if layer.call == 0 else f"{layer.name}@{layer.call}" for layer in sparse.layers]
        for key, mask in twin.masks().items():
            np.testing.assert_array_equal(sparse.masks()[key], mask)


def test_what_has_no_sparse_form_is_named() -> None:
    sparse = SparseNetwork(convert(network(), InputNormGate(threshold=0.05)))
    sparse(next(clip()))
    assert {"conv_transpose2d"} <= set(sparse.fallbacks)


def small_networks() -> dict[str, tuple[nn.Module, tuple[int, int]]]:
    """Return the architectures that ship, small."""
    stages = (Stage(8, 1, 1, 3, 1), Stage(8, 1, 2, 3), Stage(8, 1, 2, 5), Stage(16, 2, 2, 3))
    return {
        "hrnet": (HRNet(3, 8, modules=(1, 1), blocks=1, stem=8, stem_blocks=1), (32, 48)),
        "efficientdet": (EfficientDet(2, stem=8, stages=stages, channels=8, cells=1, repeats=1, levels=3), (64, 64)),
        "unet": (UNet(2, 4, 3), (24, 32)),
    }


@pytest.mark.parametrize("name", small_networks())
def test_networks_that_ship_run_without_falling_back_on_torch(name: str) -> None:
    model, (rows, cols) = small_networks()[name]
    sparse = SparseNetwork(convert(model.eval(), InputNormGate(threshold=0.05)))
    frames = list(clip(2, rows, cols))
    with torch.inference_mode():
        expected = model(frames[0])
    for got, wanted in zip(pytree.tree_leaves(sparse(frames[0])), pytree.tree_leaves(expected), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)
    sparse(frames[1])
    assert sparse.fallbacks == ()
    assert {layer.name for layer in sparse.layers} == {
        layer for layer, module in model.named_modules() if isinstance(module, nn.Conv2d)
    }


class Branching(nn.Module):
    """What it computes depends on the values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y if bool(y.sum() > 0) else -y


def test_a_first_frame_that_takes_long_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("skipsim.traces.execute.sparse_network.ANNOUNCED_AFTER_SECONDS", 0.0)
    sparse = convert(nn.Sequential(nn.Conv2d(3, 4, 3)), InputNormGate(0.1), execute="sparse")
    sparse(torch.zeros(1, 3, 6, 8))
    said = capsys.readouterr().err
    assert "sparse network: reading the graph and making kernels for (6, 8) frames; this takes some seconds" in said
    sparse(torch.zeros(1, 3, 6, 8))
    assert capsys.readouterr().err == ""


def test_bad_input_is_named() -> None:
    gate = InputNormGate(threshold=0.05)
    model = nn.Sequential(nn.Conv2d(3, 4, 1))
    cases: list[tuple[Any, str]] = [
        (
            lambda: convert(model, gate, execute="spars"),
            "convert: execute 'spars' is unknown; did you mean 'sparse'? choices: dense, sparse",
        ),
        (
            lambda: convert(model, gate, dense_layers=["0"]),
            'convert: dense_layers is an argument only together with execute="sparse"',
        ),
        (
            lambda: convert(model, gate, execute="sparse", dense_layers=["1"]),
            "convert: dense_layers: no layer '1'; choices: 0",
        ),
        (
            lambda: convert(model, gate, execute="sparse", update="previous"),
            'convert: execute="sparse" runs the update form "recompute", got \'previous\'',
        ),
        (
            lambda: SparseNetwork(convert(model, gate), placement="fuse"),
            "convert: placement 'fuse' is unknown; did you mean 'fused'? choices: fused, separate",
        ),
        (
            lambda: convert(model, gate, execute="sparse")(torch.zeros(2, 3, 4, 4)),
            "sparse network: a frame must be a float32 tensor [1, channels, rows, cols] on the CPU, got torch.float32 "
            "[2, 3, 4, 4] on cpu",
        ),
        (
            lambda: convert(model, gate, execute="sparse")(np.zeros((1, 3, 4, 4), np.float32)),
            "sparse network: a frame must be a float32 tensor [1, channels, rows, cols], got a ndarray; "
            "torch.from_numpy makes one of an array",
        ),
        (
            lambda: record(convert(model, gate, execute="sparse"), [torch.zeros(3, 4, 4)] * 2),
            'record: the model runs sparsely and gives its masks itself; record it with execute="dense"',
        ),
        (
            lambda: convert(model, gate, execute="sparse").masks(),
            "sparse network: layers and masks are known from the first frame on; call it with one",
        ),
    ]
    for call, message in cases:
        with pytest.raises(InputError) as error:
            call()
        assert str(error.value) == message
    sparse = convert(model, gate, execute="sparse")
    sparse(torch.zeros(1, 3, 4, 4))
    with pytest.raises(InputError, match=r"input size changed from \[1, 3, 4, 4\] to \[1, 3, 4, 5\]"):
        sparse(torch.zeros(1, 3, 4, 5))
    with pytest.raises(InputError, match="network Branching: can't be read as a graph of operations"):
        convert(Branching(), gate, execute="sparse")(torch.zeros(1, 3, 4, 4))

"""Do layers that share a gate compute what the layer before them changed, and is a gate set by layer where asked?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from skipsim.analysis.conventions import read_threshold
from skipsim.errors import InputError
from skipsim.traces.convert import convert, dense_copy, layer_gates
from skipsim.traces.gates import HoldGate, InputNormGate
from skipsim.traces.layer import Layer
from skipsim.traces.models.hrnet import BasicBlock, Bottleneck
from skipsim.traces.per_layer import read_table, value_for
from skipsim.traces.record import record
from skipsim.traces.sharing import resized
from skipsim.traces.skipconv import UPDATES, SkipConv2d


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


class InvertedResidual(nn.Module):
    """Expand, depthwise, project, with squeeze and excitation on a 1x1 map in between."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, 2 * channels, 1)
        self.depthwise = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.squeeze = nn.Conv2d(2 * channels, 2, 1)
        self.excite = nn.Conv2d(2, 2 * channels, 1)
        self.project = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(self.expand(x).relu()).relu()
        y = y * self.excite(self.squeeze(y.mean((2, 3), keepdim=True)).relu()).sigmoid()
        projected: Tensor = self.project(y)
        return x + projected


def network(*parts: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*parts).eval()


def moving_square(frames: int, channels: int = 4, size: int = 16, seed: int = 0) -> list[Tensor]:
    still = torch.randn(1, channels, size, size, generator=torch.Generator().manual_seed(seed))
    clip = []
    for frame in range(frames):
        x = still.clone()
        x[:, :, 3:6, 2 + frame : 5 + frame] += 2
        clip.append(x)
    return clip


def skipping(model: nn.Module) -> dict[str, SkipConv2d]:
    return {name: module for name, module in model.named_modules() if isinstance(module, SkipConv2d)}


@pytest.mark.parametrize("update", sorted(UPDATES))
def test_one_gate_per_block_at_threshold_zero_is_the_dense_network(update: str) -> None:
    torch.manual_seed(1)
    model = network(BasicBlock(4), Bottleneck(4, 3), InvertedResidual(12))
    converted = convert(model, InputNormGate(0, block=2), share="block", update=update)
    for x in moving_square(4):
        assert torch.allclose(converted(x), model(x), atol=1e-4)


def test_the_mask_grows_by_each_layers_kernel_and_the_gate_is_charged_once() -> None:
    model = network(BasicBlock(4))
    converted = convert(model, InputNormGate(0.0), share="block")
    still = torch.zeros(1, 4, 16, 16)
    touched = still.clone()
    touched[0, 0, 8, 8] = 1
    converted(still)
    converted(touched)
    first, second = skipping(converted).values()
    # A 3x3 kernel reads one changed pixel from 3x3 positions; the next 3x3 kernel reads those from 5x5.
    expected = np.zeros((16, 16), bool)
    expected[7:10, 7:10] = True
    assert (first.last_mask.numpy() == expected).all()
    expected[6:11, 6:11] = True
    assert (second.last_mask.numpy() == expected).all()
    gated = layer_gates(converted)
    assert [(one.layer.gate, one.leader) for one in gated] == [("input_norm", None), ("shared", "0.conv1")]
    assert gated[0].gate == InputNormGate(0.0)
    assert gated[1].gate is None
    # One subtraction per input value and one addition per tap and position, for the first layer only.
    assert [one.layer.gate_macs for one in gated] == [4 * 16 * 16 + 9 * 16 * 16, 0]


def test_what_does_not_read_the_layer_before_has_a_gate_of_its_own() -> None:
    converted = convert(network(Bottleneck(4, 3), InvertedResidual(12)), InputNormGate(0.1, block=4), share="block")
    converted(moving_square(1)[0])
    assert {one.layer.name: one.leader for one in layer_gates(converted)} == {
        "0.conv1": None,
        "0.conv2": "0.conv1",
        "0.conv3": "0.conv1",
        "0.downsample.0": None,
        "1.expand": None,
        "1.depthwise": "1.expand",
        "1.squeeze": None,
        "1.excite": None,
        "1.project": "1.expand",
    }


def test_a_block_that_runs_at_several_levels_decides_at_each() -> None:
    class Levels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.head(x), self.head(x[..., ::2, ::2])

    model = network(Levels())
    converted = convert(model, InputNormGate(0), share="block")
    for x in moving_square(4):
        for got, wanted in zip(converted(x), model(x), strict=True):
            assert torch.allclose(got, wanted, atol=1e-5)
    calls = [(one.layer.name, one.layer.call, one.layer.gate) for one in layer_gates(converted)]
    assert calls == [
        ("0.head.0", 0, "input_norm"),
        ("0.head.0", 1, "input_norm"),
        ("0.head.1", 0, "shared"),
        ("0.head.1", 1, "shared"),
    ]


def test_one_gate_for_the_network_looks_at_the_frame_and_reaches_every_map() -> None:
    model = network(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, 3, stride=2, padding=1), nn.Conv2d(4, 2, 1)
    )
    converted = convert(model, InputNormGate(0), share="network")
    x = torch.zeros(1, 3, 16, 16)
    converted(x)
    x[0, :, 9, 9] = 1
    converted(x)
    first, second, third = (layer.last_mask.numpy() for layer in skipping(converted).values())
    # Output (r, c) of a strided 3x3 reads rows 2r-1..2r+1: pixel 9 is read by rows 4 and 5 of 8.
    assert {tuple(place) for place in np.argwhere(first)} == {(4, 4), (4, 5), (5, 4), (5, 5)}
    # Rows 4 and 5 are read by rows 2 (3..5) and 3 (5..7) of 4; the 1x1 layer reads a 4x4 map: 4 and 5 lie in cell 2.
    assert {tuple(place) for place in np.argwhere(second)} == {(2, 2), (2, 3), (3, 2), (3, 3)}
    assert {tuple(place) for place in np.argwhere(third)} == {(2, 2)}
    assert [one.layer.gate for one in layer_gates(converted)] == ["input_norm", "shared", "shared"]


@pytest.mark.parametrize(("side", "cells"), [(8, 4), (7, 3), (5, 2), (3, 6)])
def test_a_mask_of_another_size_is_on_wherever_a_pixel_in_it_is(side: int, cells: int) -> None:
    for row in range(side):
        pixels = torch.zeros((side, side), dtype=torch.bool)
        pixels[row, side - 1] = True
        reached = resized(pixels, cells, cells).nonzero().tolist()
        # Cell c holds the pixels from floor(c side / cells) to ceil((c + 1) side / cells).
        rows, cols = (
            [cell for cell in range(cells) if cell * side // cells <= place < -(-(cell + 1) * side // cells)]
            for place in (row, side - 1)
        )
        assert reached == [[one, other] for one in rows for other in cols]


def test_a_second_clip_begins_like_the_first() -> None:
    from skipsim.traces.convert import reset

    converted = convert(network(BasicBlock(4)), InputNormGate(0.01, block=2), share="block")
    runs = []
    for _ in range(2):
        runs.append([converted(x) for x in moving_square(3)])
        reset(converted)
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


def test_hold_computes_every_nth_frame_and_nothing_in_between() -> None:
    model = network(nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1))
    frames = [x[0] for x in moving_square(5)]
    trace = record(model, frames, HoldGate(block=3), reset_every=2, agreement=True)
    assert trace.reference_frames == (0, 2, 4)
    assert [trace.density(frame=frame) for frame in range(5)] == [1, 0, 1, 0, 1]
    assert trace.mac_reduction == pytest.approx(5 / 3)
    converted = convert(model, HoldGate(), reset_every=2)
    outputs = [converted(x[None]) for x in frames]
    assert torch.equal(outputs[1], outputs[0])
    assert torch.equal(outputs[3], outputs[2])
    assert not torch.equal(outputs[2], outputs[1])


def test_gates_may_look_at_the_frame_or_at_the_magnitude_of_its_change() -> None:
    class Sum:
        kind, block_shape = "mask", (1, 1)

        def for_layer(self, layer: Layer) -> Sum:
            return self

        def mask(self, signal: Tensor, conv: nn.Conv2d) -> Tensor:
            seen.append(signal[0, 0].clone())
            return torch.ones(signal.shape[-2:], dtype=torch.bool)

        def parameters(self) -> dict[str, object]:
            return {}

    expected = {"residual": [-2.0, 3.0], "frame": [1.0, 2.0], "magnitude": [2.0, 3.0]}
    for signal, values in expected.items():
        seen: list[Tensor] = []
        converted = convert(network(nn.Conv2d(1, 1, 1)), Sum(), signal=signal)  # type: ignore[arg-type]
        converted(torch.tensor([3.0, -1.0]).reshape(1, 1, 1, 2))
        converted(torch.tensor([1.0, 2.0]).reshape(1, 1, 1, 2))
        assert seen[0].flatten().tolist() == values


def test_blocks_and_thresholds_may_differ_by_map_size_and_by_name() -> None:
    model = network(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, 3, stride=2, padding=1), nn.Conv2d(4, 2, 1)
    )
    gate = InputNormGate({"2": 0.5, "*": 0.1}, block={">=8x8": 4, "4x4": (2, 1)})
    trace = record(model, [torch.rand(3, 16, 16) for _ in range(2)], gate)
    assert [(layer.block_rows, layer.block_cols) for layer in trace.layers] == [(4, 4), (2, 1), (2, 1)]
    assert trace.origin["parameters"] == {
        "threshold": {"2": 0.5, "*": 0.1},
        "block": {">=8x8": [4, 4], "4x4": [2, 1]},
    }
    converted = convert(model, gate)
    converted(torch.rand(1, 3, 16, 16))
    assert [one.gate.threshold for one in layer_gates(converted)] == [0.1, 0.1, 0.5]  # type: ignore[union-attr]


def test_the_first_key_that_fits_counts_and_a_layer_without_one_is_named() -> None:
    layer = Layer("stage2.0.conv1", 8, 16, 12, 8, 16, 12)
    assert value_for({"16x12": 1, "*": 2}, layer, "block") == 1
    assert value_for({"stage3.*": 1, "stage2.*": 2, "16x12": 3}, layer, "block") == 2
    assert value_for({">=16x13": 1, ">=16x12": 2}, layer, "block") == 2
    assert value_for(7, layer, "block") == 7
    with pytest.raises(InputError) as error:
        value_for({"8x8": 1}, layer, "gate 'input_norm': block")
    assert str(error.value) == (
        "gate 'input_norm': block: no key fits layer 'stage2.0.conv1' with its 16x12 map; keys: 8x8 "
        "(add '*' for all others)"
    )


def test_tables_are_read_from_text() -> None:
    assert read_table("64x64=8, >=16x16=2x4,*=1") == {"64x64": "8", ">=16x16": "2x4", "*": "1"}
    for text, message in (
        ("64x64", "settings by layer: each entry must be KEY=VALUE, got '64x64' in '64x64'"),
        ("a=1,a=2", "settings by layer: key 'a' is there twice in 'a=1,a=2'"),
    ):
        with pytest.raises(InputError) as error:
            read_table(text)
        assert str(error.value) == message


def test_thresholds_are_read_from_text_and_dense_layers_with_them() -> None:
    assert read_threshold("--threshold", "0.1") == 0.1
    assert read_threshold("--threshold", "conv1=dense,stage2*=0.05,*=1") == {"conv1": None, "stage2*": 0.05, "*": 1}
    for text in ("dense", "0.1.2", "conv1=much,*=1"):
        with pytest.raises(InputError, match=r"must be a number, or by layer KEY=NUMBER,\.\.\. with dense for"):
            read_threshold("--threshold", text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"share": "blocks"}, "convert: share 'blocks' is unknown; did you mean 'block'?"),
        ({"signal": "x"}, "convert: signal 'x' is unknown; choices: frame, magnitude, residual"),
        ({"gate": None, "mask": lambda layer: None, "share": "block"}, "convert: share='block' needs a gate"),
    ],
)
def test_bad_choices_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as error:
        convert(network(BasicBlock(4)), **{"gate": InputNormGate(0.1), **arguments})  # type: ignore[arg-type]
    assert str(error.value).startswith(message)


def test_the_trace_says_how_gates_were_shared() -> None:
    converted = convert(
        network(nn.Conv2d(4, 4, 1), BasicBlock(4)), InputNormGate(0.1), share="block", fold_batch_norm=True
    )
    trace = record(converted, [x[0] for x in moving_square(2)])
    assert {key: trace.origin[key] for key in ("share", "signal", "fold_batch_norm")} == {
        "share": "block",
        "signal": "residual",
        "fold_batch_norm": True,
    }
    assert [layer.gate for layer in trace.layers] == ["input_norm", "input_norm", "shared"]


def test_layer_gates_are_asked_for_after_the_first_frame() -> None:
    with pytest.raises(InputError, match="layer_gates: gates are known after the first frame"):
        layer_gates(convert(network(BasicBlock(4)), InputNormGate(0.1)))


@pytest.mark.parametrize("update", sorted(UPDATES))
def test_folded_batch_normalisation_is_the_same_network(update: str) -> None:
    model = network(BasicBlock(4), Bottleneck(4, 3))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean, module.running_var = (
                torch.randn(module.num_features),
                torch.rand(module.num_features) + 0.5,
            )
            module.weight.copy_(torch.randn(module.num_features))
            module.bias.copy_(torch.randn(module.num_features))
            module.eps = 0.1  # so that one who forgets it is seen
    converted = convert(model, InputNormGate(0), update=update, fold_batch_norm=True)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in converted.modules())
    for x in moving_square(4):  # the shift of the normalisation, added on every frame, would be seen
        assert torch.allclose(converted(x), model(x), atol=1e-4)
    plain = dense_copy(converted)
    assert torch.allclose(plain(x), model(x), atol=1e-4)


def test_batch_normalisation_that_reads_something_else_is_not_folded_silently() -> None:
    class Swapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.conv(self.norm(x))
            return out

    converted = convert(Swapped().eval(), InputNormGate(0), fold_batch_norm=True)
    with pytest.raises(InputError) as error:
        converted(torch.zeros(1, 4, 4, 4))
    assert str(error.value) == (
        "convert: batch normalisation 'norm' does not read layer 'conv', beside which it is defined; "
        "convert with fold_batch_norm=False"
    )


def test_an_output_norm_gate_sees_the_folded_scale() -> None:
    from skipsim.traces.gates import OutputNormGate

    model = network(nn.Conv2d(2, 2, 1, bias=False), nn.BatchNorm2d(2))
    norm = model[1]
    norm.running_var.fill_(1 - norm.eps)  # type: ignore[union-attr, operator]
    norm.weight.fill_(10.0)  # type: ignore[union-attr, operator]
    change, decided = 0.01, {}
    weight = float(model[0].weight.abs().sum() / 2)  # type: ignore[union-attr, operator]
    for fold in (False, True):
        # Between the change's effect before the normalisation and after it, ten times as much.
        converted = convert(model, OutputNormGate(3 * change * weight), fold_batch_norm=fold)
        converted(torch.zeros(1, 2, 4, 4))
        converted(torch.full((1, 2, 4, 4), change))
        (layer,) = skipping(converted).values()
        decided[fold] = bool(layer.last_mask.all()), bool(layer.last_mask.any())
    assert decided == {False: (False, False), True: (True, True)}

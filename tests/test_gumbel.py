"""Does the Gumbel gate decide, cost and serialise as defined? Compared with the formulas written out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from skipsim.errors import InputError
from skipsim.traces.convert import convert
from skipsim.traces.gumbel import GumbelGate, load_gumbel, read_gumbel
from skipsim.traces.gumbel_file import HEADER
from skipsim.traces.layer import Layer
from skipsim.traces.record import record
from skipsim.traces.skipconv import SkipConv2d


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 2, 1)
    ).eval()


def gates(seed: int = 1) -> dict[str, tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    return {
        "0": (torch.randn(1, 3, 3, 3, generator=draw), torch.randn(1, generator=draw)),
        "3": (torch.randn(1, 4, 1, 1, generator=draw), torch.randn(1, generator=draw)),
    }


def masks_after(model: nn.Module, frames: list[Tensor]) -> dict[str, Tensor]:
    with torch.no_grad():
        for x in frames:
            model(x)
    return {name: module.last_mask for name, module in model.named_modules() if isinstance(module, SkipConv2d)}


@pytest.mark.parametrize("size", [(16, 16), (13, 11)])
@pytest.mark.parametrize("block", [(1, 1), (4, 4), (3, 2), (64, 64)])
def test_a_block_is_on_if_any_position_has_a_logit_of_at_least_zero(
    block: tuple[int, int], size: tuple[int, int]
) -> None:
    first, second = torch.rand(1, 3, *size), torch.rand(1, 3, *size)
    weight, bias = gates()["0"]
    model = convert(network(), GumbelGate({"0": (weight, bias)}, block=block))
    mask = masks_after(model, [first, second])["0"].numpy()
    padded = np.pad((second - first)[0].numpy(), ((0, 0), (1, 1), (1, 1)))
    rows, cols = -(-size[0] // 2), -(-size[1] // 2)
    on = np.zeros((-(-rows // block[0]), -(-cols // block[1])), bool)
    for row in range(rows):
        for col in range(cols):
            window = padded[:, 2 * row : 2 * row + 3, 2 * col : 2 * col + 3]
            on[row // block[0], col // block[1]] |= (window * weight[0].numpy()).sum() + float(bias) >= 0
    assert (mask == on).all()


def test_exact_ties_are_computed() -> None:
    weight, bias = torch.zeros(1, 3, 3, 3), torch.zeros(1)
    frames = [torch.rand(1, 3, 8, 8) for _ in range(2)]
    assert masks_after(convert(network(), GumbelGate({"0": (weight, bias)})), frames)["0"].all()
    just_below = torch.full((1,), -1e-6)
    assert not masks_after(convert(network(), GumbelGate({"0": (weight, just_below)})), frames)["0"].any()
    assert not masks_after(convert(network(), GumbelGate({"0": (weight, bias)}, threshold=0.1)), frames)["0"].any()


def test_layers_without_a_gate_are_dense_and_the_bias_is_added_once() -> None:
    model = network()
    always = {name: (torch.zeros_like(weight), torch.ones(1)) for name, (weight, _) in gates().items()}
    converted = convert(model, GumbelGate(always))
    with torch.no_grad():
        for _ in range(4):
            x = torch.rand(1, 3, 8, 8)
            assert torch.allclose(converted(x), model(x), atol=1e-6)
    never = {name: (torch.zeros_like(weight), -torch.ones(1)) for name, (weight, _) in gates().items()}
    converted = convert(model, GumbelGate(never))
    with torch.no_grad():
        first = converted(x)
        assert torch.equal(converted(torch.rand(1, 3, 8, 8)), first)


def test_the_trace_charges_the_gate_and_notes_its_parameters() -> None:
    gate = GumbelGate(gates(), block=2)
    trace = record(network(), [torch.rand(3, 8, 8) for _ in range(3)], gate, reset_every=2)
    assert [layer.gate for layer in trace.layers] == ["gumbel", "none", "gumbel"]
    # One output channel with the layer's kernel: 3x3 taps on 3 channels, and 1 tap on 4, at 4x4 positions.
    assert [layer.gate_macs for layer in trace.layers] == [9 * 3 * 16, 0, 4 * 16]
    assert trace.origin["gate"] == "gumbel"
    parameters = trace.origin["parameters"]
    assert (parameters["block"], parameters["threshold"], parameters["layers"]) == ([2, 2], 0.0, 2)
    assert parameters["gate_weights_sha256"] != GumbelGate(gates(2), block=2).parameters()["gate_weights_sha256"]
    # The depthwise layer has no gate and runs whole on the one frame that is not a reference frame.
    dense = [9 * 3 * 4 * 16, 9 * 4 * 16, 4 * 2 * 16]
    executed = trace.computed_pixels[1] * [9 * 3 * 4, 9 * 4, 4 * 2]
    assert executed[1] == dense[1]
    assert trace.macs == 2 * sum(dense) + executed.sum() + 9 * 3 * 16 + 4 * 16


def write(path: Path, gate: GumbelGate, model: nn.Module) -> Path:
    save_file(dict(model.state_dict()) | gate.tensors(), path, metadata={HEADER: gate.header()})
    return path


def test_a_file_gives_back_gates_and_network(tmp_path: Path) -> None:
    trained, gate = network(), GumbelGate(gates(), {">=8x8": 4, "*": (2, 1)}, share="block", signal="magnitude")
    path = write(tmp_path / "w.safetensors", gate, trained)
    torch.manual_seed(5)
    other = nn.Sequential(*(type(part)(**arguments) for part, arguments in zip(trained, PARTS, strict=True)))
    loaded = load_gumbel(other, path)
    assert all(torch.equal(one, other.state_dict()[name]) for name, one in trained.state_dict().items())
    assert loaded.header() == gate.header()
    assert loaded.parameters() == gate.parameters()
    converted = convert(other.eval(), loaded)
    module = converted[0]
    assert isinstance(module, SkipConv2d)
    assert (module.share, module.signal) == ("block", "magnitude")


PARTS: list[dict[str, object]] = [
    {"in_channels": 3, "out_channels": 4, "kernel_size": 3, "stride": 2, "padding": 1},
    {},
    {"in_channels": 4, "out_channels": 4, "kernel_size": 3, "padding": 1, "groups": 4},
    {"in_channels": 4, "out_channels": 2, "kernel_size": 1},
]


def test_files_and_gates_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "w.safetensors", GumbelGate(gates(), block=4), network())
    with pytest.raises(InputError, match=r"were trained for block \[4, 4\], asked for \[8, 8\]"):
        load_gumbel(network(), path, block=8)
    with pytest.raises(InputError, match=r"absent.safetensors: no such file"):
        read_gumbel(tmp_path / "absent.safetensors")
    save_file(network().state_dict(), tmp_path / "plain.safetensors")
    with pytest.raises(InputError, match=r"holds no Gumbel gates; train them with: skipsim train --gate gumbel"):
        read_gumbel(tmp_path / "plain.safetensors")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"not a whole safetensors file"):
        read_gumbel(path)
    with pytest.raises(InputError, match=r"gate 'gumbel': Sequential has no convolution 'conv9'"):
        convert(network(), GumbelGate({"conv9": gates()["0"]}))
    with pytest.raises(InputError, match=r"these gates were trained with share 'layer', got 'block'"):
        convert(network(), GumbelGate(gates()), share="block")
    with pytest.raises(InputError, match=r"filter of layer '3' must have shape \[1, 4, 1, 1\], got \[1, 3, 3, 3\]"):
        masks_after(convert(network(), GumbelGate({"3": gates()["0"]})), [torch.rand(1, 3, 8, 8)])
    layer = Layer("0", 3, 8, 8, 4, 4, 4, 3, 3)
    gate = GumbelGate(gates(), block=4).for_layer(layer)
    assert gate is not None
    assert gate.block_shape == (4, 4)

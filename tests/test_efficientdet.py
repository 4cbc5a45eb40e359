"""Is EfficientDet padded, fused and shared between levels as its checkpoints expect, and can it be converted?"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from skipsim.traces.gates import InputNormGate
from skipsim.traces.models import network
from skipsim.traces.models.bifpn import FUSION_EPSILON, Cell, Combine, Resample
from skipsim.traces.models.efficientdet import EfficientDet
from skipsim.traces.models.efficientnet import Stage, pad_same, scaled
from skipsim.traces.record import layers_of, record
from skipsim.traces.synthetic import synthetic_trace

ORACLES = Path(__file__).parent / "oracles"


def tiny(**changes):
    stages = (
        Stage(8, 1, 1, 3, 1),
        Stage(8, 1, 2, 3, 2),
        Stage(8, 2, 2, 5, 2),
        Stage(8, 1, 2, 3, 2),
        Stage(8, 1, 2, 5, 2),
    )
    torch.manual_seed(0)
    return EfficientDet(2, stem=8, stages=stages, channels=8, cells=1, repeats=1, **changes).eval()


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [7, 8, 9, 16])
@pytest.mark.parametrize("stride", [1, 2])
def test_same_padding_gives_size_over_stride_and_puts_the_odd_pixel_at_the_end(kernel, size, stride):
    # TensorFlow's documentation of "SAME": out = ceil(in / stride), pad = max((out - 1) stride + kernel - in, 0),
    # half of it, rounded down, before and the rest after.
    out = -(-size // stride)
    total = max((out - 1) * stride + kernel - size, 0)
    marked = torch.zeros(1, 1, size, size)
    marked[..., 0, 0] = 1
    padded = pad_same(marked, kernel, stride)
    assert list(padded.shape[-2:]) == [size + total, size + total]
    assert padded[0, 0].nonzero().tolist() == [[total // 2, total // 2]]
    assert functional.conv2d(padded, torch.ones(1, 1, kernel, kernel), stride=stride).shape[-1] == out


@pytest.mark.parametrize(
    ("width", "depth", "stem", "channels", "blocks"),
    [
        # Tan and Le, ICML 2019: B0 is table 1; B3's stem and widths as in the published checkpoint of EfficientDet-D3.
        (1.0, 1.0, 32, [16, 24, 40, 80, 112, 192, 320], [1, 2, 2, 3, 3, 4, 1]),
        (1.2, 1.4, 40, [24, 32, 48, 96, 136, 232, 384], [2, 3, 3, 5, 5, 6, 2]),
    ],
)
def test_compound_scaling_rounds_channels_to_eights_and_blocks_up(width, depth, stem, channels, blocks):
    found_stem, stages = scaled(width, depth)
    assert found_stem == stem
    assert [stage.channels for stage in stages] == channels
    assert [stage.blocks for stage in stages] == blocks


def test_fusion_is_a_weighted_mean_of_resampled_maps():
    combine = Combine({0: Resample(1, 1, 1), 1: Resample(1, 1, 0), 2: Resample(1, 1, -1)})
    combine.edge_weights.data = torch.tensor([1.0, -5.0, 3.0])  # a negative weight counts as 0
    fine, same = torch.arange(36.0).reshape(1, 1, 6, 6), torch.rand(1, 1, 3, 3)
    coarse = torch.tensor([[[[2.0, 7.0], [1.0, 5.0]]]])
    fused = combine([fine, same, coarse], same)
    # The maximum of 3x3 windows with stride 2 is their last pixel; of an even size the padding lies below and right.
    rows = [[6 * min(2 * i + 2, 5) + min(2 * j + 2, 5) for j in range(3)] for i in range(3)]
    nearest = torch.tensor([[2.0, 2.0, 7.0], [2.0, 2.0, 7.0], [1.0, 1.0, 5.0]])
    expected = (torch.tensor(rows) + 3 * nearest) / (4 + FUSION_EPSILON)
    assert torch.allclose(fused[0, 0], expected)


def test_maximum_ignores_the_padding():
    assert Resample(1, 1, 1)(torch.full((1, 1, 4, 4), -3.0), torch.zeros(1)).unique().tolist() == [-3.0]


def test_a_cell_wires_five_levels_as_the_paper_draws_them():
    # Figure 3 (d): P6' P5' P4' P3 on the way down, then P4 P5 P6 P7 on the way up; only P4 to P6 take three maps.
    sources = [list(map(int, node.combine.resample)) for node in Cell([8] * 5, 8).fnode]
    assert sources == [[3, 4], [2, 5], [1, 6], [0, 7], [1, 7, 8], [2, 6, 9], [3, 5, 10], [4, 11]]
    assert Cell([8] * 5, 8).latest == (8, 9, 10, 11, 12)


@pytest.mark.parametrize(("rows", "cols"), [(64, 96), (75, 61), (128, 128)])
def test_any_picture_size_gives_maps_of_an_eighth_of_it_and_coarser(rows, cols):
    classes, boxes = tiny()(torch.rand(2, 3, rows, cols))
    sizes = [(-(-rows // 2**level), -(-cols // 2**level)) for level in range(3, 8)]
    assert [tuple(x.shape) for x in classes] == [(2, 18, *size) for size in sizes]
    assert [tuple(x.shape) for x in boxes] == [(2, 36, *size) for size in sizes]


def test_fewer_levels_leave_out_the_coarsest():
    classes, _ = tiny(levels=4)(torch.rand(1, 3, 64, 64))
    assert [x.shape[-1] for x in classes] == [8, 4, 2, 1]


def test_first_scores_are_one_in_a_hundred():
    classes, _ = network("efficientdet_d0", weights=None)(torch.zeros(1, 3, 64, 64))
    scores = torch.cat([x.detach().sigmoid().flatten() for x in classes])
    assert float(scores.median()) == pytest.approx(0.01, rel=0.5)


def test_symbolic_tracing_gives_the_same_network():
    model, x = tiny(), torch.rand(1, 3, 61, 75)
    traced = torch.fx.symbolic_trace(model)
    for ours, theirs in zip(model(x), traced(x), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_heads_shared_between_levels_are_one_layer_per_level():
    with torch.device("meta"):
        layers = layers_of(network("efficientdet_d0"), (1, 3, 512, 512))
    shared = [layer for layer in layers if layer.name == "class_net.predict.conv_pw"]
    assert [(layer.call, layer.out_rows) for layer in shared] == [(0, 64), (1, 32), (2, 16), (3, 8), (4, 4)]
    assert sum(layer.depthwise for layer in layers) == 16 + 3 * 8 + 2 * 5 * 4
    assert (
        sum((layer.in_rows, layer.in_cols) == (1, 1) for layer in layers) == 2 * 16
    )  # the channel gates' convolutions


def test_every_call_of_a_shared_layer_keeps_state_of_its_own():
    model = tiny()
    first = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    second = first.copy()
    second[:8, :8] += 40
    trace = record(model, [first, first, second], InputNormGate(threshold=0.0), agreement=True, progress=False)
    # Nothing changed on frame 1, so with a state per call nothing is computed; a state shared between levels of
    # different size could not even be compared.
    assert all(not trace.masks(index)[1].any() for index in range(len(trace.layers)))
    assert any(trace.masks(index)[2].any() for index in range(len(trace.layers)))
    assert trace.quality["agreement"] == pytest.approx(1, abs=1e-6)


def test_synthetic_masks_know_the_network():
    trace = synthetic_trace("efficientdet_d0", rows=128, cols=128, frames=2, density=0.5, cluster_pixels=8, block=1)
    assert len(trace.layers) == 214


@pytest.mark.parametrize("size", range(4))
def test_outputs_equal_efficientdet_pytorch(efficientdet_pytorch, size):
    torch.manual_seed(size)
    config = efficientdet_pytorch.get_efficientdet_config(f"tf_efficientdet_d{size}")
    published = efficientdet_pytorch.EfficientDet(config, pretrained_backbone=False).eval()
    for name, tensor in published.state_dict().items():
        if name.endswith(("edge_weights", "running_var")):
            tensor.uniform_(0.2, 2)
        elif tensor.dim() == 1 and tensor.is_floating_point():
            tensor.normal_(0.5, 0.3)
    model = network(f"efficientdet_d{size}")
    model.load_state_dict(published.state_dict(), strict=True)
    picture = torch.rand(1, 3, *config.image_size)
    with torch.inference_mode():
        ours, wanted = model(picture), published((picture - model.mean) / model.std)
    for mine, other in zip([*ours[0], *ours[1]], [*wanted[0], *wanted[1]], strict=True):
        assert mine.shape == other.shape
        assert torch.allclose(mine, other, atol=1e-5)
        assert other.std() > 0.1


def test_all_convolutions_of_a_published_checkpoint_are_plain_modules():
    names = json.loads((ORACLES / "state_dicts" / "tf_efficientdet_d0.json").read_text())
    with torch.device("meta"):
        model = network("efficientdet_d0")
    weights = {f"{name}.weight" for name, module in model.named_modules() if type(module) is nn.Conv2d}
    assert weights == {name for name, shape in names.items() if len(shape) == 4}

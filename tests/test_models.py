"""Are the networks those whose checkpoints people have, and do weight files load or fail well?"""

import csv
import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_hrnet import tiny_hrnet
from torch import nn

from skipsim.errors import InputError
from skipsim.traces.average_precision import detection_scorer
from skipsim.traces.datasets import pose_clip
from skipsim.traces.models import MODELS, WEIGHTS, network, networks
from skipsim.traces.models.checkpoint import load_weights
from skipsim.traces.models.unet import UNet
from skipsim.traces.procedural.vehicle_clips import vehicle_clip
from skipsim.traces.quality import pose_quality

ORACLES = Path(__file__).parent / "oracles"
with (ORACLES / "networks.csv").open() as file:
    PUBLISHED = list(csv.DictReader(file))
# Their name in the table -> ours.
NAMES = {"hrnet_w32": "hrnet_w32", "hrnet_w48": "hrnet_w48"} | {
    f"tf_efficientdet_d{size}": f"efficientdet_d{size}" for size in range(4)
}


def on_meta(name, **options):
    with torch.device("meta"):
        return network(name, **options)


def conv_calls(model, rows, cols):
    """Return (module, MACs) of every convolution call on one picture."""
    calls = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda m, _, out: calls.append((m, out.numel() * m.weight[0].numel())))
    model(torch.empty(1, 3, rows, cols, device=next(model.parameters()).device))
    return calls


@pytest.mark.parametrize(
    ("name", "file", "tensors"),
    [
        ("hrnet_w32", "hrnet_w32_17joints", 1754),
        ("hrnet_w48", "hrnet_w48_17joints", 1754),
        ("efficientdet_d0", "tf_efficientdet_d0", 784),
        ("efficientdet_d1", "tf_efficientdet_d1", 1004),
        ("efficientdet_d2", "tf_efficientdet_d2", 1076),
        ("efficientdet_d3", "tf_efficientdet_d3", 1270),
    ],
)
def test_every_tensor_has_the_published_name_and_shape(name, file, tensors):
    published = json.loads((ORACLES / "state_dicts" / f"{file}.json").read_text())
    ours = {key: list(tensor.shape) for key, tensor in on_meta(name).state_dict().items()}
    assert len(published) == tensors
    assert ours == published


@pytest.mark.parametrize(
    "row", PUBLISHED, ids=lambda r: f"{r['model']}-{r['input_rows']}x{r['input_cols']}-{r['outputs']}"
)
def test_parameters_macs_and_calls_equal_the_published_definition(row):
    model = on_meta(NAMES[row["model"]], outputs=int(row["outputs"]))
    calls = conv_calls(model, int(row["input_rows"]), int(row["input_cols"]))
    counts = {
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "conv_macs": sum(macs for _, macs in calls),
        "conv_calls": len(calls),
        "conv_modules": len({module for module, _ in calls}),
        "depthwise_macs": sum(macs for module, macs in calls if module.groups == module.in_channels > 1),
        "state_dict_keys": len(model.state_dict()),
    }
    assert counts == {column: int(row[column]) for column in counts}


def test_table_has_the_rows_that_were_compared():
    assert {row["model"] for row in PUBLISHED} == set(NAMES)
    assert len(PUBLISHED) == 12


@pytest.mark.parametrize(("rows", "cols"), [(64, 64), (61, 75), (33, 40)])
def test_any_picture_size_gives_heat_maps_of_a_quarter_of_it(rows, cols):
    out = tiny_hrnet(3)(torch.rand(2, 3, rows, cols))
    assert out.shape == (2, 3, -(-rows // 4), -(-cols // 4))


def test_normalisation_happens_inside_and_stays_out_of_the_state_dict():
    model = tiny_hrnet(3).eval()
    seen = []
    model.conv1.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    model(torch.full((1, 3, 32, 32), 0.5))
    expected = [(0.5 - mean) / std for mean, std in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))]
    assert torch.allclose(seen[0][0, :, 7, 9], torch.tensor(expected), atol=1e-6)
    assert not {"mean", "std"} & set(model.state_dict())


def test_small_network_is_small_and_cheap():
    model = on_meta("pose_small")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    macs = sum(macs for _, macs in conv_calls(model, 128, 128))
    assert 1e6 < parameters < 2e6
    assert 1e8 < macs < 2.5e8


def test_shipped_weights_load_by_default_and_find_joints():
    clips = [
        pose_clip(2_000_000 + index, frames=2, camera=camera) for index, camera in enumerate(("static", "pan") * 2)
    ]
    scores = {}
    for weights in ("shipped", None):
        model = network("pose_small", weights=weights)
        assert not model.training
        with torch.inference_mode():
            maps = [model(torch.from_numpy(c.frames).permute(0, 3, 1, 2).float() / 255).numpy() for c in clips]
        scores[weights] = pose_quality(maps, clips)["pck@0.05"]
    assert scores["shipped"] > 0.8
    assert scores[None] < 0.2


def test_shipped_detection_weights_find_vehicles():
    clips = [vehicle_clip(2_000_000 + index, frames=1, camera=camera) for index, camera in enumerate(("static", "pan"))]
    scores = {}
    for weights in ("shipped", None):
        model = network("detection_small", weights=weights)
        with torch.inference_mode():
            outputs = [model(torch.from_numpy(c.frames).permute(0, 3, 1, 2).float() / 255) for c in clips]
        scores[weights] = detection_scorer(clips, model)(outputs)["ap@0.5"]
    assert scores["shipped"] > 0.3
    assert scores[None] < 0.02


def test_shipped_weights_are_under_8_megabytes_and_say_where_they_come_from():
    for model in MODELS.values():
        if model.weights:
            assert (WEIGHTS / model.weights).stat().st_size < 8_000_000
            report = json.loads((WEIGHTS / model.weights).with_suffix(".json").read_text())
            assert report["command"].startswith("skipsim train")
            assert report["plan"]["seed"] >= 0
            assert report["plan"]["steps"] > 0
            # Good, but with room above: a saturated score would hide the damage that skipping does.
            scores = report["scores"]["all"]
            low, high = {"pck@0.05": (0.90, 0.98), "ap": (0.25, 0.6)}[scores["headline"]]
            assert low <= scores[scores["headline"]] <= high
            assert set(report["scores"]) == {"all", "static", "pan"}
            assert set(report["versions"]) == {"skipsim", "torch", "numpy", "python"}


def test_listing_needs_no_torch():
    code = "import sys, skipsim; print(skipsim.networks()); assert 'torch' not in sys.modules"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(networks())
    assert networks() == sorted(MODELS)
    assert {"efficientdet_d0", "hrnet_w48", "pose_small"} <= set(networks())


def small_file(folder, change=lambda tensors: tensors):
    path = folder / "weights.safetensors"
    save_file(change(network("pose_small", weights=None).state_dict()), path)
    return path


def test_weights_load_through_prefixes_and_nesting(tmp_path):
    wanted = network("pose_small", weights=None).state_dict()
    for content in (
        {f"module.{name}": tensor for name, tensor in wanted.items()},
        {"state_dict": {f"module.model.{name}": tensor for name, tensor in wanted.items()}, "epoch": 3},
        {"model": wanted},
        {"state_dict": wanted, "state_dict_ema": {name: tensor + 1 for name, tensor in wanted.items()}},
        {"model_ema": wanted, "epoch": 3},
        {f"module._orig_mod.{name}": tensor for name, tensor in wanted.items()},
        {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in wanted.items()},
        {name: tensor for name, tensor in wanted.items() if not name.endswith("num_batches_tracked")},
    ):
        path = tmp_path / "weights.pth"
        torch.save(content, path)
        loaded = network("pose_small", weights=path).state_dict()
        assert all(torch.allclose(loaded[name], tensor, rtol=1e-3, atol=1e-6) for name, tensor in wanted.items())


def test_a_prefix_that_belongs_to_the_network_stays(tmp_path):
    wanted = nn.ModuleDict({"net": nn.Conv2d(3, 4, 3)})
    for prefix in ("", "module.", "module.model."):
        torch.save(
            {f"{prefix}{name}": tensor for name, tensor in wanted.state_dict().items()}, tmp_path / "weights.pth"
        )
        loaded = nn.ModuleDict({"net": nn.Conv2d(3, 4, 3)})
        load_weights(loaded, tmp_path / "weights.pth")
        assert torch.equal(loaded["net"].weight, wanted["net"].weight)


def test_a_safetensors_file_is_known_by_its_content(tmp_path):
    (tmp_path / "weights.bin").write_bytes(small_file(tmp_path).read_bytes())
    assert network("pose_small", weights=tmp_path / "weights.bin") is not None


def test_safetensors_file_loads(tmp_path):
    path = small_file(tmp_path, lambda tensors: {f"model.{name}": tensor for name, tensor in tensors.items()})
    loaded = network("pose_small", weights=path).state_dict()
    from safetensors.torch import load_file

    assert all(torch.equal(loaded[name.removeprefix("model.")], tensor) for name, tensor in load_file(path).items())


def without(tensors):
    return {name: tensor for name, tensor in tensors.items() if name not in ("conv1.weight", "final_layer.bias")}


def misshapen(tensors):
    return {**tensors, "final_layer.weight": torch.zeros(17, 32, 1, 1)}


def surplus(tensors):
    return {**tensors, "extra.weight": torch.zeros(1)}


def poisoned(tensors):
    return {**tensors, "bn1.bias": torch.full((16,), float("nan"))}


def whole(tensors):
    return {**tensors, "bn1.bias": torch.zeros(16, dtype=torch.int32)}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            without,
            r"tensor conv1\.weight of shape \[16, 3, 3, 3\] is missing; the file holds \d+ tensors, "
            r"the first by name is bn1\.bias",
        ),
        (misshapen, r"tensor final_layer\.weight must have shape \[15, 32, 1, 1\], got \[17, 32, 1, 1\]"),
        (surplus, r"tensor extra\.weight does not belong to this network"),
        (poisoned, r"tensor bn1\.bias holds NaN or infinity"),
        (whole, r"tensor bn1\.bias must hold floating-point numbers, got int32"),
    ],
)
def test_wrong_weights_name_the_first_wrong_tensor(tmp_path, change, text):
    with pytest.raises(InputError, match=text):
        network("pose_small", weights=small_file(tmp_path, change))


def test_a_checkpoint_of_another_network_names_the_first_missing_tensor(tmp_path):
    with pytest.raises(InputError, match=r"tensor \S+ of shape \[[\d, ]+\] is missing; the file holds \d+ tensors"):
        network("detection_small", weights=small_file(tmp_path))


class Stranger:
    """An object that weights_only must refuse to build."""


def test_broken_weight_files_fail_in_one_line(tmp_path):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(small_file(tmp_path).read_bytes()[:5000])
    noise, foreign, number = (tmp_path / name for name in ("noise.pth", "foreign.pth", "number.pth"))
    noise.write_bytes(b"not a checkpoint at all")
    torch.save({"model": Stranger()}, foreign)
    torch.save(3, number)
    numbered, empty, sparse, code = (tmp_path / name for name in ("numbered.pth", "empty.pth", "sparse.pth", "code.pt"))
    tensors = network("pose_small", weights=None).state_dict()
    torch.save(dict(enumerate(tensors.values())), numbered)
    torch.save({"epoch": 3, "best": None}, empty)
    torch.save({**tensors, "bn1.bias": tensors["bn1.bias"].to_sparse()}, sparse)
    torch.jit.script(nn.Conv2d(3, 3, 3)).save(code)
    for path, text in (
        (cut, "not a whole safetensors file"),
        (noise, "not a PyTorch file of plain tensors"),
        (foreign, "not a PyTorch file of plain tensors"),
        (number, "must hold a state dict, got int"),
        (numbered, r"tensor conv1\.weight of shape .* is missing; the file holds \d+ tensors, the first by name is 0"),
        (empty, "is missing; the file holds no tensors, only best, epoch"),
        (sparse, r"tensor bn1\.bias must hold plain numbers, got a sparse or empty tensor"),
        (code, "not a PyTorch file of plain tensors"),
        (tmp_path / "absent.pth", "no such file"),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # it would be a second line
            with pytest.raises(InputError, match=text) as caught:
                network("pose_small", weights=path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)


def test_unknown_names_and_options_fail_well():
    with pytest.raises(InputError, match=r"network 'hrnet_w33' is unknown; did you mean 'hrnet_w32'\?"):
        network("hrnet_w33")
    with pytest.raises(InputError, match=r"network 'hrnet_w32': .*unexpected keyword argument 'joints'"):
        network("hrnet_w32", joints=3)


def test_unet_has_the_parameters_of_its_convolutions_and_keeps_the_size():
    model = UNet(2, width=4, levels=3)
    # Two 3x3 per level going down, one after each upsampling and two after each joining, each with a normalisation.
    convolutions = [(3, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16), (16, 8), (16, 8), (8, 8), (8, 4), (8, 4), (4, 4)]
    counted = sum(9 * inputs * outputs + 2 * outputs for inputs, outputs in convolutions) + (4 + 1) * 2
    assert sum(parameter.numel() for parameter in model.parameters()) == counted
    assert model(torch.zeros(1, 3, 21, 30)).shape == (1, 2, 21, 30)

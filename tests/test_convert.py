"""Does convert change the convolutions and nothing else, ask the right gate, and refuse what it cannot do?"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from gated_subject import clip, net
from torch import Tensor, nn
from torch.nn import functional

from skipsim.errors import InputError
from skipsim.traces.convert import convert, dense_copy, is_converted, left_dense
from skipsim.traces.gates import InputNormGate, OutputNormGate
from skipsim.traces.layer import Layer
from skipsim.traces.skipconv import UPDATES, SkipConv2d

FORMS = sorted(UPDATES)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def test_everything_else_is_kept() -> None:
    model = net()
    model.head.register_buffer("extra", torch.ones(2))
    seen: list[str] = []
    model.head.register_forward_hook(lambda module, arguments, output: seen.append("hook"))
    before = copy.deepcopy(model.state_dict())
    converted: Any = convert(model, InputNormGate(threshold=0.1))
    assert not is_converted(model)
    assert is_converted(converted)
    assert [type(module) for module in model.modules() if isinstance(module, nn.Conv2d)] == [nn.Conv2d] * 4
    assert list(converted.state_dict()) == list(before)
    assert [name for name, _ in converted.named_modules()] == [name for name, _ in model.named_modules()]
    assert converted.training == model.training
    for x in clip(3, 3, 14, 18):
        converted(x)
    assert len(seen) == 6
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        converted.get_submodule("head").bias += 1
    assert torch.equal(model.head.get_parameter("bias"), before["head.bias"]), "the copy shares nothing"
    converted.load_state_dict(before)
    model.load_state_dict(converted.state_dict())


def test_dense_copy_is_the_network_before() -> None:
    model = net()
    converted: Any = convert(model, InputNormGate(threshold=0.1))
    frames = clip(3, 3, 14, 18)
    for x in frames:
        converted(x)
    plain = dense_copy(converted)
    assert not is_converted(plain)
    assert is_converted(converted)
    for x in frames:
        torch.testing.assert_close(plain(x), model(x))
    shared = {id(parameter) for parameter in converted.parameters()}
    assert {id(parameter) for parameter in plain.parameters()} == shared


def test_weight_norm_parametrisation_survives() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 3, 3, padding=1)), nn.ReLU(inplace=True))
    converted: Any = convert(model, OutputNormGate(threshold=0))
    assert isinstance(converted[0], SkipConv2d)
    assert list(converted.state_dict()) == list(model.state_dict())
    for x in clip(4, 2, 9, 9):
        torch.testing.assert_close(converted(x), model(x), rtol=1e-4, atol=1e-5)


def test_the_users_mask_decides() -> None:
    model = net()
    asked = []

    def mask(module: SkipConv2d) -> Any:
        asked.append((module.layer_name, module.call, module.frame))
        if module.layer_name == "stem.0":
            pixels = np.zeros((module.last_layer.out_rows, module.last_layer.out_cols), bool)
            pixels[0, 0] = True
            return pixels
        return None

    converted: Any = convert(model, mask=mask, block=4)
    for x in clip(2, 3, 14, 18):
        converted(x)
    stem, other = converted.get_submodule("stem.0"), converted.get_submodule("branches.1")
    assert isinstance(stem, SkipConv2d)
    assert isinstance(other, SkipConv2d)
    assert (stem.last_layer.gate, stem.last_layer.block_rows) == ("mask", 4)
    assert stem.last_mask.tolist() == [[True, False, False], [False, False, False]]
    assert bool(other.last_mask.all())
    assert asked == [
        (name, call, 1)
        for name, call in [("stem.0", 0), ("branches.0", 0), ("branches.1", 0), ("head", 0), ("head", 1)]
    ]


@dataclass(frozen=True)
class ByName:
    """A gate of the user's with a threshold and block per layer, and one decision for a whole layer."""

    thresholds: dict[str, float]
    kind: ClassVar[str] = "mask"
    threshold: float = 1.0
    side: int = 1

    @property
    def block_shape(self) -> tuple[int, int]:
        return self.side, self.side

    def for_layer(self, layer: Layer) -> ByName:
        return ByName({}, threshold=self.thresholds[layer.name], side=max(layer.out_rows, layer.out_cols))

    def mask(self, residual: Tensor, conv: nn.Conv2d) -> Tensor:
        return (residual.abs().amax() > self.threshold).reshape(1, 1)

    def parameters(self) -> dict[str, Any]:
        return dict(self.thresholds)


def test_a_gate_may_differ_from_layer_to_layer() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 3))
    for parameter in model.parameters():
        parameter.fill_(1.0)
    converted: Any = convert(model, ByName({"0": 0.5, "1": 9.5}))
    first, second = converted
    for value, expected in [(0, (True, True)), (1, (True, False)), (11, (True, True)), (11.25, (False, False))]:
        converted(torch.full((1, 1, 4, 6), float(value)))
        assert (bool(first.last_mask), bool(second.last_mask)) == expected
    assert (first.last_layer.block_rows, second.last_layer.block_rows) == (6, 4)


def test_a_gate_that_answers_in_the_wrong_shape_is_named() -> None:
    class Wrong(ByName):
        def for_layer(self, layer: Layer) -> ByName:
            return self

        def mask(self, residual: Tensor, conv: nn.Conv2d) -> Tensor:
            return torch.ones(2, 2)

    converted = convert(nn.Conv2d(1, 1, 1), Wrong({}))
    converted(torch.zeros(1, 1, 4, 6))
    with pytest.raises(InputError) as error:
        converted(torch.zeros(1, 1, 4, 6))
    assert str(error.value) == (
        "layer 'Conv2d': mask must have one entry per output pixel [4, 6] or per 1x1 block [4, 6], got shape [2, 2]"
    )


def test_what_is_not_a_plain_convolution_stays_dense_and_is_named() -> None:
    class Own(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(functional.pad(input, (1, 1, 1, 1)))

    class Renamed(nn.Conv2d):
        pass

    model = nn.Sequential(Own(1, 1, 3), Renamed(1, 1, 1), nn.ConvTranspose2d(1, 1, 2), nn.Conv2d(1, 1, 1))
    with pytest.warns(UserWarning, match="left dense") as caught:
        converted: Any = convert(model, InputNormGate(threshold=0))
    text = "convert: left dense, because only plain nn.Conv2d is converted: 0 (Own), 2 (ConvTranspose2d)"
    assert str(caught[0].message) == text
    assert left_dense(converted) == {"0": "Own", "2": "ConvTranspose2d"}
    assert [isinstance(module, SkipConv2d) for module in converted] == [False, True, False, True]
    for x in clip(3, 1, 6, 6):
        torch.testing.assert_close(converted(x), model(x))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convert(net(), InputNormGate(threshold=0))


def bad_calls() -> dict[str, tuple[Any, str]]:
    other: Any = {"name": "input_nor", "number": 0.5, "mask": 3}
    gate = InputNormGate(threshold=0.1)
    conv = nn.Conv2d(1, 1, 1)
    neither = "convert: give either a gate or a mask function, got "
    return {
        "no convolution": (
            lambda: convert(nn.Linear(2, 2), gate),
            "convert: Linear has no nn.Conv2d that can be converted (a scripted model?)",
        ),
        "twice": (
            lambda: convert(convert(conv, gate), gate),
            "convert: the model is converted already; convert the original",
        ),
        "neither": (lambda: convert(conv), neither + "neither"),
        "both": (lambda: convert(conv, gate, mask=lambda module: None), neither + "both"),
        "name": (
            lambda: convert(conv, other["name"]),
            "convert: gate must be a gate such as InputNormGate(threshold=0.05), got 'input_nor'; "
            "did you mean 'input_norm'? choices: hold, input_norm, output_norm",
        ),
        "no gate": (
            lambda: convert(conv, other["number"]),
            "convert: gate must be a gate such as InputNormGate(threshold=0.05), got 0.5",
        ),
        "mask": (
            lambda: convert(conv, mask=other["mask"]),
            "convert: mask must be a function of the module, got 3",
        ),
        "block": (
            lambda: convert(conv, gate, block=4),
            "convert: block belongs to the gate; it is an argument only together with mask",
        ),
        "update": (
            lambda: convert(conv, gate, update="recompte"),
            "convert: update 'recompte' is unknown; did you mean 'recompute'? choices: accumulate, previous, recompute",
        ),
        "reset_every": (
            lambda: convert(conv, gate, reset_every=0),
            "convert: reset_every must be a whole number >= 1 or None, got 0",
        ),
        "lazy": (
            lambda: convert(nn.Sequential(nn.LazyConv2d(1, 1)), gate),
            "convert: layer '0' has no weights yet (a lazy module); run the model once before",
        ),
    }


@pytest.mark.parametrize("case", sorted(bad_calls()))
def test_bad_conversions_are_named(case: str) -> None:
    call, message = bad_calls()[case]
    with pytest.raises(InputError) as error:
        call()
    assert str(error.value) == message

"""Does a converted network compute what it says: the dense result at threshold 0, old values where it skips?"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from gated_subject import clip, net
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from skipsim.errors import InputError
from skipsim.traces.convert import convert, reset
from skipsim.traces.gates import InputNormGate, OutputNormGate
from skipsim.traces.skipconv import UPDATES, SkipConv2d

FORMS = sorted(UPDATES)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@settings(max_examples=50)
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    padding=st.one_of(st.sampled_from(["same", "valid"]), st.integers(0, 3), st.tuples(st.integers(0, 2), st.just(1))),
    mode=st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
    groups=st.sampled_from([(1, 3, 5), (2, 4, 6), (4, 4, 4)]),
    bias=st.booleans(),
    size=st.tuples(st.integers(7, 15), st.integers(7, 15)),
    block=st.one_of(st.sampled_from([1, 4, 16]), st.tuples(st.integers(1, 5), st.integers(1, 5))),
    form=st.sampled_from(FORMS),
    reset_every=st.sampled_from([None, 1, 3]),
    output_norm=st.booleans(),
)
def test_threshold_zero_is_the_dense_convolution(
    kernel: tuple[int, int],
    stride: int,
    dilation: int,
    padding: Any,
    mode: Any,
    groups: tuple[int, int, int],
    bias: bool,
    size: tuple[int, int],
    block: Any,
    form: str,
    reset_every: int | None,
    output_norm: bool,
) -> None:
    stride = 1 if padding == "same" else stride
    conv = nn.Conv2d(
        groups[1],
        groups[2],
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups[0],
        bias=bias,
        padding_mode=mode,
    )
    gate = (OutputNormGate if output_norm else InputNormGate)(threshold=0, block=block)
    converted: Any = convert(conv, gate, update=form, reset_every=reset_every)
    for x in clip(6, groups[1], *size):
        torch.testing.assert_close(converted(x), conv(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("block", [1, (2, 3), 8])
def test_threshold_zero_is_the_dense_network_over_a_clip(form: str, block: Any) -> None:
    model = net()
    converted: Any = convert(model, InputNormGate(threshold=0, block=block), update=form)
    densities = []
    for x in clip(20, 3, 19, 23):
        torch.testing.assert_close(converted(x), model(x), rtol=1e-4, atol=1e-4)
        densities.append(float(converted.get_submodule("stem.0").last_mask.float().mean()))
    assert densities[0] == 1
    assert block == 8 or max(densities[1:]) < 1, "unchanged positions are skipped"


@pytest.mark.parametrize("form", FORMS)
def test_skipped_positions_keep_their_value_bit_for_bit_and_computed_ones_change(form: str) -> None:
    torch.manual_seed(1)
    conv = nn.Conv2d(3, 4, 3, padding=1)
    converted: Any = convert(conv, InputNormGate(threshold=0.02, block=(2, 3)), update=form)
    assert isinstance(converted, SkipConv2d)
    old = None
    generator = torch.Generator().manual_seed(0)
    for x in clip(8, 3, 11, 13):
        z = converted(x + 0.01 * torch.rand(x.shape, generator=generator))
        on = converted.last_mask.repeat_interleave(2, 0)[:11].repeat_interleave(3, 1)[:, :13]
        if old is not None:
            assert bool(on.any())
            assert not bool(on.all())
            assert torch.equal(z[..., ~on], old[..., ~on])
            assert not bool((z[..., on] == old[..., on]).all())
        old = z


@pytest.mark.parametrize("form", FORMS)
def test_the_bias_enters_once(form: str) -> None:
    """The method's public code adds it again on every frame: it would have reached 10 x 7 here."""
    conv = nn.Conv2d(1, 1, 1)
    conv.weight.fill_(2.0)
    conv.get_parameter("bias").fill_(7.0)
    converted: Any = convert(conv, InputNormGate(threshold=0), update=form)
    for frame in range(10):
        assert converted(torch.full((1, 1, 2, 2), float(frame))).tolist() == [[[[2.0 * frame + 7] * 2] * 2]]


def test_previous_forgets_what_stays_below_the_threshold_and_the_others_do_not() -> None:
    """A ramp of 1/16 per frame under a threshold of 1/4: per frame invisible, over five frames not."""
    conv = nn.Conv2d(1, 1, 1, bias=False)
    conv.weight.fill_(1.0)
    ramp = [torch.full((1, 1, 1, 1), frame / 16) for frame in range(11)]
    results = {}
    for form in FORMS:
        converted = convert(conv, InputNormGate(threshold=0.25), update=form)
        results[form] = [float(converted(x)) for x in ramp]
    held = [0, 0, 0, 0, 0, 5 / 16, 5 / 16, 5 / 16, 5 / 16, 5 / 16, 10 / 16]
    assert results == {"previous": [0.0] * 11, "accumulate": held, "recompute": held}


def test_reset_every_computes_a_dense_frame() -> None:
    conv = nn.Conv2d(1, 1, 1, bias=False)
    conv.weight.fill_(1.0)
    converted: Any = convert(conv, InputNormGate(threshold=100), reset_every=3)
    assert isinstance(converted, SkipConv2d)
    seen = []
    for frame in range(8):
        z = float(converted(torch.full((1, 1, 1, 1), float(frame))))
        seen.append((z, converted.last_reference, bool(converted.last_mask.all())))
    assert seen == [(frame // 3 * 3, frame % 3 == 0, frame % 3 == 0) for frame in range(8)]


def random_masks(seed: int, share: float) -> Callable[[SkipConv2d], Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def mask(module: SkipConv2d) -> Tensor:
        layer = module.last_layer
        return torch.rand(layer.grid_rows, layer.grid_cols, generator=generator) < share

    return mask


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1000),
    share=st.sampled_from([0.5, 0.9, 0.97]),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    mode=st.sampled_from(["zeros", "circular"]),
    block=st.sampled_from([1, 3]),
)
def test_accumulate_counts_every_change_once(
    seed: int, share: float, kernel: int, stride: int, padding: int, mode: Any, block: int
) -> None:
    """Whatever the masks: the output is at all times the dense convolution of one input, the reference."""
    torch.manual_seed(seed)
    conv = nn.Conv2d(2, 3, kernel, stride=stride, padding=padding, padding_mode=mode)
    converted: Any = convert(conv, update="accumulate", mask=random_masks(seed, share), block=block)
    frames = [torch.randn(1, 2, 12, 13) for _ in range(12)]
    for x in frames:
        z = converted(x)
        (state,) = converted._states.values()
        torch.testing.assert_close(z, conv(state.reference), rtol=1e-4, atol=1e-5)
    still = frames[-1]
    converted._mask = lambda module: None  # computes everything
    torch.testing.assert_close(converted(still), conv(still), rtol=1e-4, atol=1e-5)


def used_inputs(conv: SkipConv2d, frames: list[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield per frame the mask, z, and the mean over receptive fields of |x_t - the input that z was computed from|.

    Kept per output position as an unfolded window, independently of the reference that the layer keeps.
    """
    kernel = conv.kernel_size
    padding: Any = conv.padding
    taps = functional.unfold(torch.ones(1, 1, *frames[0].shape[-2:]), kernel, padding=padding).sum(1)
    used = None
    for x in frames:
        z = conv(x)
        windows = functional.unfold(x, kernel, padding=padding)
        on = conv.last_mask.reshape(1, 1, -1)
        used = windows if used is None else torch.where(on, windows, used)
        yield conv.last_mask, z, ((windows - used).abs().sum(1) / taps / x.shape[1]).reshape(z.shape[-2:])


def test_recompute_is_exact_where_computed_and_bounded_where_skipped() -> None:
    """Beside a region that changes on every frame, a slow ramp must not be forgotten: the bound is K + 1 thresholds."""
    threshold, taps = 0.05, 9
    torch.manual_seed(3)
    conv = nn.Conv2d(2, 2, 3, padding=1)
    ramp = [torch.full((1, 2, 12, 12), 0.004 * frame) for frame in range(200)]
    for frame, x in enumerate(ramp):
        x[..., 4:8, 4:8] += 0.3 * (frame % 2)
        x += 0.002 * torch.rand(x.shape)
    converted: Any = convert(conv, InputNormGate(threshold=threshold))
    assert isinstance(converted, SkipConv2d)
    worst, skipped = 0.0, 0
    for x, (mask, z, error) in zip(ramp, used_inputs(converted, ramp), strict=True):
        torch.testing.assert_close(z[..., mask], conv(x)[..., mask], rtol=1e-4, atol=1e-5)
        worst = max(worst, float(error.max()))
        skipped += int((~mask).sum())
    assert skipped > 100 * 144
    assert 0 < worst <= (taps + 1) * threshold
    assert (taps + 1) * threshold < 200 * 0.004, "a rule that forgets would exceed the bound"


def test_accumulate_stays_within_the_threshold_where_skipped_while_previous_drifts() -> None:
    threshold = 0.05
    torch.manual_seed(3)
    conv = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    conv.weight.fill_(1 / 9)  # so that an error of the output is at most the mean error of the input
    frames = [torch.full((1, 1, 12, 12), 0.004 * frame) for frame in range(200)]
    for frame, x in enumerate(frames):
        x[..., 4:8, 4:8] += 0.3 * (frame % 2)
    worst = {}
    for form in ("accumulate", "previous"):
        converted: Any = convert(conv, InputNormGate(threshold=threshold), update=form)
        assert isinstance(converted, SkipConv2d)
        worst[form] = 0.0
        for x in frames:
            error = (converted(x) - conv(x)).abs()[0, 0]
            if not bool(converted.last_mask.all()):
                worst[form] = max(worst[form], float(error[~converted.last_mask].max()))
    assert worst["accumulate"] <= threshold + 1e-5
    assert worst["previous"] > 0.5, "0.8 of change, never seen"


def test_calls_of_a_shared_module_keep_state_of_their_own() -> None:
    model = net()
    converted: Any = convert(model, InputNormGate(threshold=0.1))
    head = converted.get_submodule("head")
    assert isinstance(head, SkipConv2d)
    assert converted.alias is head
    for _ in range(2):
        for x in clip(3, 3, 14, 18):
            converted(x)
            assert (head.frame, head.call) == (head.frame, 1)
            assert [(state.layer.call, state.layer.out_rows) for state in head._states.values()] == [(0, 7), (1, 3)]
        reset(converted)
        assert not head._states


def test_frames_without_a_batch_axis() -> None:
    conv = nn.Conv2d(2, 3, 3, padding=1)
    converted: Any = convert(conv, InputNormGate(threshold=0))
    for x in clip(4, 2, 9, 9):
        torch.testing.assert_close(converted(x[0]), conv(x[0]), rtol=1e-4, atol=1e-5)


def test_training_keeps_the_graph_and_evaluation_does_not() -> None:
    conv = nn.Conv2d(1, 1, 1)
    converted: Any = convert(conv, InputNormGate(threshold=0))
    with torch.enable_grad():
        for training in (True, False):
            converted.train(training)
            reset(converted)
            converted(torch.ones(1, 1, 2, 2))
            still = converted(torch.ones(1, 1, 2, 2))  # nothing changed: all of it comes from the frame before
            assert still.requires_grad == training or not training
            (state,) = converted._states.values()
            assert state.output.requires_grad == training


def test_bad_frames_are_named() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 1))
    gate = InputNormGate(threshold=0.1)

    def after(first: Tensor | None, second: Tensor) -> str:
        converted: Any = convert(model, gate)
        if first is not None:
            converted(first)
        with pytest.raises(InputError) as error:
            converted(second)
        return str(error.value)

    good = torch.zeros(1, 1, 8, 8)
    assert after(None, torch.zeros(2, 1, 8, 8)) == ("layer '0': batch size must be 1 (one clip, frame by frame), got 2")
    assert after(good, torch.zeros(1, 1, 8, 9)) == (
        "layer '0': input size changed from [1, 1, 8, 8] to [1, 1, 8, 9] in mid-clip; all frames of a clip must have "
        "one size (before a new clip, call reset)"
    )
    bad = good.clone()
    bad[0, 0, 3, 3] = float("nan")
    for first in (None, good):
        frame = 0 if first is None else 1
        assert after(first, bad) == f"layer '0': output of frame {frame} is NaN or infinite somewhere; so is its input"
    broken = copy.deepcopy(model)
    broken[1].get_parameter("weight").fill_(float("inf"))
    with pytest.raises(InputError) as error:
        convert(broken, gate)(good)
    assert str(error.value) == "layer '1': output of frame 0 is NaN or infinite somewhere; so are its weights"
    with pytest.raises(InputError) as error:
        convert(model, gate).get_submodule("0")(good)
    assert str(error.value) == (
        "layer '0': call the converted model itself, model(frame); its forward() or a part of it does not start a frame"
    )

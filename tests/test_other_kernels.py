"""Do PyTorch's path and the Triton kernel compute the same: dense values where active, nothing elsewhere?

The Triton kernel runs in Triton's interpreter: what it computes is tested here, how fast it is needs a GPU.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from skipsim.errors import InputError
from skipsim.hwmodels.kernels.convolution import Convolution
from skipsim.hwmodels.kernels.torch_path import PATHS, gather_convolve_scatter

KEPT = 7.0


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def triton_kernels(triton: Any) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")  # read where the kernel is defined
        yield importlib.import_module("skipsim.hwmodels.kernels.triton_kernel")


def dense(layer: Convolution, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    top, bottom, left, right = layer.padding
    padded = functional.pad(x, (left, right, top, bottom))
    return functional.conv2d(padded, weight, bias, layer.stride, 0, layer.dilation, layer.groups)


def pixels(mask: Tensor, block: tuple[int, int], size: tuple[int, int]) -> Tensor:
    return mask.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)[: size[0], : size[1]]


@st.composite
def layers(draw: Any) -> Convolution:
    groups = draw(st.sampled_from([1, 1, 2, 5]))
    depthwise = groups > 1 and draw(st.booleans())
    inner, outer = (1, 1) if depthwise else (draw(st.integers(1, 9)), draw(st.integers(1, 9)))
    pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
    padding = tuple(draw(st.integers(0, 2)) for _ in range(4))
    return Convolution(groups * inner, groups * outer, draw(pairs), draw(pairs), padding, draw(pairs), groups)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(
    layers(),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.sampled_from(sorted(PATHS)),
    st.sampled_from([0.0, 0.4, 1.0]),
    st.booleans(),
    st.integers(0, 1 << 20),
)
def test_gather_convolve_scatter_equals_dense_where_active(
    layer: Convolution, block: tuple[int, int], path: str, density: float, biased: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, layer.in_channels, 9, 11, generator=generator)
    weight = torch.randn(layer.out_channels, layer.in_channels // layer.groups, *layer.kernel, generator=generator)
    bias = torch.randn(layer.out_channels, generator=generator) if biased else None
    out = layer.out_size(9, 11)
    mask = torch.rand(-(-out[0] // block[0]), -(-out[1] // block[1]), generator=generator) < density
    y = torch.full((1, layer.out_channels, *out), KEPT)
    gather_convolve_scatter(x, weight, bias, layer, y, mask, block, path)
    on = pixels(mask, block, out)
    torch.testing.assert_close(y[0][:, on], dense(layer, x, weight, bias)[0][:, on], atol=1e-4, rtol=1e-5)
    assert (y[0][:, ~on] == KEPT).all()


def test_an_unknown_path_is_refused() -> None:
    x = torch.zeros(1, 1, 2, 2)
    mask = torch.ones(2, 2, dtype=torch.bool)
    with pytest.raises(InputError, match=r"path 'block' is unknown; did you mean 'blocks'\? choices: blocks, columns"):
        gather_convolve_scatter(x, torch.zeros(1, 1, 1, 1), None, Convolution(1, 1), x, mask, (1, 1), "block")


GPU_CASES = [
    (Convolution(3, 20, (3, 3), (2, 2), (0, 1, 1, 0)), (2, 3), "relu", False),
    (Convolution(40, 70, (1, 1)), (1, 1), "none", True),
    (Convolution(24, 24, (5, 3), (1, 1), (2, 2, 1, 1), groups=24), (3, 2), "silu", False),
    (Convolution(10, 8, (3, 3), (1, 2), (2, 2, 2, 2), (2, 1), groups=2), (4, 4), "relu6", True),
]


@pytest.mark.parametrize(("layer", "block", "activation", "accumulate"), GPU_CASES)
def test_triton_kernel_equals_dense_where_active(
    triton_kernels: Any, layer: Convolution, block: tuple[int, int], activation: str, accumulate: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, layer.in_channels, 9, 11, generator=generator)
    weight = torch.randn(layer.out_channels, layer.in_channels // layer.groups, *layer.kernel, generator=generator)
    bias = None if accumulate else torch.randn(layer.out_channels, generator=generator)
    out = layer.out_size(9, 11)
    mask = torch.rand(-(-out[0] // block[0]), -(-out[1] // block[1]), generator=generator) < 0.5
    y = torch.full((*out, layer.out_channels), KEPT)
    positions = triton_kernels.list_positions(mask, block, out)
    packed = triton_kernels.pack_for_gpu(weight, layer)
    last = x[0].permute(1, 2, 0).contiguous()
    addend = y if accumulate else None
    triton_kernels.sparse_convolve(last, packed, bias, layer, y, positions, activation, addend)
    function = {"none": lambda v: v, "relu": torch.relu, "relu6": functional.relu6, "silu": functional.silu}[activation]
    expected = function(dense(layer, x, weight, bias)[0].permute(1, 2, 0) + (KEPT if accumulate else 0.0))
    on = pixels(mask, block, out)
    assert on.any()
    torch.testing.assert_close(y[on], expected[on], atol=1e-4, rtol=1e-5)
    assert (y[~on] == KEPT).all()


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from skipsim.hwmodels.kernels.triton_kernel import _convolve
fixed = dict(KERNEL_ROWS=3, KERNEL_COLS=3, PANELS=1, BIAS=True, ADDEND=True, ACTIVATION=3)
fixed |= dict(PIXELS=64, CHANNELS=64, INPUTS=32)
kinds = {name: "*fp32" for name in ("x", "weight", "bias", "addend", "y")} | {"positions": "*i32"}
for depthwise in (False, True):
    values = fixed | {"DEPTHWISE": depthwise}
    types = {name: "constexpr" if name in values else kinds.get(name, "i32") for name in _convolve.arg_names}
    made = triton.compile(ASTSource(_convolve, types, constexprs=values), target=GPUTarget("cuda", 80, 32))
    assert "fma.rn.f32" in made.asm["ptx"]
print("compiled")
"""


def test_triton_kernel_compiles_for_a_gpu_that_is_not_there(triton: Any) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, env=environment)
    assert run.stdout == "compiled\n", run.stderr


def test_triton_kernel_refuses_what_does_not_fit(triton_kernels: Any) -> None:
    x, y, nothing = torch.zeros(4, 4, 1), torch.zeros(4, 3, 1), torch.zeros(0, dtype=torch.int32)
    layer = Convolution(1, 1)
    with pytest.raises(InputError, match=r"y of shape \[4, 4, 1\], got \[4, 3, 1\]"):
        triton_kernels.sparse_convolve(x, torch.zeros(1, 1, 1), None, layer, y, nothing)
    with pytest.raises(InputError, match=r"activation 'rely' is unknown; did you mean 'relu'\?"):
        triton_kernels.sparse_convolve(x, torch.zeros(1, 1, 1), None, layer, x, nothing, "rely")

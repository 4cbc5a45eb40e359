"""Does a GPU's calibration run the right steps, fit them, and go on where memory is short? Without a GPU: on the CPU.

The kernel runs in Triton's interpreter; times come from a clock that is made up.
"""

import importlib

import numpy as np
import pandas as pd
import pytest
import torch

from skipsim.errors import InputError
from skipsim.hwmodels.calibrate import fit_hardware
from skipsim.hwmodels.design import Call
from skipsim.hwmodels.kernel_work import LayerShape
from skipsim.hwmodels.mask_pixels import read_pixels, tile_pixels
from skipsim.hwmodels.measure import Plan
from skipsim.hwmodels.measurement_file import row_of
from skipsim.hwmodels.processor import Peaks

SMALL = LayerShape(8, 12, 12, 16, 12, 12, 3, 3, padding_top=1, padding_left=1)
STEPS = ["change", "decide", "list", "triton", "move"]
PEAKS = Peaks(
    source="made up", fma_gflops=1e4, random_read_ns=1.0, footprint_bytes=(2.0**20, 2.0**28),
    stream_gb_per_s=(2000.0, 1000.0),
)  # fmt: skip


@pytest.fixture(scope="module")
def gpu(triton):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")  # read where the kernel is defined
        yield importlib.import_module("skipsim.hwmodels.measured_gpu")


def test_the_steps_are_those_of_a_gated_layer(gpu):
    call = Call(SMALL, (4, 4), 0.4, 1.0, 3)
    layer = gpu.GpuLayer.of(SMALL, "cpu", np.random.default_rng(0))
    before, old = layer.y.clone(), layer.reference.clone()
    steps = gpu.steps_of(call, layer)
    assert list(steps) == STEPS
    steps["change"]()
    decided = steps["decide"]().numpy()[0, 0]
    assert decided[call.mask].all()  # every block that reads what changed: those of the mask, and neighbours
    steps["triton"]()
    active = tile_pixels(call.masks, SMALL, (4, 4))[0]
    assert len(steps["list"]()) == active.sum()
    weight = layer.weight.reshape(3, 3, 8, 16).permute(3, 2, 0, 1)
    dense = torch.relu(torch.nn.functional.conv2d(layer.x.permute(2, 0, 1)[None], weight, padding=1))[0].permute(
        1, 2, 0
    )
    assert torch.allclose(layer.y[active], dense[active], atol=1e-4)
    assert torch.equal(layer.y[~active], before[~active])
    steps["move"]()
    settled = read_pixels(call.masks, SMALL, (4, 4)) & ~read_pixels(~call.masks, SMALL, (4, 4))
    assert torch.equal(layer.reference[settled[0]], layer.x[settled[0]])
    assert torch.equal(layer.reference[~settled[0]], old[~settled[0]])


def test_times_become_a_machine_whose_path_is_triton(gpu):
    """2 microseconds a call whatever it does: that is the launch, and nothing else costs."""
    plan = Plan(configurations=4, passes=2, per_class={"plain": 6})
    table = gpu.measure_gpu(plan, lambda text: None, "cpu", lambda run: 2000.0, flush_bytes=2**20)
    assert set(table["what"]) == set(STEPS)
    assert set(table["hot"]) == {True, False}
    host = gpu.describe_host()
    dense = pd.DataFrame(
        {**row_of("dense", Call(SMALL, (1, 1), 1.0, 0.0, 0), False, 2.0**28), **dict.fromkeys(("ns", "total_ns"), 5e3)}
        | dict.fromkeys(("first_ns", "second_ns"), 5e3)
        for _ in range(20)
    )
    measured = gpu.Measurements(
        pd.concat([table, dense], ignore_index=True), host, PEAKS, "2026-11-25", 0, gpu.REGISTERS.lanes, 64
    )
    processor = fit_hardware(measured, "gpu").processor
    assert processor is not None
    assert processor.path == "triton"
    cost = processor.kernels["triton"]["plain"]
    assert cost.launch_ns == pytest.approx(2000, rel=0.02)
    assert cost.median_error < 0.01
    assert set(processor.stages) == {"change", "decide", "list", "move"}


def test_what_the_device_has_no_room_for_is_left_out_and_said(gpu, monkeypatch):
    calls, said = [], []

    def clock(run):
        calls.append(run)
        if len(calls) == 4:  # the kernel of the first layer
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 1000.0

    plan = Plan(configurations=1, passes=2, per_class={"plain": 2})
    table = gpu.measure_gpu(plan, said.append, "cpu", clock, flush_bytes=2**20)
    assert (table["what"] == "triton").sum() == 2  # one layer, cold and hot
    assert (table["what"] == "move").sum() == 4
    assert [text for text in said if text.startswith("warning: calibrate: no room for triton of layer ")]

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(gpu.GpuLayer, "of", full)
    with pytest.raises(InputError, match="device 'cpu' has no room for a single layer"):
        gpu.measure_gpu(plan, said.append, "cpu", lambda run: 1.0, flush_bytes=2**20)
    assert sum("has no room for layer" in text for text in said) == 2


def test_the_peaks_of_a_device_are_rates(gpu):
    """Every run takes 1000 ns: a product of 64 x 64 matrices then is 2 x 64^3 operations per microsecond."""
    peaks = gpu.gpu_peaks("cpu", lambda run: 1000.0, side=64, footprints=(2**12, 2**14))
    assert peaks.fma_gflops == pytest.approx(2 * 64**3 / 1000, rel=1e-3)
    assert peaks.stream_gb_per_s == (4.096, 16.38)
    assert peaks.random_read_ns == pytest.approx(1000 / 128, rel=1e-3)

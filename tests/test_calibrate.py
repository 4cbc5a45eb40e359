"""Does calibration find a machine that is known, keep its raw measurements, and run here from end to end?"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from skipsim.analysis.cli import main
from skipsim.errors import InputError
from skipsim.hwmodels import calibrate as calibration
from skipsim.hwmodels.calibrate import amounts_of, fit_hardware
from skipsim.hwmodels.design import CHANNELS_TIMES_SIDE, Call, draw_calls, draw_mask, draw_shapes, work_of
from skipsim.hwmodels.fit import predict
from skipsim.hwmodels.hardware import load_hardware
from skipsim.hwmodels.host import describe_host
from skipsim.hwmodels.kernel_work import Registers
from skipsim.hwmodels.measurement_file import Measurements, row_of
from skipsim.hwmodels.processor import Cost, Peaks
from skipsim.simulator.simulate import simulate
from skipsim.traces.synthetic import synthetic_trace

REGISTERS = Registers()


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


PEAKS = Peaks(
    source="made up", fma_gflops=100.0, random_read_ns=100.0, footprint_bytes=(2.0**17, 2.0**26),
    stream_gb_per_s=(100.0, 10.0),
)  # fmt: skip
KERNEL = {"launch_ns": 500.0, "memory_launch_ns": 2000.0, "ns_per_mac": 0.017, "ns_per_memory_output_byte": 0.1}
STAGE = {"launch_ns": 400.0, "ns_per_pixel": 2.0}


def known_machine(per_class: int = 4) -> Measurements:
    """Make the measurements of a machine that obeys its sums exactly."""
    shapes = draw_shapes(3, dict.fromkeys(CHANNELS_TIMES_SIDE, per_class))
    rows = []
    for calls in draw_calls(shapes, 3, 4):
        for call in calls:
            for hot in (False, True):
                for what in ("compiled", "dense", *calibration.STAGES):
                    rows.append(row_of(what, call, hot, 2.0**15 if hot else 2.0**28))
    table = pd.DataFrame(rows)
    amounts = amounts_of(table, PEAKS, REGISTERS)
    kernel = table["what"].isin(["compiled", "dense"]).to_numpy()
    times = np.where(
        kernel, predict(amounts, Cost(source="known", **KERNEL)), predict(amounts, Cost(source="known", **STAGE))
    )
    for name in ("ns", "total_ns", "first_ns", "second_ns"):
        table[name] = times
    return Measurements(table, describe_host(), PEAKS, "2026-11-25", 3, 16, 12)


@pytest.fixture(scope="module")
def known() -> Measurements:
    return known_machine()


def test_a_known_machine_is_found(known):
    processor = fit_hardware(known, "known").processor
    assert processor is not None
    for kind, cost in processor.kernels["compiled"].items():
        assert cost.p90_error < 1e-3, kind
        assert cost.ns_per_mac == pytest.approx(0.017, rel=0.02), kind
    for name, cost in processor.stages.items():
        assert cost.launch_ns == pytest.approx(400, rel=0.02), name
    assert processor.repeatability == 0


def test_raw_measurements_give_the_same_machine_again(known, tmp_path):
    file = tmp_path / "raw.parquet"
    known.save(file)
    assert fit_hardware(Measurements.load(file), "known") == fit_hardware(known, "known")
    assert run("calibrate", "-o", tmp_path / "m.toml", "--from", file) == 0
    assert load_hardware(tmp_path / "m.toml") == fit_hardware(known, "m")


def test_a_new_fit_says_which_anchors_it_drops(known, tmp_path, capsys):
    known.save(tmp_path / "raw.parquet")
    load_hardware("measured-zen4-2core").save(tmp_path / "m.toml")
    assert run("calibrate", "-o", tmp_path / "m.toml", "--from", tmp_path / "raw.parquet") == 0
    said = capsys.readouterr().err
    assert "m.toml held anchors that belong to its old fit, they are gone: hrnet_w32@256x256, block 4; " in said
    assert "measure them again with skipsim anchor" in said


def test_the_same_fit_again_keeps_anchors(known, tmp_path, capsys):
    known.save(tmp_path / "raw.parquet")
    fitted, anchors = fit_hardware(known, "m"), load_hardware("measured-zen4-2core").processor.anchors
    measured = {"anchors": anchors, "dense_layers_ns": {"a layer": 5.0}}
    fitted.model_copy(update={"processor": fitted.processor.model_copy(update=measured)}).save(tmp_path / "m.toml")
    assert run("calibrate", "-o", tmp_path / "m.toml", "--from", tmp_path / "raw.parquet") == 0
    assert "they are gone" not in capsys.readouterr().err
    processor = load_hardware(tmp_path / "m.toml").processor
    assert processor.anchors == anchors
    assert processor.dense_layers_ns == {"a layer": 5.0}


def test_anchors_are_taken_as_they_are(known):
    call = draw_calls(draw_shapes(9), 9, 1)[0][0]
    times = {"ns": 12345.0, "total_ns": 12345.0, "first_ns": 12345.0, "second_ns": 12345.0}
    anchor = pd.DataFrame([row_of("dense_layer", call, False, 2.0**28) | times])
    table = pd.concat([known.table, anchor], ignore_index=True)
    processor = fit_hardware(replace(known, table=table), "known").processor
    assert processor is not None
    assert processor.dense_layers_ns == {call.shape.name: 12345.0}


@pytest.mark.parametrize("content", [b"no parquet", b""])
def test_a_file_that_holds_no_measurements_is_refused(tmp_path: Path, content):
    file = tmp_path / "raw.parquet"
    file.write_bytes(content)
    with pytest.raises(InputError, match="not a file of skipsim calibrate"):
        Measurements.load(file)
    with pytest.raises(InputError, match="no such file"):
        Measurements.load(tmp_path / "none.parquet")


def test_a_busy_machine_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(calibration, "load_of_others", lambda: 1.2)
    assert run("calibrate", "-o", tmp_path / "m.toml") == 2
    assert "others keep 1.2 cores of this machine busy; stop them, or give --allow-busy" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_machine_is_a_toml_file(tmp_path, capsys):
    assert run("calibrate", "-o", tmp_path / "m.txt") == 2
    assert "--out: must be a .toml file, got" in capsys.readouterr().err


def test_a_gpu_that_is_not_there_is_refused(tmp_path, capsys, no_gpu):
    assert run("calibrate", "-o", tmp_path / "m.toml", "--device", "cuda") == 2
    assert "PyTorch sees no GPU; choices: cpu" in capsys.readouterr().err


def test_a_gpu_is_timed_with_one_thread(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(calibration, "describe_host", lambda device, threads: None)
    assert run("calibrate", "-o", tmp_path / "m.toml", "--device", "cuda", "--threads", 2) == 2
    assert "device 'cuda' is timed with 1 thread, got 2" in capsys.readouterr().err


def test_a_gpu_without_room_is_said(monkeypatch):
    import torch

    from skipsim.hwmodels.measured_torch import Tensors

    def full(self: object, *_: object, **__: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.Tensor, "to", full)
    with pytest.raises(InputError, match="device 'cuda' has no room for the layers that are measured"):
        Tensors.of(draw_shapes(0)[0], "nchw", "cuda", np.random.default_rng(0))


def test_masks_have_the_density_that_is_asked_for_and_clusters_lie_together():
    generator = np.random.default_rng(0)
    for cluster in (0.0, 4.0):
        assert draw_mask((40, 50), 0.2, cluster, generator).sum() == 400
    edges = [np.abs(np.diff(draw_mask((40, 50), 0.3, cluster, generator).astype(int))).sum() for cluster in (0.0, 4.0)]
    assert edges[1] < edges[0] / 2


def test_drawn_layers_are_of_the_class_that_they_are_drawn_for():
    for kind in CHANNELS_TIMES_SIDE:
        shapes = draw_shapes(0, {kind: 8})
        assert len(shapes) == 8
        assert {shape.kind for shape in shapes} == {kind}


def test_work_of_a_full_mask_is_that_of_the_dense_layer():
    for shape in draw_shapes(1, {"plain": 4, "pointwise": 4}):
        work = work_of("compiled", Call(shape, (1, 1), 1.0, 0.0, 0), REGISTERS)
        lanes = -(-shape.out_channels // 16) * 16
        assert work.pixels[0] == shape.out_rows * shape.out_cols
        assert work.macs[0] == shape.macs / shape.out_channels * lanes
        assert work.output_bytes[0] == shape.out_bytes


@pytest.mark.parametrize("threads", [1, 2])
def test_this_machine_is_measured_from_end_to_end(tmp_path, monkeypatch, threads):
    """Two layers per class, two passes: no bound on times, but the file must load and predict."""
    from skipsim.hwmodels import measure

    monkeypatch.setattr(calibration, "load_of_others", lambda: 0.0)
    monkeypatch.setattr(calibration, "pin_thread", lambda: None)
    monkeypatch.setattr(measure, "FLUSH_BYTES", 2**20)
    monkeypatch.setattr(calibration, "check_threads", lambda threads: None)
    monkeypatch.setattr(measure, "measure_peaks", lambda threads: PEAKS)
    plan = measure.Plan(configurations=6, passes=2, per_class={"plain": 5, "pointwise": 5}, threads=threads)
    monkeypatch.setattr(calibration, "FEWEST", 1)
    hardware, raw = calibration.calibrate("here", plan=plan, say=lambda text: None)
    assert (raw.table["ns"] > 0).all()
    assert hardware.processor.host.threads == raw.host.threads == threads
    hardware.save(tmp_path / "here.toml")
    trace = synthetic_trace(
        [layer_of_shape() for _ in range(1)], frames=3, density=0.2, cluster_pixels=8, block=4, seed=0
    )
    report = simulate(trace, load_hardware(tmp_path / "here.toml"), tile=(4, 4))
    assert report.cycles > 0
    assert report.causes["compute"] > 0


def layer_of_shape():
    from skipsim.traces.layer import Layer

    return Layer("conv", 32, 24, 24, 32, 24, 24, 3, 3, padding_top=1, padding_left=1)

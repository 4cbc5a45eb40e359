"""Does a network that was measured on a machine put the machine's predictions for it right, and for no other?"""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from skipsim.analysis.advice.uncertainty import (
    ANCHORED_ERROR,
    MODEL_ERROR,
    PROCESSOR_ERROR,
    THREADED_ERROR,
    model_error,
)
from skipsim.analysis.anchor_network import (
    GatedTime,
    NetworkTimes,
    anchor_network,
    make_anchor,
    trace_of,
    without_anchors,
)
from skipsim.analysis.cli import main
from skipsim.analysis.summary import describe_report
from skipsim.hwmodels import host
from skipsim.hwmodels.anchor import Anchor, anchor_of
from skipsim.hwmodels.choice import faster_dense
from skipsim.hwmodels.hardware import load_hardware
from skipsim.hwmodels.kernel_work import LayerShape
from skipsim.simulator.simulate import simulate
from skipsim.traces.execute.timed_network import TimedNetwork
from skipsim.traces.layer import Layer
from skipsim.traces.trace import Trace

MEASURED = "measured-zen4-2core"
SIZES = {
    "in_rows": 24, "in_cols": 24, "out_rows": 24, "out_cols": 24, "kernel_rows": 3, "kernel_cols": 3, "padding_top": 1,
    "padding_left": 1, "block_rows": 4, "block_cols": 4, "gate": "input_norm",
}  # fmt: skip
LAYERS = (
    Layer("first", in_channels=16, out_channels=16, **SIZES),
    Layer("second", in_channels=16, out_channels=32, **SIZES),
    Layer("third", in_channels=32, out_channels=32, **SIZES),
    Layer("fourth", in_channels=32, out_channels=32, **SIZES),
)
BLOCKS = {layer.label: (4, 4) for layer in LAYERS}


def masks(share: float) -> dict[tuple[str, int], np.ndarray]:
    return {layer.key: np.arange(36).reshape(6, 6) < 36 * share for layer in LAYERS}


def gated(share: float, layers_ns: list[float], rest_ns: float) -> GatedTime:
    whole = SimpleNamespace(whole_ns=sum(layers_ns) + rest_ns)
    return GatedTime(masks(share), np.array(layers_ns), rest_ns, whole)  # type: ignore[arg-type]


def predicted(share: float) -> np.ndarray:
    bare = without_anchors(load_hardware(MEASURED))
    found: np.ndarray = simulate(trace_of(LAYERS, masks(share)), bare, tile=BLOCKS).cycles_by_stage[0]
    return found


FACTORS = np.array([2.0, 3.0, 0.5, 0.5])
RESTS = {0.0: 2e4, 0.25: 5e4, 0.5: 6e4}
TIMES = NetworkTimes(
    LAYERS,
    5e6,
    tuple(gated(share, list(FACTORS * predicted(share)), rest) for share, rest in RESTS.items()),
    block=4,
    threads=1,
)


@pytest.fixture(scope="module")
def anchored():
    hardware = load_hardware(MEASURED).replace(**{"processor.fallback": False})
    anchor = make_anchor(TIMES, hardware, "made up")
    return hardware.model_copy(
        update={"processor": hardware.processor.model_copy(update={"anchors": {"four layers": anchor}})}
    )


def test_what_was_measured_is_predicted(anchored):
    for share, frame in zip(RESTS, TIMES.gated, strict=True):
        report = simulate(trace_of(LAYERS, masks(share)), anchored, tile=BLOCKS)
        assert report.dense.cycles == pytest.approx(5e6, rel=1e-3)  # at a nominal 1 GHz
        assert report.cycles == pytest.approx(frame.timed.whole_ns, rel=1e-3)
        expected = frame.layers_ns / frame.layers_ns.sum()  # the rest is shared out in proportion
        assert report.cycles_by_stage[0] / report.cycles == pytest.approx(expected, rel=2e-3)
        assert sum(report.causes.values()) == pytest.approx(report.cycles, abs=100)


def test_frames_that_compute_the_same_count_once():
    """On a small grid of blocks a low density may be none at all."""
    twice = replace(TIMES, gated=(TIMES.gated[0], *TIMES.gated))
    assert make_anchor(twice, load_hardware(MEASURED), "made up") == make_anchor(
        TIMES, load_hardware(MEASURED), "made up"
    )


def test_what_belongs_to_no_layer_lies_on_lines_between_what_was_measured(anchored):
    anchor = anchored.processor.anchors["four layers"]
    low, middle, high = anchor.copies_ns
    between = anchor.rest_of(np.array([low, (low + middle) / 2, middle, high, high + (high - middle)]))
    assert between == pytest.approx([2e4, 3.5e4, 5e4, 6e4, 7e4], rel=1e-3)


def test_a_reference_frame_and_a_dense_layer_take_their_share_of_the_dense_network(anchored):
    both = [np.stack([np.ones((6, 6), bool), masks(0.25)[layer.key]]) for layer in LAYERS]
    frames = simulate(Trace.from_masks(list(LAYERS), both, reference_frames=(0,)), anchored, tile=BLOCKS).by_frame
    assert frames["cycles"].iloc[0] == pytest.approx(5e6, rel=1e-3)
    assert frames["cycles"].iloc[1] == pytest.approx(TIMES.gated[1].timed.whole_ns, rel=1e-3)
    tiles = BLOCKS | dict.fromkeys(list(BLOCKS)[1:], "dense")
    mixed = simulate(trace_of(LAYERS, masks(0.25)), anchored, tile=tiles)
    whole = mixed.dense.cycles_by_stage[0]
    assert mixed.cycles == pytest.approx(TIMES.gated[1].layers_ns[0] + whole[1:].sum() + 5e4, rel=1e-3)


def test_other_networks_are_predicted_as_before(anchored):
    bare = without_anchors(anchored)
    for layers in (LAYERS[:3], (*LAYERS, LAYERS[0]), (replace(LAYERS[0], out_channels=24), *LAYERS[1:])):
        named = [replace(layer, name=str(number)) for number, layer in enumerate(layers)]
        trace = Trace.from_masks(named, [np.ones((1, 6, 6), bool)] * len(named), reference_frames=())
        assert anchor_of(anchored.processor.anchors, named) is None
        assert simulate(trace, anchored, tile=(4, 4)).cycles == simulate(trace, bare, tile=(4, 4)).cycles


def test_bands_and_reports_say_which_was_used(anchored):
    report = simulate(trace_of(LAYERS, masks(0.25)), anchored, tile=BLOCKS)
    assert report.summary()["anchor"] == "made up"
    assert "by an anchor, made up" in describe_report(report, "four layers")
    bare = without_anchors(anchored)
    assert simulate(trace_of(LAYERS, masks(0.25)), bare, tile=BLOCKS).summary()["anchor"] is None
    errors = [model_error(machine, LAYERS) for machine in (anchored, bare, load_hardware("edge-npu"))]
    assert errors == [ANCHORED_ERROR, PROCESSOR_ERROR, MODEL_ERROR]


def test_other_blocks_and_threads_than_were_timed_are_said(anchored):
    anchor = anchored.processor.anchors["four layers"]
    assert anchor.difference(LAYERS) is None
    threads = "anchor: timed with blocks of 4x4 on 1 thread, asked for 2 threads: its error is not known there; "
    assert str(anchor.difference(LAYERS, threads=2)).startswith(threads)
    coarse = [replace(layer, block_rows=8, block_cols=8) for layer in LAYERS]
    trace = Trace.from_masks(coarse, [np.ones((1, 3, 3), bool)] * 4, reference_frames=())
    report = simulate(trace, anchored, tile=(8, 8))
    blocks = "anchor: timed with blocks of 4x4 on 1 thread, asked for blocks of 8x8: its error is not known there; "
    assert str(report.summary()["anchor_warning"]).startswith(blocks)
    assert f"warning: {blocks}" in describe_report(report, "four layers")
    assert model_error(anchored, coarse) == PROCESSOR_ERROR
    both_cores = anchored.replace(**{"processor.host.threads": 2})
    assert model_error(both_cores, LAYERS) == THREADED_ERROR, "its anchor was timed with one thread"
    mixed = [replace(LAYERS[0], gate="none", block_rows=1, block_cols=1), *LAYERS[1:]]
    assert anchor.difference(mixed) is None  # a layer without a gate has no blocks


def test_of_several_anchors_the_one_of_the_same_block_is_taken(anchored):
    fine = anchored.processor.anchors["four layers"]
    coarse, single = (fine.model_copy(update={"block": block}) for block in (8, 1))
    both = {"coarse": coarse, "fine": fine, "single": single}
    assert anchor_of(both, LAYERS) is fine
    assert anchor_of(both, [replace(layer, block_rows=8, block_cols=8) for layer in LAYERS]) is coarse
    assert anchor_of(both, [replace(layer, block_rows=2, block_cols=2) for layer in LAYERS]) is single  # the last


def test_layers_run_densely_by_what_was_measured(anchored):
    layers = {layer.label: (LayerShape.of(layer), (4, 4)) for layer in LAYERS}
    processor, anchor = anchored.processor, anchored.processor.anchors["four layers"]
    plain = faster_dense(layers, processor, 0.25)
    slow = anchor.model_copy(update={"scales": dict.fromkeys(anchor.scales, 1e6), "dense_scale": 1.0})
    assert faster_dense(layers, processor, 0.25, slow).keys() == layers.keys()
    quick = anchor.model_copy(update={"scales": dict.fromkeys(anchor.scales, 1e-6), "dense_scale": 1.0})
    assert faster_dense(layers, processor, 0.25, quick) == {}
    assert plain == faster_dense(
        layers,
        processor,
        0.25,
        anchor.model_copy(update={"scales": dict.fromkeys(anchor.scales, 1.0), "dense_scale": 1}),
    )


def test_a_file_keeps_its_anchors_and_tables_that_disagree_are_refused(anchored, tmp_path):
    anchored.save(tmp_path / "machine.toml")
    assert load_hardware(tmp_path / "machine.toml").processor.anchors == anchored.processor.anchors
    one = anchored.processor.anchors["four layers"].model_dump()
    with pytest.raises(ValueError, match="layers and scales must name the same shapes"):
        Anchor.model_validate(one | {"scales": {}})
    with pytest.raises(ValueError, match="must be of the same two or more frames, ascending"):
        Anchor.model_validate(one | {"rest_ns": (1.0,)})


def small() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3, padding=1)
    ).eval()


def test_a_network_is_timed_and_its_layers_add_up():
    network = TimedNetwork("small", 24, 24, 4, model=small())
    times = NetworkTimes.of(network, repeats=2)
    assert times.dense_ns > 0
    for frame in times.gated:
        assert (frame.layers_ns > 0).all()
        assert frame.layers_ns.sum() + frame.rest_ns == pytest.approx(frame.timed.whole_ns)
    machine = anchor_network(load_hardware(MEASURED), {"small": network}, 2, lambda text: None)
    assert machine.processor.anchors["small, block 4"].is_of(map(LayerShape.of, network.layers))
    assert {LayerShape.of(layer).name for layer in network.layers} <= machine.processor.dense_layers_ns.keys()


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def test_the_command_writes_what_simulate_takes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(host, "load_of_others", lambda: 0.0)
    monkeypatch.setattr(host, "pin_thread", lambda: None)
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1))\n"
    )
    asked = ("anchor", "net:build@24x24", "--hardware", MEASURED, "--passes", 2)
    assert run(*asked) == 2
    assert "packaged machines stay as they are" in capsys.readouterr().err
    assert run(*asked, "-o", "here.toml") == 0
    assert "net:build@24x24: dense" in capsys.readouterr().out
    assert "net:build@24x24, block 4" in load_hardware("here.toml").processor.anchors
    assert run("anchor", "net:build@24x24", "--hardware", "here.toml", "--passes", 2, "--block", 8) == 0
    kept = load_hardware("here.toml").processor.anchors
    assert [(one.block, one.threads) for name, one in kept.items() if name.startswith("net:")] == [(4, 1), (8, 1)]
    assert run("anchor", "net:build", "--hardware", "here.toml") == 2
    assert "must be NETWORK@ROWSxCOLS" in capsys.readouterr().err
    assert run("anchor", "net:build@24x24", "--hardware", "edge-npu") == 2
    assert "was not measured, it takes no anchor" in capsys.readouterr().err

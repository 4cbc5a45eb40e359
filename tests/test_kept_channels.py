"""Do layers that skip channels count, cost and move what is kept, and stay whole where the network is dense?"""

import numpy as np
import pytest

from skipsim.errors import InputError
from skipsim.hwmodels.hardware import load_hardware
from skipsim.simulator.simulate import simulate
from skipsim.traces.layer import Layer
from skipsim.traces.trace import Trace, load_trace

PLAIN = load_hardware("systolic-32x32")


def layer(ins: int | None, outs: int | None, gate: str = "mask") -> Layer:
    return Layer(
        "conv", 96, 12, 12, 128, 12, 12, 3, 3, padding_top=1, padding_left=1, gate=gate, kept_in_channels=ins,
        kept_out_channels=outs,
    )  # fmt: skip


def trace(ins: int | None, outs: int | None, gate: str = "mask", references: tuple[int, ...] = ()) -> Trace:
    masks = np.ones((2, 12, 12), np.bool_)
    masks[1, :6] = False
    return Trace.from_masks([layer(ins, outs, gate)], [masks], reference_frames=references)


def test_macs_count_kept_channels_and_dense_macs_all():
    assert trace(None, None).macs == (144 + 72) * 9 * 96 * 128
    assert trace(48, 32).macs == (144 + 72) * 9 * 48 * 32
    assert trace(48, 32, references=(0,)).macs == 144 * 9 * 96 * 128 + 72 * 9 * 48 * 32
    assert trace(48, 32).dense_macs == trace(None, None).dense_macs == 2 * 144 * 9 * 96 * 128


@pytest.mark.parametrize("references", [(), (0,)])
@pytest.mark.parametrize(("ins", "outs"), [(48, 32), (None, 64), (96, 128), (1, 1)])
def test_a_layer_with_kept_channels_costs_as_much_as_a_narrower_one(ins, outs, references):
    report = simulate(trace(ins, outs, references=references), PLAIN, "full")
    narrow = Layer(
        "conv", ins or 96, 12, 12, outs or 128, 12, 12, 3, 3, padding_top=1, padding_left=1, gate="mask"
    )  # fmt: skip
    masks = [trace(None, None).masks(0)]
    expected = simulate(Trace.from_masks([narrow], masks), PLAIN, "full").layers
    dense = simulate(trace(None, None), PLAIN, "full", dense=True).layers
    for column in ("array_cycles", "cycles", "macs", "computed_macs", "weight_read_bytes"):
        first = dense if references else expected
        assert report.layers[column][0] == first[column][0], column
        assert report.layers[column][1] == expected[column][1], column
    assert (report.layers["dense_macs"] == 144 * 9 * 96 * 128).all()
    assert report.dense is not None
    assert report.dense.macs == report.dense_macs
    assert report.macs == trace(ins, outs, references=references).macs


def test_channels_may_be_kept_without_a_gate():
    masks = np.ones((2, 12, 12), np.bool_)
    for references, kept_frames in (((), 2), ((0,), 1)):
        ungated = Trace.from_masks([layer(48, 32, "none")], [masks], reference_frames=references)
        report = simulate(ungated, PLAIN, "full")
        assert report.macs == ungated.macs == 144 * 9 * (kept_frames * 48 * 32 + (2 - kept_frames) * 96 * 128)
        share = report.macs / report.dense_macs
        assert report.density == report.effective_density == pytest.approx(share)


def test_reading_some_channels_of_a_map_takes_a_segment_per_pixel():
    hardware = PLAIN.replace(**{"dram.rule": "stream", "dram.bytes_per_cycle": 1, "dram.burst_bytes": 32})
    reads = [simulate(trace(ins, 128), hardware, "full").layers["dram_read_bytes"][0] for ins in (96, 40)]
    assert reads[0] == 144 * 96 + 9 * 96 * 128
    assert reads[1] == 144 * 64 + 9 * 40 * 128  # 40 bytes of each pixel: two bursts of 32


def test_manifests_keep_them_and_old_ones_stay_what_they_were(tmp_path):
    saved = trace(48, 32).save(tmp_path / "kept.trace")
    assert load_trace(tmp_path / "kept.trace").layers == saved.layers == (layer(48, 32),)
    assert "kept_in_channels" not in layer(None, None).to_dict()
    assert Layer.from_dict(layer(None, None).to_dict()) == layer(None, None)
    assert trace(48, 32).hash != trace(None, None).hash


@pytest.mark.parametrize(
    ("ins", "outs", "message"),
    [
        (97, None, "kept_in_channels must be at most in_channels=96, got 97"),
        (None, 129, "kept_out_channels must be at most out_channels=128, got 129"),
        (0, None, "kept_in_channels must be a whole number >= 1, got 0"),
        (1.5, None, "kept_in_channels must be a whole number >= 1, got 1.5"),
    ],
)
def test_impossible_counts_are_refused(ins, outs, message):
    with pytest.raises(InputError, match=message):
        layer(ins, outs)


def test_grouped_layers_keep_all():
    with pytest.raises(InputError, match=r"kept_in_channels must be in_channels=4 \(all\) in a grouped layer, got 2"):
        Layer("grouped", 4, 8, 8, 4, 8, 8, groups=2, kept_in_channels=2)

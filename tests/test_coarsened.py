"""Is a coarsened recording what a coarser gate would have asked for on the same values, and marked as such?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from skipsim.analysis.loops import describe_gaps, loop_gaps
from skipsim.analysis.sweep import pending, sweep
from skipsim.errors import InputError
from skipsim.traces.coarsened import coarsened
from skipsim.traces.layer import Layer
from skipsim.traces.trace import Trace, load_trace

FINE = Layer("conv", 4, 7, 10, 4, 7, 10, 3, 3, padding_top=1, padding_left=1, gate="input_norm")
DENSE = replace(FINE, name="stem", gate="none")


def fine_trace(block: int = 1) -> Trace:
    layers = [DENSE, replace(FINE, block_rows=block, block_cols=block)]
    masks = [np.random.default_rng(3).random((5, one.grid_rows, one.grid_cols)) < 0.15 for one in layers]
    for mask in masks:
        mask[0] = True
    masks[0][:] = True
    return Trace.from_masks(
        layers, masks, reference_frames=[0], origin={"kind": "recorded"}, quality={"agreement": 0.9}
    )


@pytest.mark.parametrize("block", [(1, 1), (2, 2), (3, 4), (16, 16)])
def test_a_block_is_on_if_any_pixel_in_it_is(block: tuple[int, int]) -> None:
    fine = fine_trace()
    coarse = coarsened(fine, block)
    assert [(one.block_rows, one.block_cols) for one in coarse.layers] == [(1, 1), block]
    pixels, blocks = fine.masks(1), coarse.masks(1)
    assert blocks.shape == (5, -(-7 // block[0]), -(-10 // block[1]))
    for frame, row, col in np.ndindex(blocks.shape):
        patch = pixels[frame, row * block[0] : (row + 1) * block[0], col * block[1] : (col + 1) * block[1]]
        assert blocks[frame, row, col] == patch.any()
    assert (coarse.masks(0) == fine.masks(0)).all()
    assert (coarse.reference_frames, coarse.quality) == ((0,), fine.quality)
    assert coarse.origin == {"kind": "recorded", "coarsened_from": fine.hash}


def test_a_function_gives_every_layer_its_own() -> None:
    coarse = coarsened(fine_trace(), lambda layer: (7, 10) if layer.name == "conv" else (1, 1))
    assert coarse.masks(1).shape == (5, 1, 1)


def test_blocks_that_are_not_whole_blocks_of_the_recording() -> None:
    with pytest.raises(InputError, match="'conv': blocks of 3x3 are not whole blocks of the recording's 2x2"):
        coarsened(fine_trace(2), (3, 3))


STUDY = """
name = "loops"
[recording]
network = "loop_network:make"
clip = "clip.npy"
threshold = 0.012
block = [1, 4]
loop = ["closed", "open"]
[simulation]
hardware = "edge-npu"
tile = "4x4"
"""
OWN = """
from torch import manual_seed, nn

def make():
    manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3))
"""


def test_a_study_offers_both_and_says_how_far_apart_they_are(tmp_path: Path) -> None:
    (tmp_path / "loop_network.py").write_text(OWN)
    rng = np.random.default_rng(1)
    clip = rng.integers(0, 200, (1, 18, 20, 3), np.uint8).repeat(4, axis=0)
    for frame in range(1, 4):  # changes of all sizes around the threshold
        clip[frame, 4:14, 5:15] += rng.integers(0, 1 + 50 * rng.random((10, 10, 1)), (10, 10, 3)).astype(np.uint8)
    np.save(tmp_path / "clip.npy", clip)
    study, out = tmp_path / "study.toml", tmp_path / "out"
    study.write_text(STUDY)
    plan = pending(study, out)
    assert (plan.rows, plan.recordings, plan.missing_recordings) == (4, 2, 2), "open loop shares the one of pixels"
    table = sweep(study, out, 1)
    assert table[["loop", "block"]].values.tolist() == [[a, b] for a in ("closed", "open") for b in ("1x1", "4x4")]
    assert (table["error"] == "").all()
    rows = {(row["loop"], row["block"]): row for row in table.to_dict("records")}
    same = ("trace_hash", "cycles", "density", "quality")
    assert [rows["open", "1x1"][name] for name in same] == [rows["closed", "1x1"][name] for name in same]
    assert rows["open", "4x4"]["quality"] == rows["closed", "1x1"]["quality"] != rows["closed", "4x4"]["quality"]
    fine, coarse = (load_trace(path) for path in sorted_by_block(out))
    assert rows["open", "4x4"]["density"] == pytest.approx(coarsened(fine, (4, 4)).density(), abs=0.2)
    assert rows["open", "4x4"]["trace_hash"] in {coarsened(fine, (4, 4)).hash} - {coarse.hash}

    gaps = loop_gaps(table)
    assert gaps["block"].tolist() == ["4x4"], "single pixels are the same recording in both loops"
    difference = rows["open", "4x4"]["quality"] - rows["closed", "4x4"]["quality"]
    assert gaps.loc[0, "quality_gap"] == pytest.approx(100 * difference)
    slower = 100 * (rows["open", "4x4"]["cycles"] / rows["closed", "4x4"]["cycles"] - 1)
    assert describe_gaps(table).startswith(f"Open loop against closed, 1 pairs: latency {slower:+.1f}% in the median")
    assert describe_gaps(table[table["loop"] == "open"]) == ""
    assert pending(study, out).missing_simulations == 0


def sorted_by_block(out: Path) -> list[Path]:
    """Return the recordings of the study, not what was coarsened, fine one first."""
    traces = {path: load_trace(path) for path in (out / "traces").iterdir()}
    recorded = [path for path, trace in traces.items() if "coarsened_from" not in trace.origin]
    return sorted(recorded, key=lambda path: traces[path].layers[0].block_rows)


def test_blocks_by_layer_are_recorded_and_coarsened_by_layer(tmp_path: Path) -> None:
    (tmp_path / "loop_network.py").write_text(OWN)
    np.save(tmp_path / "clip.npy", np.random.default_rng(1).integers(0, 256, (3, 18, 20, 3), np.uint8))
    study = tmp_path / "study.toml"
    study.write_text(
        STUDY.replace("block = [1, 4]", 'block = { "0" = [2, 4], "16x18" = 8, "*" = 16 }\nshare = ["", "network"]')
    )
    table = sweep(study, tmp_path / "out", 1)
    assert (table["error"] == "").all()
    assert table["block"].tolist() == ["16x16, 0: 2x2, 16x18: 8x8", "16x16, 0: 4x4, 16x18: 8x8"] * 4
    assert table["share"].tolist() == ["", "", "", "", "network", "network", "network", "network"]
    for path in (tmp_path / "out" / "traces").iterdir():
        trace = load_trace(path)
        sides = [layer.block_rows for layer in trace.layers]
        assert sides in ([2, 8], [4, 8]) or (sides == [1, 1] and "coarsened_from" not in trace.origin)

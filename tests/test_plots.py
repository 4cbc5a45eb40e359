"""Do the figures show the numbers of the table and the masks of the trace, with units, inside their frame?"""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from PIL import Image

from skipsim.analysis.causes import CAUSE_GROUPS
from skipsim.analysis.figures.gates_figure import MARGIN, gates_figure
from skipsim.analysis.figures.mask_figures import masks_by_block, masks_of_layers
from skipsim.analysis.figures.style import COLOURS, GREY, MARKERS
from skipsim.analysis.figures.variants import blocks_of, tiles_of, variants_of
from skipsim.analysis.plots import cycles_by_cause, density_by_block, draw_all, latency_accuracy, speedup_mac_reduction
from skipsim.analysis.results import make_table, read_results
from skipsim.analysis.sweep import sweep
from skipsim.errors import InputError
from skipsim.simulator.counters import CAUSES
from skipsim.traces.layer import Layer
from skipsim.traces.trace import Trace

MACHINES = ("small", "large")
BLOCKS = ("1x1", "4x4", "16x16")
TILES = ("4x4", "8x8")
THRESHOLDS = (0.05, 0.1)


def make_rows() -> list[dict[str, Any]]:
    """Return rows of a made-up study in which everything differs."""
    rng = np.random.default_rng(3)
    rows = []
    for machine in MACHINES:
        dense_ms = 1.0 if machine == "small" else 0.4
        for block in BLOCKS:
            for threshold in THRESHOLDS:
                quality = 0.95 - 0.1 * threshold * rng.random()
                for tile in TILES:
                    latency = dense_ms * (0.5 + rng.random())
                    shares = {name: rng.dirichlet(np.ones(len(CAUSES))) for name in ("cause", "dense_cause")}
                    rows.append(
                        {
                            "network": "net", "clip": "a", "gate": "input_norm", "threshold": threshold, "block": block,
                            "update": "recompute", "reset_every": 0, "hardware": machine, "tile": tile,
                            "chosen_tile": tile, "quality_metric": "pck@0.05", "quality": quality,
                            "dense_quality": 0.95, "quality_drop": 100 * (0.95 - quality), "latency_ms": latency,
                            "dense_latency_ms": dense_ms, "mac_reduction": 1 + 3 * rng.random(),
                            "speedup": dense_ms / latency, "density": rng.random(), "effective_density": rng.random(),
                            **{f"{kind}_{cause}_share": float(share) for kind, found in shares.items()
                               for cause, share in zip(CAUSES, found, strict=True)},
                        }
                    )  # fmt: skip
    return rows


@pytest.fixture
def table() -> pd.DataFrame:
    return make_table(make_rows())


def points(figure: Figure, panel: int) -> set[tuple[float, float]]:
    """Return where the scattered points of a panel lie."""
    collections = [c for c in figure.axes[panel].collections if isinstance(c, PathCollection)]
    offsets = [offset for collection in collections for offset in np.asarray(collection.get_offsets())]
    return {(round(float(x), 9), round(float(y), 9)) for x, y in offsets}


def expected(rows: pd.DataFrame, x: pd.Series[float], y: pd.Series[float]) -> set[tuple[float, float]]:
    return {(round(a, 9), round(b, 9)) for a, b in zip(x[rows.index], y[rows.index], strict=True)}


# --- the numbers


def test_latency_accuracy_shows_every_row_the_dense_point_and_the_pareto_line(table: pd.DataFrame) -> None:
    figure = latency_accuracy(table)
    assert [axis.get_title() for axis in figure.axes] == list(MACHINES)
    for panel, machine in enumerate(MACHINES):
        axis, rows = figure.axes[panel], table[table["hardware"] == machine]
        assert points(figure, panel) == expected(rows, table["latency_ms"], 100 * table["quality"])
        assert axis.get_xlabel() == "latency [ms per frame]"
        star = next(line for line in axis.lines if line.get_marker() == "*")
        dense_ms = rows["dense_latency_ms"].iloc[0]
        assert np.allclose(star.get_xydata(), [[dense_ms, 95]])
        # attainable: for every latency on the line, the best accuracy of all points that are at most as slow
        line = next(line for line in axis.lines if line.get_marker() == "None")
        all_points = [*zip(rows["latency_ms"], 100 * rows["quality"], strict=True), (dense_ms, 95.0)]
        vertices = np.asarray(line.get_xydata())
        for latency, quality in vertices:
            assert quality == pytest.approx(max(q for ms, q in all_points if ms <= latency + 1e-12))
        assert vertices[:, 1].max() == pytest.approx(max(q for _, q in all_points))
        assert line.get_drawstyle() == "steps-post"
    assert figure.axes[0].get_ylabel() == "PCK@0.05 [%]"


def test_marks_at_a_perfect_score_are_whole_and_no_tick_is_above_it(table: pd.DataFrame) -> None:
    perfect = latency_accuracy(table.assign(quality=table["quality"] + 0.05, dense_quality=1.0)).axes[0]
    assert perfect.get_ylim()[1] >= 100.5
    assert max(perfect.get_yticks()) == pytest.approx(100)


def test_gates_that_gain_lie_inside_their_figure(table: pd.DataFrame) -> None:
    table = table.assign(quality_drop=table["quality_drop"] - 2, group="")
    low, high = gates_figure(table, max_drop=1.0).axes[0].get_ylim()
    assert (low, high) == (4, pytest.approx(table["quality_drop"].min() - MARGIN))


def test_speedup_figure_has_lines_of_what_is_realised(table: pd.DataFrame) -> None:
    figure = speedup_mac_reduction(table)
    for panel, machine in enumerate(MACHINES):
        axis, rows = figure.axes[panel], table[table["hardware"] == machine]
        assert points(figure, panel) == expected(rows, table["mac_reduction"], table["speedup"])
        dashed = [np.asarray(line.get_xydata()) for line in axis.lines if line.get_color() == GREY]
        assert [line[1, 1] / line[1, 0] for line in dashed] == pytest.approx([1, 0.5, 0.25])
        assert all((line[0] == 0).all() for line in dashed)
        assert [text.get_text() for text in axis.texts] == ["100%", "50%", "25%"]
        assert axis.get_xlabel() == "MAC reduction, gates included [x]"
    assert figure.axes[0].get_ylabel() == "predicted speed-up [x]"


def test_cycles_are_stacked_to_the_latency(table: pd.DataFrame) -> None:
    figure = cycles_by_cause(table, max_drop=0.5)
    for panel, machine in enumerate(MACHINES):
        axis, rows = figure.axes[panel], table[table["hardware"] == machine]
        patches: Any = axis.patches
        bars = [(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in patches]
        heights = [sum(height for place, height in bars if round(place) == index) for index in range(4)]
        assert len(bars) == 4 * len(CAUSE_GROUPS)
        assert heights[0] == pytest.approx(100)
        names, marks = ["dense"], []
        for index, block in enumerate(BLOCKS, start=1):
            own = rows[rows["block"] == block]
            allowed = own[own["quality_drop"] <= 0.5]
            least = own[own["quality_drop"] == own["quality_drop"].min()]
            best = (allowed if len(allowed) else least).sort_values("latency_ms").iloc[0]
            assert heights[index] == pytest.approx(100 * best["latency_ms"] / best["dense_latency_ms"])
            marks.append((index, pytest.approx(100 / best["mac_reduction"])))
            names.append(block.partition("x")[0] + "*" * (len(allowed) == 0))
        assert [label.get_text() for label in axis.get_xticklabels()] == names
        assert [tuple(np.asarray(line.get_xydata())[0]) for line in axis.lines] == marks
    assert figure.axes[0].get_ylabel() == "cycles [% of dense]"


def test_density_figure_has_a_line_for_gates_and_one_per_tile(table: pd.DataFrame) -> None:
    figure = density_by_block(table)
    assert [axis.get_title() for axis in figure.axes] == ["input_norm 0.05", "input_norm 0.1"]
    rows = table[table["hardware"] == "small"]
    for axis, threshold in zip(figure.axes, THRESHOLDS, strict=True):
        own = rows[rows["threshold"] == threshold]
        asked, *computed = [np.asarray(line.get_ydata(), float) for line in axis.lines]
        assert asked == pytest.approx([100 * own[own["block"] == block]["density"].mean() for block in BLOCKS])
        for tile, line in zip(TILES, computed, strict=True):
            of_tile = own[own["tile"] == tile].set_index("block")["effective_density"]
            assert line == pytest.approx([100 * of_tile[block] for block in BLOCKS])
        assert [label.get_text() for label in axis.get_xticklabels()] == ["1", "4", "16"]
    assert figure.axes[0].get_ylabel() == "share of dense MACs [%]"


def test_failed_rows_are_left_out(table: pd.DataFrame) -> None:
    table.loc[0, "error"] = "broken"
    assert len(points(speedup_mac_reduction(table), 0)) == len(BLOCKS) * len(TILES) * len(THRESHOLDS) - 1
    table["error"] = "broken"
    for draw in (latency_accuracy, speedup_mac_reduction, cycles_by_cause, density_by_block):
        with pytest.raises(InputError, match="figure: "):
            draw(table)


# --- readable


def test_blocks_have_colours_and_tiles_markers_in_the_order_of_their_size() -> None:
    rows = pd.DataFrame({"block": ["16x16", "4x4", "1x1", "2x16"], "tile": ["full", "16x16", "auto", "4x4"]})
    assert list(blocks_of(rows)) == ["1x1", "4x4", "2x16", "16x16"]
    assert list(blocks_of(rows).values()) == list(COLOURS[:4])
    assert list(tiles_of(rows)) == ["4x4", "16x16", "full", "auto"]
    assert list(tiles_of(rows).values()) == list(MARKERS[:4])


def test_colours_differ_for_readers_who_see_no_red_or_no_green() -> None:
    # Vienot, Brettel and Mollon, Color Research & Application 24 (1999): linear RGB of protanopes and deuteranopes
    protan = np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]])
    deutan = np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]])
    for view in (np.eye(3), protan, deutan):
        seen = [view @ (np.array(to_rgb(colour)) ** 2.2) for colour in COLOURS[:6]]
        assert min(np.abs(a - b).max() for a, b in combinations(seen, 2)) > 0.04


def test_every_machine_and_overridden_key_has_a_panel() -> None:
    rows = [{**row, "dram.bytes_per_cycle": width} for width in (8, 16) for row in make_rows()]
    titles = [variant.title for variant in variants_of(make_table(rows, ["dram.bytes_per_cycle"]))]
    assert titles == [f"{machine}\ndram.bytes_per_cycle = {width}" for width in (8, 16) for machine in MACHINES]


@pytest.mark.parametrize("draw", [latency_accuracy, speedup_mac_reduction, cycles_by_cause, density_by_block])
@pytest.mark.parametrize("panels", [1, 2, 6])
def test_nothing_overlaps_and_nothing_is_cut_off(draw: Any, panels: int) -> None:
    rows = make_rows() if panels > 1 else [row for row in make_rows() if row["hardware"] == "small"]
    widths = (8, 16, 32) if panels == 6 else (8,)
    table = make_table(
        [{**row, "dram.bytes_per_cycle": width} for width in widths for row in rows], ["dram.bytes_per_cycle"]
    )
    figure: Figure = draw(table)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    frame = figure.bbox
    boxes: dict[str, Any] = {f"panel {index}": axis.get_tightbbox(renderer) for index, axis in enumerate(figure.axes)}
    boxes["legend"] = figure.legends[0].get_window_extent(renderer)
    for name, box in boxes.items():
        assert box.x0 >= frame.x0 - 1, name
        assert box.y0 >= frame.y0 - 1, name
        assert box.x1 <= frame.x1 + 1, name
        assert box.y1 <= frame.y1 + 1, name
    for (one, a), (other, b) in combinations(boxes.items(), 2):
        apart = a.x1 <= b.x0 + 1 or b.x1 <= a.x0 + 1 or a.y1 <= b.y0 + 1 or b.y1 <= a.y0 + 1
        assert apart, f"{one} overlaps {other}"


# --- masks


@pytest.fixture
def trace() -> Trace:
    """One layer of 10 x 6 outputs in blocks of 4 x 4, whose edge blocks are clipped to 2; frame 0 is dense."""
    layer = Layer("conv", 3, 20, 12, 4, 10, 6, 3, 3, 2, 2, 1, 1, block_rows=4, block_cols=4, gate="input_norm")
    masks = np.ones((3, 3, 2), bool)
    masks[1] = [[False, False], [True, False], [False, False]]
    masks[2] = [[False, False], [False, False], [False, True]]
    return Trace.from_masks([layer], [masks], reference_frames=[0])


def picture(axis: Any) -> Any:
    return axis.images[0].get_array()


def test_masks_lie_on_the_pixels_that_they_decide(trace: Trace) -> None:
    frames = [np.full((20, 12, 3), (200, 100, 0), np.uint8) for _ in range(3)]
    figure = masks_of_layers(trace, frames)
    assert [axis.get_title() for axis in figure.axes] == ["frame 1", "frame 2"]
    # an output pixel is two picture pixels wide: block row 1 of frame 1 is output rows 4..7, picture rows 8..15
    kept = (picture(figure.axes[0]) == (200, 100, 0)).all(axis=2)
    assert kept[8:16, :8].all()
    assert kept.sum() == 8 * 8
    # the last block is clipped to outputs 8..9 x 4..5
    kept = (picture(figure.axes[1]) == (200, 100, 0)).all(axis=2)
    assert kept[16:20, 8:12].all()
    assert kept.sum() == 4 * 4
    assert (picture(figure.axes[0])[~(picture(figure.axes[0]) == (200, 100, 0)).all(axis=2)] > 200).all()
    assert [axis.texts[0].get_text() for axis in figure.axes] == ["27%", "7%"]  # 16 and 4 of 60 outputs
    assert "conv" in figure.axes[0].get_ylabel()
    assert "10 x 6, block 4 x 4" in figure.axes[0].get_ylabel()


def test_outlines_follow_the_computed_blocks(trace: Trace) -> None:
    figure = masks_of_layers(trace, None)
    (lines,) = [c for c in figure.axes[0].collections if isinstance(c, LineCollection)]
    # without a picture coordinates are output pixels: the four sides of rows 4..8 x columns 0..4
    sides = {tuple(sorted(map(tuple, np.asarray(segment).tolist()))) for segment in lines.get_segments()}
    corners = [(0.0, 4.0), (4.0, 4.0), (4.0, 8.0), (0.0, 8.0)]
    assert sides == {tuple(sorted((corners[i], corners[(i + 1) % 4]))) for i in range(4)}


def test_masks_of_chosen_frames_and_of_several_blocks(trace: Trace) -> None:
    figure = masks_of_layers(trace, None, layers=["conv"], shown=[0, 2])
    assert [axis.get_title() for axis in figure.axes] == ["frame 0", "frame 2"]
    assert figure.axes[0].texts[0].get_text() == "100%"
    assert [axis.get_ylabel() for axis in masks_by_block([trace, trace], None).axes][::2] == ["block 4 x 4"] * 2
    with pytest.raises(InputError, match="no layer 'conw'; did you mean 'conv'"):
        masks_of_layers(trace, None, layers=["conw"])
    with pytest.raises(InputError, match="the trace has 3 frames, the clip only 2"):
        masks_of_layers(trace, [np.zeros((20, 12, 3), np.uint8)] * 2)


# --- files


@pytest.fixture
def finished(tmp_path: Path, trace: Trace) -> Path:
    """Return the folder of a finished study of that trace."""
    quality = {"agreement": 0.99, "headline": "agreement"}
    masks = [trace.masks(0)]
    Trace.from_masks(trace.layers, masks, reference_frames=[0], quality=quality).save(tmp_path / "a.trace")
    study = tmp_path / "study.toml"
    study.write_text(
        'name = "small"\n[recording]\ntrace = "a.trace"\n'
        '[simulation]\nhardware = ["edge-npu", "systolic-32x32"]\ntile = ["4x4", "full"]\n'
    )
    sweep(study, tmp_path / "out", 1)
    return tmp_path / "out"


MACHINE_NAMES = ("edge-npu", "systolic-32x32")


def test_draw_all_writes_every_figure_as_vector_and_picture(finished: Path) -> None:
    files = draw_all(finished)
    names = ["latency-accuracy", "speedup-mac-reduction", "cycles-by-cause", "density-by-block", "gate-masks"]
    names += [
        f"{kind}-{machine}" for machine in MACHINE_NAMES for kind in ("layers", "roofline", "energy", "sensitivities")
    ]
    assert [file.name for file in files] == [f"{name}.{kind}" for name in names for kind in ("pdf", "png")]
    assert all(file.parent == finished / "figures" for file in files)
    for file in files:
        if file.suffix == ".pdf":
            assert file.read_bytes().startswith(b"%PDF")
        else:
            with Image.open(file) as image:
                assert image.width in [int(share * 7.2 * 200 + 1e-6) for share in (1, 0.75, 0.62)]
                assert len(image.convert("RGB").getcolors(2**24) or []) > 2, "something is drawn"
    before = [file.read_bytes() for file in files]
    assert [file.read_bytes() for file in draw_all(finished)] == before


def test_draw_all_without_accuracy_leaves_that_figure_out(finished: Path) -> None:
    import fastparquet

    table = read_results(finished).assign(quality=np.nan, dense_quality=np.nan, quality_drop=np.nan)
    fastparquet.write(str(finished / "results.parquet"), table)
    assert not any("accuracy" in file.name for file in draw_all(finished))


def test_draw_all_on_what_is_no_finished_study(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        draw_all(tmp_path / "absent")
    (finished / "provenance.json").write_text(json.dumps({"recordings": []}))
    with pytest.raises(InputError, match=r"provenance\.json: does not name the trace"):
        draw_all(finished)
    (finished / "provenance.json").unlink()
    with pytest.raises(InputError, match=r"provenance\.json: not the provenance of a sweep"):
        draw_all(finished)
    (finished / "results.parquet").unlink()
    with pytest.raises(InputError, match="the study is not finished"):
        draw_all(finished)
    assert not (finished / "figures").exists()


def test_cause_colours_are_all_different() -> None:
    from skipsim.analysis.plots import GROUP_COLOURS

    assert len({to_hex(colour) for colour in GROUP_COLOURS.values()}) == len(CAUSE_GROUPS)

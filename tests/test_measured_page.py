"""Does a study on a measured processor, in both loops, come out right: rows, figures, and the page in a browser?"""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from skipsim.analysis.advice.decision import decide
from skipsim.analysis.advice.uncertainty import PROCESSOR_ERROR
from skipsim.analysis.figures.loop_figure import loop_figure
from skipsim.analysis.loops import loop_gaps
from skipsim.analysis.recommend import recommend
from skipsim.analysis.report.page import write_report
from skipsim.analysis.results import mean_over_clips, read_results
from skipsim.analysis.summary import describe_report
from skipsim.analysis.sweep import sweep
from skipsim.errors import InputError
from skipsim.hwmodels.hardware import load_hardware
from skipsim.simulator.processor import every_position_ms
from skipsim.simulator.simulate import simulate
from skipsim.traces.synthetic import synthetic_trace

MEASURED = "measured-zen4-2core"
STUDY = f"""name = "measured"
[recording]
network = "small_network:make"
clip = ["one.npy", "two.npy"]
threshold = [0.01, 0.02]
block = [1, 2, 4]
loop = ["closed", "open"]
[simulation]
hardware = ["{MEASURED}", "edge-npu"]
tile = ["4x4", "per-layer"]
"""
NETWORK = """from torch import manual_seed, nn

def make():
    manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    (folder / "small_network.py").write_text(NETWORK)
    rng = np.random.default_rng(1)
    for name in ("one.npy", "two.npy"):
        clip = rng.integers(0, 200, (1, 24, 20, 3), np.uint8).repeat(4, axis=0)
        for frame in range(1, 4):  # changes of all sizes around the thresholds
            clip[frame, 4:14, 5:15] += rng.integers(0, 1 + 50 * rng.random((10, 10, 1)), (10, 10, 3)).astype(np.uint8)
        np.save(folder / name, clip)
    (folder / "study.toml").write_text(STUDY)
    sweep(folder / "study.toml", folder / "out", workers=1, progress=False)
    return folder / "out"


@pytest.fixture(scope="module")
def page_file(study):
    return write_report(study, study / "report.html", max_drop=100)[0]


def test_what_is_not_known_of_a_processor_is_missing_in_its_rows_and_nothing_fails(study):
    table = read_results(study)
    assert (table["error"] == "").all()
    own = table["hardware"] == MEASURED
    assert table[own][["energy_uj", "dense_energy_uj", "area_mm2"]].isna().all(axis=None)
    assert table[~own][["energy_uj", "dense_energy_uj", "area_mm2"]].notna().all(axis=None)


def test_the_recommendation_is_of_the_closed_loop_and_says_what_the_kernels_gain(study):
    table = read_results(study)
    found = decide(study, table, MEASURED, 100)
    assert found.answer.row["loop"] == "closed"
    report = found.gated[0]
    kernels_ms = every_position_ms(report.network, report.hardware)
    gain = found.dense.latency_ms_per_frame / kernels_ms
    assert f"{gain:.2f}x of the speed-up is theirs" in found.words()
    assert f"realises {found.answer.row['realised'] / gain:.0%} of the MAC reduction" in found.words()
    assert found.band.model_error == PROCESSOR_ERROR, "of networks on a measured processor, not of accelerators"
    open_only = recommend(table[table["loop"] == "open"], MEASURED, 100)
    assert "finer recording whose masks were coarsened (open loop)" in open_only.words()


def test_kernels_without_anything_to_skip_take_what_a_full_mask_takes():
    machine = load_hardware(MEASURED).replace(**{"processor.fallback": False, "gate.placement": "none"})
    trace = synthetic_trace("pose_small", rows=64, cols=64, frames=3, density=1.0, cluster_pixels=8, block=4)
    gated = simulate(trace, machine, "full")
    dense = gated.dense
    reference = dense.cycles_by_stage[0].sum()  # the first frame is PyTorch's, whatever the masks
    own_ms = (gated.cycles - reference) / 2 / machine.clock_hz * 1e3
    assert every_position_ms(trace.layers, machine) == pytest.approx(own_ms, rel=1e-3)


def test_shares_that_are_printed_add_to_the_whole():
    trace = synthetic_trace("pose_small", rows=64, cols=64, frames=3, density=0.3, cluster_pixels=8, block=2)
    for name in (MEASURED, "edge-npu"):
        text = describe_report(simulate(trace, load_hardware(name), "2x2"), "pose_small")
        where = text.partition("where the cycles")[2].partition("\n\n")[0]
        shares = [int(share) for share in re.findall(r"(?<!below )\b(\d+)%", where)]
        assert abs(sum(shares) - 100) <= len(shares) / 2, where  # what rounding may do, and no more


def test_the_figure_shows_the_median_gap_of_every_block(study):
    table = read_results(study)
    gaps = loop_gaps(mean_over_clips(table))
    assert set(gaps["block"]) == {"2x2", "4x4"}
    figure = loop_figure(table)
    share, latency, quality = figure.axes
    for axis, values in ((latency, 100 * (gaps["latency_ratio"] - 1)), (quality, gaps["quality_gap"])):
        medians = values.groupby(gaps["block"]).median()
        printed = [text.get_text().replace("\u2212", "-") for text in axis.texts[: len(medians)]]
        drawn = [
            line.get_ydata()[0] for line in axis.lines if len(set(line.get_ydata())) == 1 and line.get_zorder() == 4
        ]
        assert drawn == pytest.approx([medians["2x2"], medians["4x4"]])
        labels = [text for text in printed if text[0] in "+-"]
        assert labels == [f"{medians[block]:+.1f}" for block in ("2x2", "4x4")][: len(labels)]
    with pytest.raises(InputError, match="no configuration of the table has both"):
        loop_figure(table[table["loop"] == "closed"])
    assert share.get_title().startswith("share of MACs")


def test_the_page_shows_it_in_a_browser_without_errors(study, page_file, chromium):
    tab = chromium.new_page(viewport={"width": 1280, "height": 900})
    complaints = []
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    tab.goto(page_file.as_uri())
    tab.wait_for_selector("#scatter .scatterlayer .point, #scatter .points path")
    tab.wait_for_function("player.mask")
    content = json.loads(re.search(r'id="content">(.*?)</script>', page_file.read_text(), re.DOTALL)[1])
    measured, simulated = content["panels"]
    assert (measured["hardware"], measured["machine"]["measured"]) == (MEASURED, True)
    for hidden in ("#timeline-section", "#roofline-section", "#sensitivity-section"):
        assert tab.is_hidden(hidden), "a processor has no units, roofs or numbers to change"
    assert "of the speed-up is theirs" in tab.text_content("#reasons")
    facts = tab.text_content("#facts")
    assert "energy" not in facts
    assert "area" not in facts
    assert tab.evaluate("document.getElementById('layers').layout.xaxis.title.text") == "time per frame [µs]"
    before = tab.evaluate("player.frame")
    tab.click("#forward")
    assert tab.evaluate("player.frame") == before + 1
    other = next(number for number in range(len(measured["runs"])) if number != measured["recommended"])
    tab.select_option("#pick", str(other))
    assert tab.evaluate("document.body.dataset.selected") == str(other)
    # how far open and closed loop are apart
    assert tab.is_visible("#loops-section")
    assert tab.text_content("#loops-words") == measured["loops"]["words"]
    table = read_results(study)
    gaps = loop_gaps(mean_over_clips(table[table["hardware"] == MEASURED]))
    shown = tab.evaluate("document.getElementById('loops-latency').data[0].y")
    assert sorted(shown) == pytest.approx(sorted(100 * (gaps["latency_ratio"] - 1)), abs=1e-4)
    # and the accelerator beside it has all of that
    tab.evaluate("showPanel(1)")
    tab.wait_for_function("timeline.data")
    assert simulated["hardware"] == "edge-npu"
    assert tab.is_visible("#timeline-section")
    assert tab.is_visible("#roofline-section")
    assert "area" in tab.text_content("#facts")
    assert complaints == []
    tab.close()

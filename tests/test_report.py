"""Does the page of a study show the numbers of its table, open offline without errors, and do its controls work?

The browser is a real one, headless (conftest.py: chromium); where none is installed, its tests are skipped.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import zlib
from pathlib import Path

import numpy as np
import pytest

from skipsim.analysis.causes import CAUSE_GROUPS, group_shares
from skipsim.analysis.cli import main
from skipsim.analysis.recommend import recommend
from skipsim.analysis.report.lanes import KINDS, lanes_of
from skipsim.analysis.report.packing import packed_numbers
from skipsim.analysis.report.page import write_report
from skipsim.analysis.results import mean_over_clips, read_results
from skipsim.analysis.sweep import sweep
from skipsim.errors import InputError
from skipsim.hwmodels.hardware import load_hardware
from skipsim.simulator.schedule import gated_schedule
from skipsim.simulator.simulate import simulate
from skipsim.traces.synthetic import synthetic_trace
from skipsim.traces.trace import load_trace

STUDY = """name = "a <script> & more"
[recording]
network = "pose_small"
clip = ["pose:2000000:static", "pose:2000001:pan"]
frames = 4
threshold = [0.05, 0.1]
block = [2, 8]
[simulation]
hardware = ["edge-npu", "systolic-32x32"]
tile = ["4x4", "8x8"]
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    (folder / "study.toml").write_text(STUDY)
    sweep(folder / "study.toml", folder / "out", workers=1, progress=False)
    return folder / "out"


@pytest.fixture(scope="module")
def files(study):
    return write_report(study, study / "report.html", max_drop=5, detailed=2)


@pytest.fixture(scope="module")
def content(files):
    text = files[0].read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="content">(.*?)</script>', text, re.DOTALL)[1])


# --- what is in it


def test_every_configuration_is_a_run_with_the_numbers_of_the_table(study, content):
    table = read_results(study)
    assert [panel["hardware"] for panel in content["panels"]] == ["edge-npu", "systolic-32x32"]
    for panel in content["panels"]:
        means = mean_over_clips(table[table["hardware"] == panel["hardware"]])
        assert len(panel["runs"]) == len(means) == 8
        for run, row in zip(panel["runs"], means.to_dict("records"), strict=True):
            assert (run["block"], run["tile"], run["loop"]) == (row["block"], row["tile"], row["loop"])
            for name in ("threshold", "latency_ms", "quality", "speedup", "mac_reduction", "energy_uj", "density"):
                assert run[name] == pytest.approx(row[name], rel=1e-5)
            assert run["shares"] == pytest.approx(list(group_shares(row).values()), abs=1e-4)


def test_the_decision_is_the_recommendation(study, content):
    table = read_results(study)
    for panel in content["panels"]:
        answer = recommend(table, panel["hardware"], 5)
        run = panel["runs"][panel["recommended"]]
        assert (run["block"], run["tile"]) == (answer.row["block"], answer.row["tile"])
        decision = panel["decision"]
        assert decision["headline"] == answer.headline()
        assert decision["speedup"] == pytest.approx(answer.row["speedup"])
        assert decision["band"]["low"] < decision["speedup"] < decision["band"]["high"]


def test_layers_sum_to_the_latency_of_their_run(content):
    for panel in content["panels"]:
        clock = panel["machine"]["clock_hz"]
        for name, detail in panel["details"].items():
            run = panel["runs"][panel["recommended"] if name == "dense" else int(name)]
            latency_ms = run["dense_latency_ms"] if name == "dense" else run["latency_ms"]
            assert len(detail["cycles"]) == len(CAUSE_GROUPS)
            assert np.sum(detail["cycles"]) / clock * 1e3 == pytest.approx(latency_ms, rel=1e-3)
        front = {str(number) for number, run in enumerate(panel["runs"]) if run["front"]}
        assert front | {"dense", str(panel["recommended"])} <= set(panel["timelines"]) <= set(panel["details"])


def test_masks_are_those_of_the_traces(study, content):
    provenance = json.loads((study / "provenance.json").read_text())
    for entry in provenance["recordings"]:
        found = content["masks"].get(entry["trace_hash"][:16])
        if found:
            trace = load_trace(study / entry["trace"])
            raw = np.frombuffer(zlib.decompress(base64.b64decode(found["packed"])), np.uint8)
            rows = raw.reshape(found["frames"], found["bytes"])
            assert all((rows[frame] == trace.packed(frame)).all() for frame in range(trace.frames))
            assert found["references"] == [0]
            assert len(content["clips"][found["clip"]]) == trace.frames
    assert content["masks"]


def test_timelines_beside_the_page_hold_the_same_frame(files, content):
    beside = {file.relative_to(files[0].parent).as_posix(): file for file in files[1:]}
    for panel in content["panels"]:
        for lanes in panel["timelines"].values():
            events = json.loads(gzip.decompress(beside[lanes["file"]].read_bytes()))["traceEvents"]
            slices = [event for event in events if event["ph"] == "X"]
            assert len(slices) == lanes["slices"]
            assert max(e["ts"] + e["dur"] for e in slices) == pytest.approx(lanes["microseconds"])


def test_a_page_without_requests_and_below_its_size(files):
    text = files[0].read_text(encoding="utf-8")
    assert files[0].stat().st_size < 10e6
    assert "<title>skipsim: a &lt;script&gt; &amp; more</title>" in text
    own = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)  # plotly names addresses that it never asks for
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", own)


def test_the_same_study_gives_the_same_page(study, files):
    again = write_report(study, study / "again.html", max_drop=5, detailed=2)
    assert again[0].read_text().replace("again-timelines", "report-timelines") == files[0].read_text()


# --- its parts


def test_numbers_are_packed_as_differences_column_by_column():
    columns = np.array([[3, 5, 4], [0, 1000, 70000]])
    raw = zlib.decompress(base64.b64decode(packed_numbers(columns)))
    assert np.frombuffer(raw, "<i4").tolist() == [3, 2, -1, 0, 1000, 69000]


def test_lanes_hold_every_cycle_of_the_array_and_thin_out_on_demand():
    trace = synthetic_trace("pose_small", rows=64, cols=64, frames=2, density=0.3, cluster_pixels=8, block=4)
    machine = load_hardware("edge-npu")
    schedule = gated_schedule(trace, machine, (4, 4))
    lanes = lanes_of(schedule, 1)
    _, kind, begin, end, layer = lanes.columns
    computing = kind == KINDS.index("compute")
    report = simulate(trace, machine, (4, 4))
    for number in range(len(trace.layers)):
        own = computing & (layer == number)
        assert (end - begin)[own].sum() == report.causes_by_stage[1, number, 3]
    thin = lanes_of(schedule, 1, most=1)  # as few as kinds and layers allow
    assert thin.merged_gap >= thin.cycles
    assert len({tuple(column) for column in thin.columns[[0, 1, 4]].T}) <= len(thin.columns[0]) < len(kind)
    assert thin.columns[3].max() == end.max()


def test_bad_input_is_one_line(study, tmp_path, capsys):
    with pytest.raises(InputError, match=r"must be an \.html file in a folder that exists"):
        write_report(study, study / "report.pdf")
    with pytest.raises(InputError, match="no such folder"):
        write_report(tmp_path / "nothing", tmp_path / "page.html")
    with pytest.raises(SystemExit) as stop:
        main(["report", str(tmp_path), "-o", str(tmp_path / "page.html")])
    assert stop.value.code == 2
    assert "not the output of a sweep" in capsys.readouterr().err


def test_a_study_without_a_run_within_the_drop_says_so(study):
    (page, *_) = write_report(study, study / "strict.html", max_drop=0, detailed=0)
    assert "every configuration of 'edge-npu' loses more than 0 points" in page.read_text() or (
        read_results(study)["quality_drop"].min() <= 0
    )


# --- in a browser


@pytest.fixture(scope="module")
def page(files, chromium):
    tab = chromium.new_page(viewport={"width": 1280, "height": 900})
    tab.complaints, tab.requests = [], []
    tab.on("pageerror", lambda error: tab.complaints.append(str(error)))
    tab.on("console", lambda message: tab.complaints.append(message.text) if message.type == "error" else None)
    tab.on("request", lambda request: tab.requests.append(request.url))
    tab.goto(files[0].as_uri())
    tab.wait_for_selector("#scatter .scatterlayer .point, #scatter .points path")
    tab.wait_for_function("timeline.data && player.mask")
    yield tab
    tab.close()


def test_it_opens_without_errors_and_asks_for_nothing(page, files):
    assert page.complaints == []
    outside = [url for url in page.requests if not url.startswith(("data:", "blob:"))]
    assert outside == [files[0].as_uri()]
    assert page.title() == "skipsim: a <script> & more"


def test_hovering_names_the_configuration_and_clicking_selects_it(page, content):
    runs = content["panels"][0]["runs"]
    shown = [number for number, run in enumerate(runs) if run["quality_drop"] < 9]  # the others lie below the panel
    other = max(shown, key=lambda number: (number != content["panels"][0]["recommended"], runs[number]["latency_ms"]))
    where = page.evaluate(
        """(number) => {
          const chart = document.getElementById("scatter"), run = panel.runs[number];
          const {xaxis, yaxis} = chart._fullLayout;
          chart.scrollIntoView({block: "center"});
          const box = chart.getBoundingClientRect();
          const x = xaxis._offset + xaxis.l2p(run.latency_ms), y = yaxis._offset + yaxis.l2p(100 * run.quality);
          return [box.x + x, box.y + y];
        }""",
        other,
    )
    page.mouse.move(*where)
    page.wait_for_selector("#scatter .hoverlayer .hovertext")
    text = page.text_content("#scatter .hoverlayer .hovertext")
    assert f"block {runs[other]['block'].split('x')[0]}" in text
    assert f"{runs[other]['speedup']:.2f}x as fast as dense" in text
    page.mouse.click(*where)
    page.wait_for_function("(number) => document.body.dataset.selected === String(number)", arg=other)
    assert f"{runs[other]['mac_reduction']:.2f}x fewer" in page.text_content("#facts")


def test_the_list_selects_too_and_layers_follow(page, content):
    page.select_option("#pick", "dense")
    assert page.evaluate("selected") == "dense"
    page.select_option("#pick", str(content["panels"][0]["recommended"]))
    bars = page.evaluate("document.getElementById('layers').data.filter((trace) => trace.type === 'bar').length")
    assert bars == len(CAUSE_GROUPS)
    names = page.evaluate("document.getElementById('layers').layout.yaxis.ticktext")
    assert len(names) == len(content["panels"][0]["layers"]["names"])


def test_the_player_steps_and_shows_the_density_of_the_mask(page, study, content):
    page.select_option("#pick", str(content["panels"][0]["recommended"]))
    page.wait_for_function("player.mask")
    before = page.evaluate("document.getElementById('screen').toDataURL()")
    frame = page.evaluate("player.frame")
    page.click("#forward")
    page.select_option("#layer", "7")
    assert page.evaluate("player.frame") == frame + 1
    assert page.evaluate("document.getElementById('screen').toDataURL()") != before
    entries = {
        e["trace_hash"][:16]: e["trace"] for e in json.loads((study / "provenance.json").read_text())["recordings"]
    }
    trace = load_trace(study / entries[page.input_value("#clip")])
    assert page.evaluate("player.density(7, player.frame)") == pytest.approx(trace.density(7, frame + 1))
    assert f"{100 * trace.density(7, frame + 1):.1f}% computed" in page.text_content("#mask-facts")


def test_the_timeline_draws_zooms_and_names_a_slice(page):
    page.click("#zoom-all")
    # pixels of the array's colour, where a compute slice of the first core is
    place = page.evaluate(
        """() => {
          const compute = content.kinds.indexOf("compute");
          const slice = timeline.lane.findIndex((lane, at) => lane === 1 && timeline.kind[at] === compute);
          const middle = (timeline.begin[slice] + timeline.end[slice]) / 2;
          timeline.zoom(0.05, timeline.begin[slice] / timeline.data.cycles);
          const box = timeline.canvas.getBoundingClientRect();
          timeline.canvas.scrollIntoView({block: "center"});
          const now = timeline.canvas.getBoundingClientRect();
          return [now.x + timeline.x(middle), now.y + timeline.y(1) + 5];
        }"""
    )
    page.mouse.move(*place)
    assert "compute" in page.text_content("#timeline-tip")
    colour = page.evaluate(
        """([x, y]) => {
          const box = timeline.canvas.getBoundingClientRect(), scale = timeline.canvas.width / box.width;
          return [...timeline.pen.getImageData((x - box.x) * scale, (y - box.y) * scale, 1, 1).data.slice(0, 3)];
        }""",
        place,
    )
    assert colour == [0x00, 0x72, 0xB2]
    page.click("#zoom-all")
    assert page.evaluate("timeline.until - timeline.since") == page.evaluate("timeline.data.cycles")


def test_another_machine_shows_its_own_decision(page, content):
    page.click("#tabs button:nth-child(2)")
    assert page.text_content("#headline") == content["panels"][1]["decision"]["headline"]
    page.click("#tabs button:nth-child(1)")
    assert page.text_content("#headline") == content["panels"][0]["decision"]["headline"]


def test_a_narrow_window_needs_no_sideways_scrolling(page):
    page.set_viewport_size({"width": 420, "height": 800})
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
    page.set_viewport_size({"width": 1280, "height": 900})
    assert page.complaints == []


def test_plotly_missing_is_said_in_one_line(study, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "plotly.offline", None)
    with pytest.raises(InputError, match=r"needs plotly: pip install 'skipsim\[report\]'"):
        write_report(study, Path(study / "none.html"))

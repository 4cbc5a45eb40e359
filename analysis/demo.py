"""demo: the whole path on a network and clips that come with skipsim, from frames to an answer in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from skipsim.analysis.advice.budget import MAX_DROP_POINTS
from skipsim.analysis.advice.decision import Decision, decide_all
from skipsim.analysis.figures.variants import gate_name
from skipsim.analysis.loops import describe_gaps
from skipsim.analysis.plots import draw_all
from skipsim.analysis.recommend import Recommendation, recommend
from skipsim.analysis.report.page import write_report
from skipsim.analysis.results import groups_of, mean_over_clips
from skipsim.analysis.study import load_study
from skipsim.analysis.summary import table as aligned
from skipsim.analysis.sweep import sweep
from skipsim.atomic import write_text
from skipsim.errors import InputError

STUDY = """\
# The study of `skipsim demo`. Change it and run it again: skipsim sweep study.toml -o . && skipsim plot .
# Only what is missing is recorded and simulated then.
name = "demo"

[[recording]]                # what the network does: one recording per combination
network = "pose_small"       # or "package.module:function", a function that returns your nn.Module
clip = { static = ["pose:2000000:static", "pose:2000002:static"], pan = ["pose:2000001:pan", "pose:2000003:pan"] }
# ... or video files; a plain list will do, groups are also shown apart
frames = 24                  # of every clip
gate = "input_norm"
threshold = [0.05, 0.075, 0.09, 0.1, 0.125]
block = [1, 2, 4, 8, 16]

[[recording]]                # better gates, which ship with the network: thresholds by layer, and trained ones
network = "pose_small"
clip = { static = ["pose:2000000:static", "pose:2000002:static"], pan = ["pose:2000001:pan", "pose:2000003:pan"] }
frames = 24
gate = ["tuned", "gumbel"]   # or files of `skipsim tune` and `skipsim train --gate gumbel`
block = [1, 4, 8]

[[recording]]                # open loop: the recording of single pixels, made coarser, beside those of every block
network = "pose_small"
clip = { static = ["pose:2000000:static", "pose:2000002:static"], pan = ["pose:2000001:pan", "pose:2000003:pan"] }
frames = 24
threshold = [0.05, 0.1]
block = [2, 4, 8, 16]
loop = "open"

[simulation]                 # what the hardware does: every combination for every recording
hardware = ["edge-npu", "auto-npu", "systolic-32x32"]  # or the path of a .toml file
tile = ["2x2", "4x4", "8x8", "16x16"]
# "dram.bytes_per_cycle" = [8, 16]   any number of the machines can be varied like this
"""


def demo(
    out: str | Path, *, workers: int | None = None, study: str = STUDY, say: Callable[[str], None] = print
) -> list[Recommendation]:
    """Record, sweep, draw the figures and say which granularity to take; return the answers, one per machine.

    Args:
        out: folder for everything; a study.toml that lies there already is taken instead of `study`.
        workers: number of processes; None: one per core.
        study: the study's text.
        say: called with every piece of text.

    Raises:
        InputError: a folder that holds something else, or an edited study with a mistake in it.
    """
    folder = Path(out)
    file = folder / "study.toml"
    if not file.exists():
        if folder.exists() and any(folder.iterdir()):
            raise InputError(f"demo folder {folder}: holds something that is not a study; give another one")
        folder.mkdir(parents=True, exist_ok=True)
        write_text(file, study)
    plan = load_study(file)
    choices, simulations = plan.recording_choices(), len(plan.simulation_choices())
    coarser = sum(choice.loop == "open" for choice in choices)
    made = f"{len(choices) - coarser} recordings" + (f", {coarser} made coarser" if coarser else "")
    say(f"study {file}: {made}, {len(choices) * simulations} simulations")
    results = sweep(file, folder, workers)
    decisions = decide_all(folder, results, MAX_DROP_POINTS, workers=workers)
    figures = [file for file in draw_all(folder, decisions) if file.suffix == ".png"]
    say("\n".join(["figures, also as PDF:", *(f"  {file}" for file in figures)]))
    answers = [decision.answer for decision in decisions.values()]
    say(f"\nThe fastest choice on each machine within {MAX_DROP_POINTS:g} point of the dense accuracy:\n")
    say(_overview(results, answers))
    for decision in decisions.values():
        say(f"\n{decision.words()}")
    gaps = describe_gaps(mean_over_clips(results))
    if gaps:
        say(f"\n{gaps}")
    page = _page(folder, decisions)
    if page:
        say(f"\nall of it as one page, for a browser: {page}")
    return answers


def _page(folder: Path, decisions: Mapping[tuple[str, str], Decision]) -> Path | None:
    """Write the page; without plotly there is none."""
    if find_spec("plotly") is None:
        return None
    return write_report(folder, folder / "report.html", max_drop=MAX_DROP_POINTS, decisions=decisions)[0]


def _overview(results: pd.DataFrame, answers: list[Recommendation]) -> str:
    """Return the answers as a table, each followed by those for one group of clips alone."""
    rows: list[tuple[str, ...]] = [
        ("machine", "clips", "gate", "block", "tile", "points lost", "MAC reduction", "speed-up", "realised", "")
    ]
    for answer in answers:
        rows.append(_line(answer, "all"))
        for group in groups_of(results):
            own = results[results["group"] == group]
            try:
                best = recommend(own, answer.hardware, MAX_DROP_POINTS, network=answer.row["network"])
            except InputError:  # nothing is within the drop
                continue
            rows.append(_line(best, group))
    return aligned(rows, "lllrrrrrrl")


def _line(answer: Recommendation, clips: str) -> tuple[str, ...]:
    row = answer.row
    return (
        answer.hardware,
        clips,
        gate_name(row),
        row["block"],
        row["tile"],
        f"{row['quality_drop']:.2f}",
        f"{row['mac_reduction']:.2f}x",
        f"{row['speedup']:.2f}x",
        f"{row['realised']:.0%}",
        "" if answer.worthwhile else "stay dense",
    )

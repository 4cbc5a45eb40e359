"""write_report: a finished study -> one HTML page that needs no network, and Perfetto timelines beside it."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from skipsim.analysis.advice.budget import MAX_DROP_POINTS
from skipsim.analysis.advice.decision import Decision
from skipsim.analysis.causes import CAUSE_GROUPS
from skipsim.analysis.figures.style import COLOURS, GROUP_COLOURS
from skipsim.analysis.report.lanes import KINDS
from skipsim.analysis.report.panel import PanelWriter
from skipsim.analysis.report.runs import panels_of
from skipsim.analysis.results import read_results
from skipsim.analysis.running.provenance import command_line, provenance_of
from skipsim.atomic import write_text
from skipsim.errors import InputError
from skipsim.simulator.timeline import UNITS

SCRIPTS = ("unpack.js", "charts.js", "player.js", "timeline.js", "page.js")
DETAILED = 24  # runs beside the recommended ones and the Pareto front whose layers are shown


def write_report(
    directory: str | Path,
    out: str | Path,
    *,
    max_drop: float = MAX_DROP_POINTS,
    detailed: int = DETAILED,
    decisions: Mapping[tuple[str, str], Decision] | None = None,
) -> list[Path]:
    """Write the page of a finished study and return the files written, the page first.

    Timelines for Perfetto lie in a folder beside the page, named after it.

    Args:
        directory: the study's folder.
        out: the page; its folder must exist.
        max_drop: points of accuracy that the recommendation may lose.
        detailed: how many runs of every machine have their layers shown, beside those on the Pareto front.
        decisions: those found before, by network and machine; the others are found here, without plans by layer.

    Raises:
        InputError: anything wrong with the folder, or plotly is not installed.
    """
    directory, out = Path(directory), Path(out)
    plotly = _plotly()
    if out.suffix != ".html" or not out.parent.is_dir():
        raise InputError(f"report {out}: must be an .html file in a folder that exists")
    table = read_results(directory)
    provenance = provenance_of(directory)
    timelines = out.with_name(f"{out.stem}-timelines")
    writer = PanelWriter(directory, timelines, provenance, table, max_drop, detailed, decisions or {})
    content = {
        "study": provenance.get("study", directory.name),
        "max_drop": max_drop,
        "groups": list(CAUSE_GROUPS),
        "group_colours": [GROUP_COLOURS[name] for name in CAUSE_GROUPS],
        "colours": COLOURS,
        "kinds": KINDS,
        "units": UNITS,
        "rows": len(table),
        "panels": [writer.panel(panel) for panel in panels_of(table)],
        "masks": writer.masks,
        "clips": writer.clips,
        "provenance": provenance | {"report_command": command_line()},
        "study_text": _text(directory / "study.toml"),
    }
    write_text(out, _filled(content, plotly))
    return [out, *writer.files]


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError:
        raise InputError("report: needs plotly: pip install 'skipsim[report]'") from None
    return str(get_plotlyjs())


def _filled(content: dict[str, Any], plotly: str) -> str:
    """Fill the template; what it is filled with is never searched for places itself."""
    folder = resources.files("skipsim.analysis.report")

    def read(name: str) -> str:
        return (folder / name).read_text(encoding="utf-8")

    # a page ends a script at "</script": no text in the data may look like that
    data = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    parts = {
        "title": html.escape(f"skipsim: {content['study']}"),
        "style": read("page.css"),
        "plotly": plotly,
        "data": data,
        "scripts": "\n".join(read(name) for name in SCRIPTS),
    }
    pieces = read("page.html").split("<!--")
    filled = [pieces[0]]
    for piece in pieces[1:]:
        name, rest = piece.split("-->", 1)
        filled += [parts[name.strip()], rest]
    return "".join(filled)


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""

"""The commands that read a finished study: its figures, its page, its answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from skipsim.analysis.advice.budget import MAX_DROP_POINTS
from skipsim.analysis.conventions import AS_JSON, example, print_json, working

MAX_DROP = click.option(
    "--max-drop",
    type=click.FloatRange(min=0),
    default=MAX_DROP_POINTS,
    show_default=True,
    help="Accuracy that the decision may lose, in points.",
)


@click.command(epilog=example("skipsim plot study"))
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@MAX_DROP
@AS_JSON
def plot(directory: Path, max_drop: float, as_json: bool) -> None:
    """Draw the figures of a study into its folder."""
    from skipsim.analysis.plots import draw_all

    with working("drawing"):
        files = [str(file) for file in draw_all(directory, max_drop=max_drop)]
    print_json({"files": files}) if as_json else click.echo("\n".join(files))


@click.command(epilog=example("skipsim report study -o report.html"))
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="The page; default: report.html in the folder.")
@MAX_DROP
@click.option("--by-layer/--no-by-layer", default=False, show_default=True, help="Also record a few plans by layer.")
@click.option("--detailed", default=24, show_default=True, help="Runs with layers, beside those on the Pareto line.")
@AS_JSON
def report(directory: Path, out: Path | None, max_drop: float, by_layer: bool, detailed: int, as_json: bool) -> None:
    """Write a study as one HTML page that opens without a network.

    The decision on top, all runs, layers by cause, roofline, sensitivities, masks over frames, and timelines, which
    also lie beside the page for Perfetto.
    """
    from skipsim.analysis.advice.decision import decide_all
    from skipsim.analysis.report.page import write_report
    from skipsim.analysis.results import read_results

    with working("writing the page"):
        decisions = decide_all(directory, read_results(directory), max_drop) if by_layer else {}
        files = write_report(
            directory, out or directory / "report.html", max_drop=max_drop, detailed=detailed, decisions=decisions
        )
    print_json({"files": [str(file) for file in files]}) if as_json else click.echo(files[0])


@click.command(
    epilog=example(
        "skipsim recommend study --hardware edge-npu --max-drop 0.5",
        "skipsim recommend study --hardware edge-npu --max-latency-ms 0.2 --no-by-layer",
    )
)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--hardware", required=True, help="A machine of the study.")
@click.option(
    "--max-drop",
    type=float,
    help=f"Accuracy that may be lost, in points; default: {MAX_DROP_POINTS:g}, if no other budget.",
)
@click.option("--max-latency-ms", type=float, help="Latency of the mean frame; alone: lose as little as possible.")
@click.option("--max-energy-uj", type=float, help="Energy of the mean frame; likewise.")
@click.option("--network", help="Which network, where the study has several.")
@click.option("--by-layer/--no-by-layer", default=True, show_default=True, help="Also record a few plans by layer.")
@AS_JSON
def recommend(directory: Path, hardware: str, as_json: bool, **options: Any) -> None:
    """Name the best choice within a budget.

    Says how far the prediction may be off, which blocks and tiles by layer do better (recorded for real, which needs
    PyTorch and some seconds), and which changes of the machine would help most.
    """
    from skipsim.analysis.advice.decision import decide
    from skipsim.analysis.results import read_results

    with working("comparing"):
        found = decide(directory, read_results(directory), hardware, **options)
    if as_json:
        print_json(found.to_dict())
    else:
        click.echo(found.words())


@click.command(epilog=example("skipsim compare study-before study-after"))
@click.argument("before", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("after", metavar="DIR", type=click.Path(path_type=Path))
@AS_JSON
def compare(before: Path, after: Path, as_json: bool) -> None:
    """Compare two studies row by row: what changed, and by how much.

    Rows belong together if the same thing was recorded and simulated, with whichever version of skipsim.
    """
    from skipsim.analysis.compare import compare as run

    found = run(before, after)
    print_json(found.to_dict()) if as_json else click.echo(found.words())

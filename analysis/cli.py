"""The command line: options in, one call of the library, text or JSON out. Nothing else lives here.

Everything is imported inside the commands, so that `skipsim --help` answers at once.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from skipsim import __version__
from skipsim.analysis.cli_finished import compare, plot, recommend, report
from skipsim.analysis.cli_machine import anchor, calibrate, validate
from skipsim.analysis.cli_networks import record, train, tune
from skipsim.analysis.conventions import (
    AS_JSON,
    CommandLine,
    complain,
    complete_machine,
    example,
    print_json,
    read_settings,
    working,
)
from skipsim.errors import InputError

if TYPE_CHECKING:
    from skipsim.hwmodels.hardware import Hardware

HARDWARE = click.option(
    "--hardware",
    required=True,
    metavar="NAME|FILE",
    help="A machine's name, or its .toml file.",
    shell_complete=complete_machine,
)
SET = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a number of the machine, e.g. dram.bytes_per_cycle=8; may be repeated.",
)


def _hardware(name: str, settings: Sequence[str]) -> Hardware:
    from skipsim.hwmodels.hardware import load_hardware

    hardware = load_hardware(name)
    changes = read_settings(settings)
    return hardware.replace(**changes) if changes else hardware


@click.group(cls=CommandLine, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, message="skipsim %(version)s")
def main() -> None:
    """Predict what skipping unchanged blocks of a video network saves on real hardware.

    \b
    First steps:
      skipsim demo                                      the whole path on a shipped network, with figures
      skipsim record pose_small pose:2000000 -o a.trace --threshold 0.1 --block 4
      skipsim simulate a.trace --hardware edge-npu      how long that takes there
    """


@main.command(epilog=example("skipsim demo --out demo-output"))
@click.option("-o", "--out", type=click.Path(path_type=Path), default="demo-output", show_default=True, help="Folder.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes; default: one per core.")
@AS_JSON
def demo(out: Path, workers: int | None, as_json: bool) -> None:
    """Run the whole path on a shipped network: figures and an answer.

    Records pose_small on procedural clips, sweeps machines and tiles, draws the figures into the folder, and says in
    words which block and tile to take on each machine. Change study.toml there and run it again to go on from here.
    """
    from skipsim.analysis.demo import demo as run

    answers = run(out, workers=workers, say=(lambda text: None) if as_json else click.echo)
    if as_json:
        print_json([answer.to_dict() for answer in answers])


main.add_command(record)
main.add_command(train)
main.add_command(tune)


@main.group()
def trace() -> None:
    """Look into a trace: what it holds, whether it is intact."""


@trace.command(epilog=example("skipsim trace info pan.trace"))
@click.argument("path", metavar="TRACE", type=click.Path())
@AS_JSON
def info(path: str, as_json: bool) -> None:
    """Say what is in a trace.

    TRACE is a trace's folder or a topology file (.csv of SCALE-Sim, .onnx).
    """
    from skipsim.analysis.summary import describe_trace, trace_facts
    from skipsim.traces.trace import load_trace

    found = load_trace(path)
    if as_json:
        print_json(trace_facts(found))
    else:
        click.echo(describe_trace(found))


@trace.command(epilog=example("skipsim trace check pan.trace"))
@click.argument("path", metavar="TRACE", type=click.Path())
@AS_JSON
def check(path: str, as_json: bool) -> None:
    """Compare a trace with its checksums; exit code 2: damaged."""
    from skipsim.traces.trace_check import check as findings_of

    findings = findings_of(path)
    if as_json:
        print_json({"intact": not findings, "findings": findings})
        sys.exit(2 if findings else 0)
    if findings:
        raise InputError(findings[0] + (f" (and {len(findings) - 1} more: --json)" if len(findings) > 1 else ""))
    click.echo(f"{path}: intact")


@trace.command(epilog=example("skipsim trace masks pan.trace -o masks.png --video pose:2000000:pan"))
@click.argument("path", metavar="TRACE", type=click.Path())
@click.option(
    "-o",
    "--out",
    default="masks.png",
    show_default=True,
    type=click.Path(path_type=Path),
    help="The picture: a .png, .pdf or .svg file.",
)
@click.option("--video", help="The clip that was recorded, to lay the masks over its frames.")
@click.option("--layer", "layers", multiple=True, help="A layer by name; may be repeated. Default: one per map size.")
@click.option("--frame", "shown", multiple=True, type=int, help="A frame; may be repeated. Default: five gated ones.")
@AS_JSON
def masks(path: str, out: Path, video: str | None, layers: Sequence[str], shown: Sequence[int], as_json: bool) -> None:
    """Draw the masks of a trace over the frames of its clip."""
    from skipsim.analysis.figures.mask_pictures import draw_masks
    from skipsim.traces.trace import load_trace

    draw_masks(load_trace(path), out, video=video, layers=layers, shown=shown)
    print_json({"file": str(out)}) if as_json else click.echo(out)


@main.group()
def hardware() -> None:
    """List, show and check machines."""


@hardware.command("list", epilog=example("skipsim hardware list"))
@AS_JSON
def list_machines(as_json: bool) -> None:
    """List the machines that come with skipsim."""
    from skipsim.analysis.summary import describe_machines
    from skipsim.hwmodels.hardware import load_hardware, machines

    found = [load_hardware(name) for name in machines()]
    if as_json:
        print_json([machine.model_dump() for machine in found])
    else:
        click.echo(describe_machines(found))


@hardware.command(epilog=example("skipsim hardware show edge-npu > my-machine.toml"))
@click.argument("name", metavar="NAME|FILE")
@AS_JSON
def show(name: str, as_json: bool) -> None:
    """Print a machine's file: every number and its source.

    A changed copy of it is a machine of your own.
    """
    from importlib import resources

    from skipsim.hwmodels.hardware import load_hardware, machines

    machine = load_hardware(name)
    if as_json:
        print_json(machine.model_dump())
    else:
        catalog = resources.files("skipsim.hwmodels") / "catalog"
        file = catalog / f"{name}.toml" if name in machines() else Path(name)
        click.echo(file.read_text(encoding="utf-8"), nl=False)


@hardware.command("check", epilog=example("skipsim hardware check my-machine.toml"))
@click.argument("file", metavar="FILE")
@AS_JSON
def check_machine(file: str, as_json: bool) -> None:
    """Check every key and value of a machine's file."""
    from skipsim.analysis.summary import describe_machines
    from skipsim.hwmodels.hardware import load_hardware

    machine = load_hardware(file)
    if as_json:
        print_json(machine.model_dump())
    else:
        click.echo(f"{file}: ok\n\n{describe_machines([machine])}")


@main.command(
    epilog=example(
        "skipsim simulate pan.trace --hardware edge-npu --tile 8x8",
        "skipsim simulate pan.trace --hardware auto-npu --cores --frames",
        "skipsim simulate resnet.csv --hardware my.toml --set dram.bytes_per_cycle=8 --json",
    )
)
@click.argument("path", metavar="TRACE|TOPOLOGY", type=click.Path())
@HARDWARE
@SET
@click.option(
    "--tile",
    default="auto",
    show_default=True,
    metavar="RxC|NAME",
    help="Output pixels; or full (the map), auto (the fastest of some), or per-layer.",
)
@click.option("--dense", is_flag=True, help="Simulate the dense schedule only.")
@click.option("--engine", default="fast", show_default=True, help="fast, or reference: the slow definition of time.")
@click.option("--timeline", type=click.Path(path_type=Path), help="Write one frame as .json(.gz) that Perfetto opens.")
@click.option("--frame", type=int, help="The timeline's frame; default: the first one that is gated.")
@click.option("--cores", is_flag=True, help="Also say what every core does, and how uneven that is.")
@click.option("--frames", is_flag=True, help="Also say what every frame takes.")
@AS_JSON
def simulate(
    path: str,
    hardware: str,
    settings: Sequence[str],
    tile: str,
    dense: bool,
    engine: str,
    timeline: Path | None,
    frame: int | None,
    cores: bool,
    frames: bool,
    as_json: bool,
) -> None:
    """Say how long a trace takes on a machine, and why.

    Compares with the dense schedule on the same machine, and says where cycles and energy go.
    """
    from skipsim.traces.trace import load_trace

    if frame is not None and timeline is None:
        raise InputError("--frame: says which frame --timeline is of; give both")
    machine = _hardware(hardware, settings)
    found = load_trace(path)

    from skipsim.simulator.simulate import schedule_of
    from skipsim.simulator.simulate import simulate as run
    from skipsim.simulator.timeline import write_timeline

    with working("simulating (the first run after installation compiles the engine, which takes a minute or two)"):
        report = run(found, machine, tile=tile, engine=engine, dense=dense)
        if timeline:
            gated = (number for number in range(found.frames) if not found.reference(number))
            write_timeline(timeline, schedule_of(found, report), next(gated, 0) if frame is None else frame)
    if as_json:
        print_json(report.summary(), layers=report.layer_rows())
    else:
        from skipsim.analysis.summary import describe_report

        click.echo(describe_report(report, str(found.origin.get("network", path)), cores=cores, frames=frames))
        if timeline:
            click.echo(f"\nto look at the timeline, open {timeline} at https://ui.perfetto.dev")


@main.command(epilog=example("skipsim sweep study.toml -o study --workers 4"))
@click.argument("study", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Folder; default: the study's name without .toml.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes; default: one per core.")
@click.option("--cluster", metavar="ADDRESS", help="A Dask scheduler, tcp://HOST:PORT; its workers share these files.")
@click.option("--dry-run", is_flag=True, help="Only say what would be recorded and simulated, and how long.")
@AS_JSON
def sweep(
    study: Path, out: Path | None, workers: int | None, cluster: str | None, dry_run: bool, as_json: bool
) -> None:
    """Run a study, or what is missing of it.

    Kill it whenever you like; the same command goes on. Exit code 1 if a run failed; its row says why.
    """
    from skipsim.analysis.loops import describe_gaps
    from skipsim.analysis.results import mean_over_clips, read_results
    from skipsim.analysis.running.dry_run import dry_run as dry_run_of
    from skipsim.analysis.sweep import run_study

    out = out or study.with_suffix("")
    if dry_run:
        found = dry_run_of(study, out, workers, started_seconds=time.process_time())
        print_json(found.to_dict()) if as_json else click.echo(found.words())
        return
    finished = run_study(study, out, workers, cluster=cluster)
    if as_json:
        table = read_results(out)
        print_json(table.astype(object).where(table.notna(), None).to_dict("records"))
    else:
        gaps = describe_gaps(mean_over_clips(read_results(out))) if len(finished.loops) > 1 else ""
        said = f"{finished.rows - finished.failed} results in {out}" + (f"\n{gaps}" if gaps else "")
        click.echo(f"{said}\n\nnext: skipsim plot {out}")
    if finished.failed:
        complain(f"{finished.failed} of {finished.rows} runs failed, the first: {finished.reason}")
        sys.exit(1)


for command in (plot, report, recommend, compare, calibrate, anchor, validate):
    main.add_command(command)

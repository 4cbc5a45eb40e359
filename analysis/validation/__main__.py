"""`python -m skipsim.analysis.validation dpacs eyeriss`: what somebody measured beside what the model says."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import click

from skipsim.analysis.validation import dpacs, dram, dram_parts, eyeriss, gemmini, nvdla, operators, scalesim, tpu
from skipsim.analysis.validation.comparison import Comparison
from skipsim.atomic import write_text
from skipsim.errors import InputError

COMPARISONS: dict[str, Callable[[Path | None], Comparison]] = {
    "dpacs": dpacs.compare,
    "eyeriss": eyeriss.compare,
    "nvdla": nvdla.compare,
    "tpu": tpu.compare,
    "gemmini": gemmini.compare,
    "scalesim": scalesim.compare,
    "dram": dram.compare,
    "dram-parts": dram_parts.compare,
    "operators": operators.compare,
}


@click.command(epilog="Example: python -m skipsim.analysis.validation dpacs --json dpacs.json")
@click.argument("machines", nargs=-1, type=click.Choice(list(COMPARISONS)))
@click.option(
    "--oracles", type=click.Path(path_type=Path), help="Folder of the published numbers; default: tests/oracles."
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write everything to this file as well.")
@click.option("--all", "every", is_flag=True, help="Print every pair, not only the worst of long tables.")
def main(machines: tuple[str, ...], oracles: Path | None, json_file: Path | None, every: bool) -> None:
    """Compare machines with published numbers; all of them if none is named."""
    results = {}
    for name in machines or COMPARISONS:
        results[name] = COMPARISONS[name](oracles)
        click.echo(results[name].table(every) + "\n")
    if json_file:
        write_text(json_file, json.dumps({name: result.to_dict() for name, result in results.items()}, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        click.echo(f"skipsim: {error}", err=True)
        sys.exit(2)

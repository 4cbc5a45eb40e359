"""The command line of real machines: measure one, and hold its predictions against the clock."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skipsim.analysis.conventions import complain, example, print_json
from skipsim.errors import InputError, nearest

if TYPE_CHECKING:
    from skipsim.hwmodels.hardware import Hardware
    from skipsim.traces.execute.timed_network import TimedNetwork

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


@click.command(
    epilog=example(
        "skipsim calibrate -o my-machine.toml",
        "skipsim calibrate -o my-machine.toml --anchor hrnet_w32@256x256",
        "skipsim calibrate -o both-cores.toml --threads 2",
        "skipsim calibrate -o my-machine.toml --from my-machine.parquet",
    )
)
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="cuda: the Triton kernel."
)
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="The machine: a .toml file.")
@click.option("--raw", type=click.Path(path_type=Path), help="Raw measurements; default: the .toml's name, .parquet.")
@click.option("--from", "source", type=click.Path(path_type=Path), help="Fit these raw measurements; measure nothing.")
@click.option("--anchor", "anchors", multiple=True, metavar="NETWORK@RxC", help="Measure a network too; see anchor.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(min=1), help="That run a layer together.")
@click.option("--passes", default=12, show_default=True, type=click.IntRange(min=2), help="Over all measurements.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of the layers and masks.")
@click.option("--allow-busy", is_flag=True, help="Measure beside other load; the file's repeatability shows it.")
@AS_JSON
def calibrate(
    device: str,
    out: Path,
    raw: Path | None,
    source: Path | None,
    anchors: tuple[str, ...],
    threads: int,
    passes: int,
    seed: int,
    allow_busy: bool,
    as_json: bool,
) -> None:
    """Measure this machine and write it as a .toml file.

    Takes about a minute. Other programs disturb it: much load is refused, some is warned about. A file is of so many
    threads as it was measured with; `simulate`, `validate` and `anchor` go by it.
    """
    from skipsim.analysis.anchor_network import anchor_network
    from skipsim.analysis.summary import describe_machines
    from skipsim.hwmodels.calibrate import calibrate as run
    from skipsim.hwmodels.calibrate import fit_hardware
    from skipsim.hwmodels.kernel_work import LayerShape
    from skipsim.hwmodels.measure import Plan
    from skipsim.hwmodels.measurement_file import Measurements

    if not out.parent.is_dir():
        raise InputError(f"--out {str(out)!r}: no such folder: {out.parent}")
    if out.suffix != ".toml":
        raise InputError(f"--out: must be a .toml file, got {str(out)!r}")
    if source and anchors:
        raise InputError("--anchor is measured, and --from measures nothing; use skipsim anchor afterwards")
    say = _say(as_json)
    if source:
        hardware = _keep_anchors(fit_hardware(Measurements.load(source), out.stem), out, say)
    else:
        networks = {name: _timed(name, 4, threads) for name in anchors}
        shapes = [LayerShape.of(layer) for network in networks.values() for layer in network.layers]
        plan = Plan(passes=passes, seed=seed, threads=threads)
        hardware, measurements = run(out.stem, device=device, plan=plan, anchors=shapes, allow_busy=allow_busy, say=say)
        measurements.save(raw or out.with_suffix(".parquet"))
        hardware = anchor_network(hardware, networks, max(2, passes // 2), say)
    hardware.save(out)
    if as_json:
        print_json(hardware.model_dump(exclude_none=True))
        return
    click.echo(f"{describe_machines([hardware])}\n\n{describe_fit(hardware.model_dump())}\n")
    click.echo(f"next: skipsim validate --hardware {out}")


def _keep_anchors(refitted: Hardware, file: Path, say: Callable[[str], None]) -> Hardware:
    """Return a machine with the anchors of the file that it replaces, if its fit is the one that they were set against.

    They say how far what was measured lay from what that fit predicts; with another they are dropped, and it is said.
    """
    from skipsim.hwmodels.hardware import load_hardware

    old, new = load_hardware(str(file)).processor if file.is_file() else None, refitted.processor
    if old is None or new is None or not old.anchors:
        return refitted
    nothing: dict[str, Any] = {"anchors": {}, "dense_layers_ns": {}}
    if old.model_copy(update=nothing) == new.model_copy(update=nothing):
        kept = {"anchors": old.anchors, "dense_layers_ns": new.dense_layers_ns | old.dense_layers_ns}
        return refitted.model_copy(update={"processor": new.model_copy(update=kept)})
    say(
        f"warning: {file} held anchors that belong to its old fit, they are gone: {'; '.join(old.anchors)}; "
        "measure them again with skipsim anchor"
    )
    return refitted


def describe_fit(machine: dict[str, Any]) -> str:
    """Say how well the fitted sums meet their own measurements, beside how well these repeat."""
    from skipsim.analysis.summary import table

    processor = machine["processor"]
    groups = {
        **{f"{path}, {kind}": cost for path, kinds in processor["kernels"].items() for kind, cost in kinds.items()},
        **{f"dense, {kind}": cost for kind, cost in processor["dense"].items()},
        **dict(processor["stages"]),
    }
    rows = [("fitted", "measurements", "median error", "p90")]
    rows += [
        (name, str(cost["measurements"]), f"{cost['median_error']:.1%}", f"{cost['p90_error']:.1%}")
        for name, cost in groups.items()
    ]
    return f"{table(rows, 'lrrr')}\n\nmeasured again: {processor['repeatability']:.1%} apart in the median"


@click.command(
    epilog=example(
        "skipsim anchor hrnet_w32@256x256 --hardware my-machine.toml",
        "skipsim anchor my_network:build@240x320 --hardware measured-zen4-2core -o here.toml --block 8",
    ),
    short_help="Time networks on this machine; predictions go by that.",
)
@click.argument("networks", nargs=-1, required=True, metavar="NETWORK@RxC...")
@click.option("--hardware", required=True, metavar="NAME|FILE", help="A machine that skipsim calibrate measured.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="The machine with the anchors; default: its file.")
@click.option("--block", default=4, show_default=True, type=click.IntRange(min=1), help="Of the gates.")
@click.option("--passes", default=6, show_default=True, type=click.IntRange(min=2), help="Over all measurements.")
@click.option("--allow-busy", is_flag=True, help="Measure beside other load.")
@AS_JSON
def anchor(
    networks: tuple[str, ...],
    hardware: str,
    out: Path | None,
    block: int,
    passes: int,
    allow_busy: bool,
    as_json: bool,
) -> None:
    """Time networks on this machine, dense and gated once: predictions for them then go by that.

    Takes about half a minute a network. `simulate`, studies, `recommend` and `convert(execute="sparse")` take what
    the machine's file holds for a network with the same layers; errors become a third or less. The file keeps one of
    each block size; where it has none of the block that is asked for, it takes another and says so.
    """
    from skipsim.analysis.anchor_network import MIDDLE, anchor_name, anchor_network
    from skipsim.hwmodels.hardware import load_hardware
    from skipsim.hwmodels.host import check_idle, check_threads, describe_host, differences, load_of_others, pin_thread

    say, machine = _say(as_json), load_hardware(hardware)
    if machine.processor is None:
        raise InputError(f"hardware {machine.name!r}: was not measured, it takes no anchor; see skipsim calibrate")
    if machine.processor.path != "compiled":
        raise InputError(
            f"hardware {machine.name!r}: anchors are timed on CPUs, this is a {machine.processor.path} file"
        )
    target = out or Path(hardware)
    if target.suffix != ".toml" or (out is None and not target.is_file()):
        raise InputError(f"--out: must be a .toml file, got {str(target)!r}; packaged machines stay as they are")
    warnings = [f"another machine: {line}" for line in differences(machine.processor.host, describe_host())]
    threads = machine.processor.host.threads
    warnings += [line for line in (check_threads(threads), check_idle(load_of_others(), allow_busy)) if line]
    for warning in warnings:
        say(f"warning: {warning}")
    timed = {name: _timed(name, block, threads) for name in networks}
    if threads == 1:
        pin_thread()
    anchored = anchor_network(machine, timed, passes, say)
    anchored.save(target)
    assert anchored.processor is not None
    found = {name: anchored.processor.anchors[anchor_name(name, block)] for name in networks}
    if as_json:
        print_json({name: one.model_dump() for name, one in found.items()})
        return
    for name, one in found.items():
        least, most = min(one.scales.values()), max(one.scales.values())
        click.echo(
            f"{name}: dense {one.dense_ns * 1e-6:.1f} ms, gated {one.gated_ns[MIDDLE] * 1e-6:.1f} ms at density "
            f"{one.densities[MIDDLE]:.2f}; kernels take {least:.2f} to {most:.2f} of what was predicted"
        )
    click.echo(f"next: skipsim simulate TRACE --hardware {target}")


def _timed(text: str, block: int, threads: int) -> TimedNetwork:
    """Make NETWORK@RxC ready to be timed."""
    from skipsim.analysis.conventions import read_pair
    from skipsim.analysis.inputs.networks import build_network
    from skipsim.traces.execute.timed_network import TimedNetwork

    name, at, size = text.rpartition("@")
    if not at:
        raise InputError(f"anchor {text!r}: must be NETWORK@ROWSxCOLS, for example hrnet_w32@256x256")
    rows, cols = read_pair("anchor", size)
    return TimedNetwork(name, rows, cols, block, threads, model=build_network(name))


@click.command(
    epilog=example(
        "skipsim validate --hardware my-machine.toml",
        "skipsim validate --hardware my-machine.toml --network hrnet_w32 --figures figures --json",
    )
)
@click.option("--hardware", required=True, metavar="NAME|FILE", help="A machine that skipsim calibrate measured.")
@click.option("--network", "networks", multiple=True, help="Whole networks to run; default: all of them.")
@click.option("--no-networks", is_flag=True, help="Layers and block sizes only.")
@click.option("--block", "blocks", multiple=True, type=click.IntRange(min=1), help="Of the networks' gates; default 4.")
@click.option("--passes", default=6, show_default=True, type=click.IntRange(min=2), help="Over all measurements.")
@click.option("--seed", type=click.IntRange(min=0), help="Other layers and masks than those of the default, 9100.")
@click.option("--allow-busy", is_flag=True, help="Measure beside other load.")
@click.option("--figures", type=click.Path(path_type=Path), help="Folder for the figures.")
@AS_JSON
def validate(
    hardware: str,
    networks: tuple[str, ...],
    no_networks: bool,
    blocks: tuple[int, ...],
    passes: int,
    seed: int | None,
    allow_busy: bool,
    figures: Path | None,
    as_json: bool,
) -> None:
    """Hold a measured machine's predictions against the clock.

    On layers, masks, block sizes and whole networks that calibration never saw; takes minutes.
    """
    from skipsim.analysis.validate import SEED, describe
    from skipsim.analysis.validate import validate as run
    from skipsim.analysis.validate_networks import NETWORKS
    from skipsim.hwmodels.hardware import load_hardware

    for name in networks:
        if name not in NETWORKS:
            raise InputError(f"--network {name!r} is unknown; {nearest(name, NETWORKS)}")
    results = run(
        load_hardware(hardware),
        networks=() if no_networks else networks or tuple(NETWORKS),
        blocks=blocks or (4,),
        passes=passes,
        seed=SEED if seed is None else seed,
        allow_busy=allow_busy,
        say=_say(as_json),
    )
    if figures:
        from skipsim.analysis.figures.validate_figures import draw

        results["figures"] = [str(file) for file in draw(results, figures)]
    print_json(results) if as_json else click.echo(describe(results))


def _say(quiet: bool) -> Callable[[str], None]:
    """Return what prints warnings, and progress unless `quiet`, on standard error."""

    def say(text: str) -> None:
        if text.startswith("warning: "):
            complain(text)
        elif text and not quiet:
            click.echo(text, err=True)

    return say

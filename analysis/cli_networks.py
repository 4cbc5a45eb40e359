"""The commands that run networks: record and train. Options in, one call of the library, text or JSON out."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from skipsim.analysis.conventions import (
    AS_JSON,
    complete_network,
    example,
    print_json,
    read_block,
    read_pair,
    read_settings,
    read_threshold,
    working,
)
from skipsim.errors import InputError, nearest

GATE_OPTIONS = ("block", "beta", "share", "signal", "update", "filter", "freeze", "thresholds")  # of train


@click.command(
    epilog=example(
        "skipsim record pose_small pose:2000000:pan -o pan.trace --threshold 0.1 --block 4 --frames 40",
        "skipsim record my_network:build street.mp4 -o street.trace --threshold 0.05 --block 8 --size 256x256",
    )
)
@click.argument("model", metavar="NETWORK", shell_complete=complete_network)
@click.argument("video", metavar="CLIP")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="The trace: a folder to be made.")
@click.option(
    "--gate",
    default="input_norm",
    show_default=True,
    metavar="NAME|FILE",
    help="input_norm, output_norm, tuned, gumbel, hold or none; or what `skipsim tune` or `skipsim train` wrote.",
)
@click.option(
    "--threshold",
    metavar="T|TABLE|FILE",
    help="Change below which a block is skipped, in units of a layer's input; or what `skipsim tune` wrote.",
)
@click.option("--block", metavar="N|RxC|TABLE", help="Output pixels that share a decision; by layer: 64x64=8,*=4.")
@click.option("--share", help="Which layers go by one gate: layer (each has its own), block or network.")
@click.option("--signal", help="What gates look at: residual, magnitude or frame.")
@click.option("--fold-batch-norm", is_flag=True, help="Put normalisations into the convolutions before gating.")
@click.option("--update", default="recompute", show_default=True, help="recompute, accumulate or previous.")
@click.option("--reset-every", type=int, help="Compute one frame densely again every so many.")
@click.option("--frames", type=int, help="Stop after so many frames.")
@click.option(
    "--size", metavar="RxC", help="Resize frames to rows x cols (or N for NxN); default for a shipped network: its own."
)
@click.option("--weights", type=click.Path(path_type=Path), help="Safetensors, or a PyTorch file of tensors.")
@click.option(
    "--labels", type=click.Path(path_type=Path), help="Joints (.npz) or boxes (COCO's .json), see README: files."
)
@click.option("--agreement/--no-agreement", default=True, show_default=True, help="Compare with the dense network.")
@AS_JSON
def record(model: str, video: str, out: Path, as_json: bool, size: str | None, **options: Any) -> None:
    """Run a network with gates on a video; note what it computed.

    NETWORK is a name (pose_small, ...) or package.module:function, a function without arguments that returns an
    nn.Module; modules in the current folder are found. CLIP is a video file, a folder of images, a .npy array, a
    procedural clip (pose:SEED[:CAMERA], pose:test[:COUNT], detection:...), or one of a data set (jhmdb:, uavdt:, coco:;
    see README: data sets). An earlier recording of the same name is replaced.
    """
    from skipsim.analysis.inputs.gated_network import Gating
    from skipsim.analysis.running.record_clip import record_clip
    from skipsim.analysis.summary import describe_trace, trace_facts
    from skipsim.traces.trace_files import MANIFEST

    rows_cols = None if size is None else read_pair("--size", size)
    if (options["threshold"] or "").endswith(".json"):
        options |= _tuned(options)
    for name, read in (("block", read_block), ("threshold", read_threshold)):
        if isinstance(options[name], str):
            options[name] = read(f"--{name}", options[name])
    gating = Gating(**{field.name: options.pop(field.name) for field in fields(Gating)})
    replaces = (out / MANIFEST).exists()
    trace = record_clip(model, video, out, gating, size=rows_cols, **options)
    if as_json:
        print_json(trace_facts(trace))
    else:
        said = f"{out}: in the place of an earlier recording\n" if replaces else ""
        click.echo(f"{said}{describe_trace(trace)}\n\nnext: skipsim simulate {out} --hardware edge-npu")


def _tuned(options: dict[str, Any]) -> dict[str, Any]:
    """Return how a network is gated with the thresholds of a file: as they were tuned."""
    from skipsim.analysis.tune import read_thresholds

    tuned = read_thresholds(options["threshold"])
    block = options["block"]
    if block is not None and read_block("--block", block) != tuned.block:
        rows, cols = tuned.block
        raise InputError(f"--block {block}: the thresholds of {options['threshold']} are for blocks of {rows}x{cols}")
    return {name: getattr(tuned, name) for name in ("gate", "block", "update", "threshold")}


@click.command(
    epilog=example(
        "skipsim tune pose_small pose:train:32 --choose-on pose:validation:96 --block 4 -o thresholds.json",
        "skipsim tune my_network:build street.mp4 --choose-on square.mp4 --size 256x256 -o thresholds.json",
    ),
    short_help="Find a threshold for every layer: the most MACs saved.",
)
@click.argument("network", shell_complete=complete_network)
@click.argument("clip")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="The thresholds: a .json file.")
@click.option("--choose-on", metavar="CLIP", help="Where the loss is measured; default: the same clip.")
@click.option("--max-drop", type=float, default=0.5, show_default=True, help="Points of 100 that may be lost there.")
@click.option("--aim", type=float, help="Tune for this MAC reduction of gated frames, whatever is lost.")
@click.option("--gate", default="input_norm", show_default=True, help="input_norm or output_norm.")
@click.option("--block", default="1", show_default=True, metavar="N|RxC", help="Output pixels that share a decision.")
@click.option("--update", default="recompute", show_default=True, help="recompute, accumulate or previous.")
@click.option("--weights", type=click.Path(path_type=Path), help="Safetensors, or a PyTorch file of tensors.")
@click.option("--frames", type=int, help="At most so many frames of every clip.")
@click.option("--size", metavar="RxC", help="Resize frames to rows x cols (or N for NxN).")
@AS_JSON
def tune(
    network: str,
    clip: str,
    out: Path,
    as_json: bool,
    choose_on: str | None,
    block: str,
    size: str | None,
    **options: Any,
) -> None:
    """Find a threshold for every layer: the most MACs saved for the points that may be lost.

    CLIP shows what skipping harms in each layer, --choose-on how much of it is too much; both are what `skipsim record`
    takes, labelled or not. Score the outcome on clips that are neither.
    """
    from skipsim.analysis.tune import tune as run
    from skipsim.analysis.tune import write_thresholds

    if out.suffix != ".json":
        raise InputError(f"tune: the output must end in .json, got {out}")
    rows_cols = None if size is None else read_pair("--size", size)
    with working("measuring what skipping harms, by layer"):
        tuned = run(network, clip, choose_on, block=read_pair("--block", block), size=rows_cols, **options)
    write_thresholds(out, tuned)
    if as_json:
        print_json(asdict(tuned))
        return
    for row in tuned.tried:
        click.echo(
            f"aim {row['aim']:g}x: {row['mac_reduction']:.2f}x fewer MACs, {row['drop_points']:+.2f} points lost"
        )
    dense = sum(value is None for value in tuned.threshold.values())
    click.echo(
        f"{out}: {len(tuned.threshold)} layers, {dense} of them dense: {tuned.mac_reduction:.2f}x fewer MACs on gated "
        f"frames at {tuned.drop_points:.2f} points of {tuned.metric} lost\n\n"
        f"next: skipsim record {network} CLIP -o a.trace --threshold {out}"
    )


@click.command(
    epilog=example(
        "skipsim train pose_small --clips pose -o weights.safetensors --set steps=1200",
        "skipsim train pose_small --clips pose -o gated.safetensors --gate gumbel --block 4 --beta 0.3",
        "skipsim train pose_small --clips jhmdb:JHMDB:1:train --from shipped -o jhmdb.safetensors",
    )
)
@click.argument("network", shell_complete=complete_network)
@click.option("--clips", default="pose", show_default=True, help="What to train on: pose, detection; videos.")
@click.option("--score-on", metavar="CLIPS", help="Videos for the final score; default: the data set's test part.")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="The weights: a .safetensors file.")
@click.option("--gate", default="none", show_default=True, help="gumbel: train gates together with the network.")
@click.option("--block", default="1", show_default=True, metavar="N|RxC|TABLE", help="Of the gates.")
@click.option("--beta", type=float, help="Price of computing everything, in units of the task's loss.")
@click.option("--share", default="layer", show_default=True, help="Which layers go by one gate: layer, block, network.")
@click.option("--signal", default="residual", show_default=True, help="What gates look at: residual, magnitude, frame.")
@click.option("--update", default="recompute", show_default=True, help="recompute, accumulate or previous.")
@click.option(
    "--filter", default="convolution", show_default=True, help="Of a gate: convolution, or channels (a weight each)."
)
@click.option("--freeze", is_flag=True, help="Train gates alone, towards the outputs of the dense network.")
@click.option("--thresholds", metavar="FILE", help="Begin with gates that decide like these, of `skipsim tune`.")
@click.option(
    "--from",
    "start",
    type=click.Path(path_type=Path),
    help="Weights to start from: a file, or shipped (the default with gates).",
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a number of the plan, e.g. seed=1.")
@click.option("--restart", is_flag=True, help="Start again instead of going on from a checkpoint.")
@AS_JSON
def train(
    network: str,
    clips: str,
    score_on: str | None,
    out: Path,
    gate: str,
    beta: float | None,
    start: Path | None,
    settings: Sequence[str],
    restart: bool,
    as_json: bool,
    thresholds: str | None,
    **gating: Any,
) -> None:
    """Train a network, or its gates with it; goes on after a kill.

    CLIPS are procedural ones (pose, detection), videos of a data set as `skipsim record` takes them (jhmdb:, uavdt:,
    coco:; see README: data sets), or, with --gate gumbel --freeze, any video file or folder of images. The last sixth
    of the videos is held out: the curve is measured on it.
    """
    from skipsim.analysis.inputs.networks import build_network, check_network_name
    from skipsim.analysis.inputs.training_clips import training_clips

    plan = read_settings(settings) | ({} if beta is None else {"beta": beta})
    check_network_name(network)
    if gate not in ("none", "gumbel"):
        raise InputError(f"--gate {gate!r}: only gumbel gates are trained; {nearest(gate, ('none', 'gumbel'))}")
    given = click.get_current_context().get_parameter_source
    for name in GATE_OPTIONS if gate == "none" else ():
        if given(name) is ParameterSource.COMMANDLINE:
            raise InputError(f"--{name}: is of gates, and --gate is 'none'; choices: gumbel")
    from skipsim.traces.train import train as run
    from skipsim.traces.training.gumbel_training import GateSettings

    block = read_block("--block", gating.pop("block"))
    if thresholds is not None:
        from skipsim.analysis.tune import read_thresholds

        gating["thresholds"] = read_thresholds(thresholds).threshold
    gates = GateSettings(block, **gating) if gate == "gumbel" else None
    command = shlex.join(["skipsim", *sys.argv[1:]])
    model = build_network(network) if ":" in network else network
    with working("reading what the videos are labelled with"):
        found = training_clips(clips, score_on)
    report = run(
        model,
        found,
        out,
        gates=gates,
        start=start,
        resume=not restart,
        progress=not as_json,
        command=command,
        **plan,
    )
    if as_json:
        print_json(report)
    else:
        scores = report["scores"]["all"]
        click.echo(
            f"{out}: " + ", ".join(f"{name} {value:.3f}" for name, value in scores.items() if name != "headline")
        )

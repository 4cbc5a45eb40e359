"""find_plan: blocks by group of layers and tiles by layer that beat a study's best uniform choice, or that none does.

The study's recordings say what every layer costs at every block and tile, and what every block loses. For every setting
of the gates, the mixtures of blocks on the front of cycles over points lost (`mixtures.py`) are predicted. The fastest
of them within the drop are recorded for real, because blocks change what the network computes, and simulated with the
best tile of every layer; what they lose more or less than predicted corrects the predictions for the next ones, until
one is within the drop and faster than every plan of one block. Without PyTorch only plans of one block are made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from math import isnan
from pathlib import Path
from statistics import fmean
from typing import Any

import joblib
import pandas as pd

from skipsim.analysis.advice.layer_plan import LayerPlan, Tried
from skipsim.analysis.advice.mixtures import Choice, choices_of
from skipsim.analysis.advice.uncertainty import band
from skipsim.analysis.inputs.gated_network import NORM_GATES
from skipsim.analysis.results import mean_over_clips, trace_columns
from skipsim.analysis.running.jobs import STUDY, make_plan
from skipsim.analysis.running.parallel import WorkerDied, in_processes
from skipsim.analysis.running.provenance import entries_of
from skipsim.analysis.running.recordings import RecordingTask, is_recorded, record_traces
from skipsim.errors import InputError
from skipsim.hwmodels.hardware import Hardware
from skipsim.simulator.best_tiles import best_tiles, tile_costs
from skipsim.simulator.simulate import cycles_of, simulate, simulate_gated
from skipsim.traces.trace import Trace, load_trace

FOLDER = "plans"  # recordings of plans, in the study's folder
SLACK_POINTS = 0.5  # a block that loses this much more than is allowed may still do for some of the layers
MOST_UNIFORM = 2  # plans of one block that are simulated as a whole, the fastest predicted ones
ROUNDS = 3  # of recording mixtures
RECORDED_AT_ONCE = 2  # mixtures
TOLERANCE = 1e-9
BLOCKLESS = (*NORM_GATES, "hold")  # gates that are not made for a block, so that blocks may be mixed
GATES = ("gate", "update", "reset_every", "share", "signal", "threshold")  # what one plan has in common


def find_plan(
    directory: Path,
    table: pd.DataFrame,
    hardware: Hardware,
    max_drop: float,
    uniform_speedup: float,
    *,
    network: str,
    workers: int | None = None,
) -> LayerPlan | None:
    """Find blocks by group of layers and tiles by layer that are fastest within the drop.

    Args:
        directory: the study's folder; recordings of plans are kept there.
        table: its results.
        hardware: the machine.
        max_drop: points of accuracy that may be lost.
        uniform_speedup: of the best block and tile that are the same for all layers, to compare with.
        network: which network of the study.
        workers: processes that record; None: one per core.

    Returns:
        The fastest plan; None where the study has no recordings of its own within the drop, or the machine is measured.
    """
    rows = _recorded_rows(table, network)
    if rows.empty or hardware.processor is not None:
        return None
    mean = mean_over_clips(rows)
    near = mean[~(mean["quality_drop"] > max_drop + SLACK_POINTS)]
    if near.empty:
        return None
    entries = entries_of(directory)
    traces = {name: load_trace(directory / entries[name]["trace"]) for name in rows["trace_hash"]}
    choices = _choices(rows, near, traces, hardware, max_drop)
    uniform = [one for one in choices if one.uniform and one.lost <= max_drop + TOLERANCE][:MOST_UNIFORM]
    mixed = [one for one in choices if not one.uniform and (not uniform or one.cycles < uniform[0].cycles)]

    def evaluated(choice: Choice, own: Sequence[Trace]) -> LayerPlan:
        return _evaluated(choice, own, hardware, max_drop, uniform_speedup)

    plain = [evaluated(one, _traces_of(rows, one.gates, one.block, traces)) for one in uniform]
    one_block = max((plan.speedup for plan in plain), default=0.0)
    tried: dict[Choice, LayerPlan] = {}
    for _ in range(ROUNDS):
        batch = _next(mixed, tried, max_drop)
        recordings = _record(directory, network, batch, workers or joblib.cpu_count())
        found = {choice: evaluated(choice, own) for choice, own in zip(batch, recordings, strict=True) if own}
        tried |= found
        if not found or any(plan.fits and plan.speedup > one_block for plan in found.values()):
            break
    fitting = [plan for plan in (*plain, *tried.values()) if plan.fits]
    if not fitting:
        return None
    return replace(
        max(fitting, key=lambda plan: plan.speedup),
        one_block_speedup=one_block or float("nan"),
        mixtures=[Tried(plan.threshold, plan.blocks, plan.speedup, plan.quality_drop) for plan in tried.values()],
        predicted=sum(one.lost <= max_drop + TOLERANCE for one in mixed),
    )


def _next(mixed: Sequence[Choice], tried: Mapping[Choice, LayerPlan], max_drop: float) -> list[Choice]:
    """Return the fastest mixtures that were not tried and are within the drop, by what the tried ones lost in fact."""
    errors: dict[tuple[Any, ...], list[float]] = {}
    for choice, plan in tried.items():
        if not isnan(plan.quality_drop):
            errors.setdefault(choice.gates, []).append(plan.quality_drop - choice.lost)
    usual = fmean(error for found in errors.values() for error in found) if errors else 0.0
    likely = [one for one in mixed if one.lost + fmean(errors.get(one.gates, [usual])) <= max_drop + TOLERANCE]
    return [one for one in likely if one not in tried][:RECORDED_AT_ONCE]


def _choices(
    rows: pd.DataFrame, near: pd.DataFrame, traces: Mapping[str, Trace], hardware: Hardware, max_drop: float
) -> list[Choice]:
    """Return what is predicted to be within the drop, or nearly so; no two alike, the fastest first."""
    pairs = [(_gates_of(row), str(row["block"])) for row in near.to_dict("records")]
    recordings = [_traces_of(rows, gates, block, traces) for gates, block in pairs]
    with ThreadPoolExecutor(joblib.cpu_count()) as pool:  # compiled engines run side by side
        found = list(pool.map(lambda own: tile_costs(own, hardware, cycles_of), recordings))
    layers = next(iter(traces.values())).layers
    drops = dict(zip(pairs, near["quality_drop"].fillna(0.0), strict=True))
    choices: dict[tuple[Any, ...], Choice] = {}
    for gates in dict.fromkeys(gates for gates, _ in pairs):
        own = {
            block: {number: cycles for number, (cycles, _) in cost.items()}
            for (settings, block), cost in zip(pairs, found, strict=True)
            if settings == gates
        }
        everywhere = set.intersection(*map(set, own.values()))  # a table of thresholds may leave a layer dense
        own = {block: {number: cost[number] for number in cost if number in everywhere} for block, cost in own.items()}
        losses = {block: float(drops[gates, block]) for block in own}
        for choice in choices_of(gates, layers, own, losses):
            if choice.lost <= max_drop + SLACK_POINTS and (choice.uniform or gates[0] in BLOCKLESS):
                choices.setdefault(choice.of_layers(layers), choice)
    return sorted(choices.values(), key=lambda one: one.cycles)


def _evaluated(
    choice: Choice, traces: Sequence[Trace], hardware: Hardware, max_drop: float, uniform_speedup: float
) -> LayerPlan:
    """Choose tiles for the recordings of a plan, simulate them, and average over clips of equal weight."""
    tiling = best_tiles(traces, hardware, cycles_of)
    reports = [simulate_gated(trace, hardware, tiling) for trace in traces]
    dense_ms = simulate(traces[0], hardware, dense=True).latency_ms_per_frame
    latency_ms = fmean(report.latency_ms_per_frame for report in reports)
    gate, update, _, _, _, threshold = choice.gates
    return LayerPlan(
        hardware=hardware.name,
        gate=str(gate),
        update=str(update),
        threshold=float("nan") if threshold is None else float(threshold),
        grouping=choice.grouping,
        blocks=choice.blocks,
        tiling=tiling,
        layers=traces[0].layers,
        speedup=dense_ms / latency_ms,
        latency_ms=latency_ms,
        dense_latency_ms=dense_ms,
        mac_reduction=1 / fmean(1 / report.mac_reduction for report in reports),
        energy_uj=fmean(report.energy_uj / report.frames for report in reports),
        quality_drop=fmean(float(trace_columns(trace)["quality_drop"]) for trace in traces),
        max_drop=max_drop,
        band=band(dense_ms / latency_ms, [dense_ms / report.latency_ms_per_frame for report in reports]),
        uniform_speedup=uniform_speedup,
        one_block_speedup=float("nan"),
        mixtures=(),
        predicted=0,
    )


def _recorded_rows(table: pd.DataFrame, network: str) -> pd.DataFrame:
    """Return one row per recording of the network that was made with one block for all layers."""
    rows = table[(table["network"] == network) & (table["error"] == "") & (table["loop"] == "closed")]
    return rows[rows["block_rows"].notna()].drop_duplicates(["clip", *GATES, "block"])


def _gates_of(row: Mapping[Any, Any]) -> tuple[Any, ...]:
    """Return a row's settings of the gates; None where one has no value, as the threshold of a trained gate."""
    return tuple(None if pd.isna(row[name]) else row[name] for name in GATES)


def _traces_of(rows: pd.DataFrame, gates: tuple[Any, ...], block: str, traces: Mapping[str, Trace]) -> list[Trace]:
    """Return the recordings of one setting and block, one per clip."""
    own = rows["block"] == block
    for name, value in zip(GATES, gates, strict=True):
        own &= rows[name].isna() if value is None else rows[name] == value
    return [traces[name] for name in rows[own]["trace_hash"]]


def _record(directory: Path, network: str, choices: Sequence[Choice], workers: int) -> list[list[Trace]]:
    """Record mixtures on all clips, or open them where that was done before; one that cannot be has no traces."""
    if find_spec("torch") is None or not choices:
        return [[] for _ in choices]
    try:
        sources = make_plan(directory / STUDY, directory).sources
    except InputError:  # the study's clips or networks are not where it was run from
        return [[] for _ in choices]
    known = [source.task for source in sources if source.task and source.choice.network_name == network]
    tasks = []
    for choice in choices:
        alike = {
            task.clip: task for task in known if task.gate == choice.gates[0]
        }  # one per clip: the weights are theirs
        tasks.append([_task(task, choice) for task in alike.values()])
    paths = [[directory / FOLDER / f"{task.key()}.trace" for task in row] for row in tasks]
    missing = {
        path: task
        for row, own in zip(tasks, paths, strict=True)
        for task, path in zip(row, own, strict=True)
        if not is_recorded(path)
    }
    (directory / FOLDER).mkdir(exist_ok=True)
    failed: set[Path] = set()
    batches = [[(task, path)] for path, task in missing.items()]
    for batch, results in in_processes(record_traces, batches, workers, ahead=1):
        pairs = zip(batch, results, strict=True)
        failed |= {path for (_, path), result in pairs if isinstance(result, WorkerDied) or result[0]}
    return [[] if failed & set(own) else [load_trace(path) for path in own] for own in paths]


def _task(task: RecordingTask, choice: Choice) -> RecordingTask:
    """Return a recording task of the study with the gates and blocks of a plan."""
    blocks = {group: _pair(block) for group, block in choice.blocks.items()}
    most, _ = Counter(blocks.values()).most_common(1)[0]
    gate, update, reset_every, share, signal, threshold = choice.gates
    return replace(
        task,
        gate=str(gate),
        update=str(update),
        reset_every=int(reset_every),
        share=share or None,
        signal=signal or None,
        threshold=task.threshold if threshold is None else float(threshold),
        block={**blocks, "*": most} if len(set(blocks.values())) > 1 else most,
    )


def _pair(block: str) -> tuple[int, int]:
    rows, cols = block.split("x")
    return int(rows), int(cols)

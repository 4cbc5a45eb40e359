"""layer_plan: blocks by map size and tiles by layer that beat a study's best uniform choice, or that none does.

The study's recordings say what every layer costs at every block and tile. For every threshold the layers of one map
size take the block, and each layer the tile, that cost least; the fastest such mixtures are then recorded for real,
because blocks change what the network computes. Without PyTorch only plans of one block are made, with tiles by layer.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

import joblib
import pandas as pd

from skipsim.analysis.jobs import STUDY, make_plan
from skipsim.analysis.parallel import WorkerDied, in_processes
from skipsim.analysis.provenance import entries_of
from skipsim.analysis.recordings import RecordingTask, is_recorded, record_traces
from skipsim.analysis.results import mean_over_clips, trace_columns
from skipsim.analysis.uncertainty import Band, band
from skipsim.errors import InputError
from skipsim.hwmodels.hardware import Hardware
from skipsim.simulator.best_tiles import best_tiles, tile_costs
from skipsim.simulator.plan import Tile, Tiling
from skipsim.simulator.schedule import tile_name
from skipsim.simulator.simulate import cycles_of, simulate, simulate_gated
from skipsim.traces.layer import Layer
from skipsim.traces.trace import Trace, load_trace

FOLDER = "plans"  # recordings of plans, in the study's folder
SLACK_POINTS = 0.5  # a block that loses this much more than is allowed may still do for some of the layers
MOST_UNIFORM = 2  # plans of one block that are simulated as a whole, the fastest predicted ones
MOST_RECORDED = 1  # mixtures that are recorded, likewise
TOLERANCE = 1e-9
GATES = ("gate", "update", "reset_every", "threshold")  # what one plan has in common


@dataclass(frozen=True)
class Choice:
    """A proposed plan: gate settings, the block of every map size ("32x32"), and what the recordings predict for it."""

    gates: tuple[Any, ...]
    blocks: Mapping[str, str]
    cycles: int  # of the gated frames
    lost: float  # points of accuracy; for a mixture those of its blocks alone, weighted by MACs

    @property
    def uniform(self) -> bool:
        """Whether all map sizes have the same block."""
        return len(set(self.blocks.values())) == 1

    @property
    def block(self) -> str:
        """The block of the first map size: that of all in a uniform plan."""
        return next(iter(self.blocks.values()))


@dataclass(frozen=True)
class LayerPlan:
    """A plan that was recorded and simulated: its settings, what it gains, and the best uniform choice beside it."""

    hardware: str
    gate: str
    update: str
    threshold: float
    blocks: Mapping[str, str]  # by map size
    tiling: Tiling
    layers: Sequence[Layer]
    recorded: int  # how many mixed plans were recorded to find it
    speedup: float
    latency_ms: float
    dense_latency_ms: float
    mac_reduction: float
    energy_uj: float
    quality_drop: float
    band: Band
    uniform_speedup: float

    @property
    def better(self) -> bool:
        """Whether it beats the best uniform block and tile."""
        return self.speedup > self.uniform_speedup * (1 + 1e-6)

    @property
    def dense_layers(self) -> list[str]:
        """Layers with a gate that should rather stay dense."""
        return [name for name, tile in self.tiling.items() if tile is None]

    @property
    def summary(self) -> str:
        """What the plan gains over the best uniform choice, or that it gains nothing."""
        if not self.better:
            return "No mixture of blocks and tiles beats the best uniform choice on these clips."
        gain = self.speedup / self.uniform_speedup - 1
        uniform = len(set(self.blocks.values())) == 1
        what = "one block, tiles by layer" if uniform else "blocks by map size, recorded so; tiles by layer"
        drop = "accuracy not measured" if math.isnan(self.quality_drop) else f"{self.quality_drop:.2f} points lost"
        return (
            f"Speed-up {self.speedup:.2f}x instead of {self.uniform_speedup:.2f}x ({gain:+.1%}) with {what}, "
            f"threshold {self.threshold:g}: {drop}, MAC reduction {self.mac_reduction:.2f}x. Band: {self.band.words()}."
        )

    @property
    def stay(self) -> str:
        """Which layers should stay dense, in words."""
        names = self.dense_layers
        if not names:
            return "No gated layer should rather stay dense."
        return f"Should stay dense (and so compute more than was recorded): {', '.join(names)}."

    def words(self) -> list[str]:
        """Return the plan in a few lines."""
        if not self.better:
            return [f"By layer: {self.summary[0].lower()}{self.summary[1:]}"]
        groups = (
            f"  {size} maps ({n} layers): block {block}, tiles {tiles}" for size, n, block, tiles in self.groups()
        )
        return [f"By layer: {self.summary[0].lower()}{self.summary[1:]}", *groups, f"  {self.stay}"]

    def groups(self) -> list[tuple[str, int, str, str]]:
        """Return (map size, layers, block, tiles with how many layers have each) of every group."""
        found = []
        for size, block in self.blocks.items():
            own = [layer for layer in self.layers if size_of(layer) == size and layer.label in self.tiling]
            tiles = Counter(tile_text(self.tiling[layer.label], layer) for layer in own)
            found.append((size, len(own), block, ", ".join(f"{name} ({n})" for name, n in tiles.most_common())))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return {
            "better": self.better,
            "threshold": self.threshold,
            "gate": self.gate,
            "update": self.update,
            "blocks": dict(self.blocks),
            "tiles": {name: tile_text(tile) for name, tile in self.tiling.items()},
            "dense_layers": self.dense_layers,
            "speedup": self.speedup,
            "uniform_speedup": self.uniform_speedup,
            "band": [self.band.low, self.band.high],
            "latency_ms": self.latency_ms,
            "mac_reduction": self.mac_reduction,
            "energy_uj": None if math.isnan(self.energy_uj) else self.energy_uj,
            "quality_drop": None if math.isnan(self.quality_drop) else self.quality_drop,
            "recorded_plans": self.recorded,
            "groups": [list(group) for group in self.groups()],
            "summary": self.summary,
            "stay": self.stay,
        }


def layer_plan(
    directory: Path,
    table: pd.DataFrame,
    hardware: Hardware,
    max_drop: float,
    uniform_speedup: float,
    *,
    network: str,
    workers: int | None = None,
) -> LayerPlan | None:
    """Find blocks by map size and tiles by layer that are fastest within the drop.

    Args:
        directory: the study's folder; recordings of plans are kept there.
        table: its results.
        hardware: the machine.
        max_drop: points of accuracy that may be lost.
        uniform_speedup: of the best uniform block and tile, to compare with.
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
    choices = sorted(_choices(rows, near, traces, hardware, max_drop), key=lambda one: one.cycles)
    uniform = [one for one in choices if one.uniform and one.lost <= max_drop + TOLERANCE][:MOST_UNIFORM]
    recordings = [_traces_of(rows, one.gates, one.block, traces) for one in uniform]
    mixed = [one for one in choices if not one.uniform and one.lost <= max_drop + TOLERANCE][:MOST_RECORDED]
    recordings += _record(directory, network, mixed, workers or joblib.cpu_count())
    plans = [
        _evaluated(choice, own, hardware, uniform_speedup, len(mixed))
        for choice, own in zip([*uniform, *mixed], recordings, strict=True)
        if own
    ]
    fitting = [plan for plan in plans if not plan.quality_drop > max_drop + TOLERANCE]
    return max(fitting, key=lambda plan: plan.speedup, default=None)


def size_of(layer: Layer) -> str:
    """Return the size of a layer's map, "32x32"."""
    return f"{layer.out_rows}x{layer.out_cols}"


def tile_text(tile: Tile | None, layer: Layer | None = None) -> str:
    """Name a tile of a layer: "8x8", "whole map", "4 rows", "dense"."""
    if tile is None:
        return "dense"
    if layer is None:
        return tile_name(tile)
    rows, cols = min(tile[0], layer.out_rows), min(tile[1], layer.out_cols)
    if (rows, cols) == (layer.out_rows, layer.out_cols):
        return "whole map"
    return f"{rows}x{cols}" if cols < layer.out_cols else f"{rows} rows" if rows > 1 else "1 row"


def _evaluated(
    choice: Choice, traces: Sequence[Trace], hardware: Hardware, uniform_speedup: float, recorded: int
) -> LayerPlan:
    """Choose tiles for the recordings of a plan, simulate them, and average over clips of equal weight."""
    tiling = best_tiles(traces, hardware, cycles_of)
    reports = [simulate_gated(trace, hardware, tiling) for trace in traces]
    dense_ms = simulate(traces[0], hardware, dense=True).latency_ms_per_frame
    latency_ms = fmean(report.latency_ms_per_frame for report in reports)
    gate, update, _, threshold = choice.gates
    return LayerPlan(
        hardware=hardware.name,
        gate=str(gate),
        update=str(update),
        threshold=float(threshold),
        blocks=choice.blocks,
        tiling=tiling,
        layers=traces[0].layers,
        recorded=recorded,
        speedup=dense_ms / latency_ms,
        latency_ms=latency_ms,
        dense_latency_ms=dense_ms,
        mac_reduction=1 / fmean(1 / report.mac_reduction for report in reports),
        energy_uj=fmean(report.energy_uj / report.frames for report in reports),
        quality_drop=fmean(float(trace_columns(trace)["quality_drop"]) for trace in traces),
        band=band(dense_ms / latency_ms, [dense_ms / report.latency_ms_per_frame for report in reports]),
        uniform_speedup=uniform_speedup,
    )


def _recorded_rows(table: pd.DataFrame, network: str) -> pd.DataFrame:
    """Return one row per recording of the network that was made with one block for all layers."""
    rows = table[(table["network"] == network) & (table["error"] == "") & (table["loop"] == "closed")]
    return rows[rows["block_rows"].notna()].drop_duplicates(["clip", *GATES, "block"])


def _choices(
    rows: pd.DataFrame, near: pd.DataFrame, traces: Mapping[str, Trace], hardware: Hardware, max_drop: float
) -> Iterator[Choice]:
    """Yield, for every setting of the gates, every uniform block and the cheapest mixtures of those near the drop."""
    pairs = [(tuple(row[name] for name in GATES), row["block"]) for row in near.to_dict("records")]
    recordings = [_traces_of(rows, gates, block, traces) for gates, block in pairs]
    with ThreadPoolExecutor(joblib.cpu_count()) as pool:  # compiled engines run side by side
        found = list(pool.map(lambda own: tile_costs(own, hardware, cycles_of), recordings))
    layers = next(iter(traces.values())).layers
    drops = dict(zip(pairs, near["quality_drop"].fillna(0.0), strict=True))
    for gates in dict.fromkeys(gates for gates, _ in pairs):
        costs = {
            pair[1]: _by_size(layers, {number: cycles for number, (cycles, _) in cost.items()})
            for pair, cost in zip(pairs, found, strict=True)
            if pair[0] == gates
        }
        for block, cost in costs.items():
            yield Choice(gates, dict.fromkeys(cost, block), sum(cost.values()), drops[gates, block])
        allowed = {block: cost for block, cost in costs.items() if drops[gates, block] <= max_drop + TOLERANCE}
        mixtures = [_cheapest(gates, usable, layers, drops) for usable in (costs, allowed) if usable]
        yield from (one for one in dict(zip(map(str, mixtures), mixtures, strict=True)).values() if not one.uniform)


def _cheapest(
    gates: tuple[Any, ...],
    costs: Mapping[str, Mapping[str, int]],
    layers: Sequence[Layer],
    drops: Mapping[tuple[tuple[Any, ...], str], float],
) -> Choice:
    """Give every map size its cheapest block; the loss is estimated as the blocks' own, weighted by MACs."""
    sizes = next(iter(costs.values()))
    blocks = {size: min(costs, key=lambda block: costs[block][size]) for size in sizes}
    macs = _by_size(layers, {number: layer.macs for number, layer in enumerate(layers)})
    weight = sum(macs[size] for size in sizes)
    lost = sum(macs[size] * drops[gates, blocks[size]] for size in sizes) / weight
    return Choice(gates, blocks, sum(costs[blocks[size]][size] for size in sizes), lost)


def _by_size(layers: Sequence[Layer], values: Mapping[int, int]) -> dict[str, int]:
    """Sum values by layer number over layers of one map size, in the order in which sizes first appear."""
    sums: dict[str, int] = {}
    for number, value in values.items():
        sums[size_of(layers[number])] = sums.get(size_of(layers[number]), 0) + value
    return sums


def _traces_of(rows: pd.DataFrame, gates: tuple[Any, ...], block: str, traces: Mapping[str, Trace]) -> list[Trace]:
    """Return the recordings of one setting and block, one per clip."""
    own = rows["block"] == block
    for name, value in zip(GATES, gates, strict=True):
        own &= rows[name] == value
    return [traces[name] for name in rows[own]["trace_hash"]]


def _record(directory: Path, network: str, choices: Sequence[Choice], workers: int) -> list[list[Trace]]:
    """Record mixtures on all clips, or open them where that was done before; one that cannot be has no traces."""
    if find_spec("torch") is None or not choices:
        return [[] for _ in choices]
    try:
        sources = make_plan(directory / STUDY, directory).sources
    except InputError:  # the study's clips or networks are not where it was run from
        return [[] for _ in choices]
    usual = {source.task.clip: source.task for source in sources if source.task and source.task.network == network}
    tasks = [[_task(task, choice) for task in usual.values()] for choice in choices]
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
    blocks = {size: _pair(block) for size, block in choice.blocks.items()}
    most, _ = Counter(blocks.values()).most_common(1)[0]
    gate, update, reset_every, threshold = choice.gates
    return replace(
        task,
        gate=str(gate),
        update=str(update),
        reset_every=int(reset_every),
        threshold=float(threshold),
        block={**blocks, "*": most} if len(set(blocks.values())) > 1 else most,
    )


def _pair(block: str) -> tuple[int, int]:
    rows, cols = block.split("x")
    return int(rows), int(cols)

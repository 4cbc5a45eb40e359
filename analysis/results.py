"""The results table: one row per recording, machine and tile; units in the column names.

latency, energy and bytes are those of the mean frame; shares are of the cycles of all cores; `quality_drop` is in
points, 100 x (dense - gated). `network` also names size and weights where a study runs one network with several: each
is a network of its own, whose dense columns are its own. `loop` says how accuracy and masks belong together: "closed" =
this block size was recorded, so both are its own; "open" = a recording of finer blocks, coarsened: its masks are a
superset of what the gates asked for, and `quality` is that of the finer recording; otherwise the trace's kind
("synthetic", "topology"), which has no accuracy. A row whose job failed has its reason in `error`, which is ""
otherwise. `violates` names the study's constraints that do not hold; `on_front` is 1 where, of those that hold them
all, no other configuration of the network beats this one in every objective of the study.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from sys import intern
from typing import Any

import fastparquet
import numpy as np
import pandas as pd

from skipsim.atomic import replacing
from skipsim.errors import InputError
from skipsim.simulator.counters import CAUSES
from skipsim.simulator.report import Report
from skipsim.simulator.tiles import MODEL_VERSION
from skipsim.traces.models import usual_size
from skipsim.traces.trace import Trace

RESULTS = "results.parquet"

# What a recording is called, what a simulation is called, what came out. Values: "text", "whole" or "real".
RECORDING_COLUMNS = {
    "study": "text",
    "network": "text",
    "clip": "text",
    "gate": "text",
    "threshold": "real",
    "block": "text",
    "block_rows": "whole",
    "block_cols": "whole",
    "update": "text",
    "reset_every": "whole",
    "loop": "text",
    "share": "text",
    "signal": "text",
}
SIMULATION_COLUMNS = {"hardware": "text", "tile": "text"}  # then one column per dotted hardware key of the study
TRACE_COLUMNS = {
    "group": "text",  # that the study counts the clip in; "" none
    "frames": "whole",
    "quality_metric": "text",
    "quality": "real",
    "dense_quality": "real",
    "quality_drop": "real",
}
OUTCOME_COLUMNS = {
    "chosen_tile": "text",  # what "auto" found
    "density": "real",  # share of the dense MACs that the gates ask for
    "effective_density": "real",  # share of the dense MACs in active tiles: what is computed
    "mac_reduction": "real",
    "speedup": "real",
    "realised": "real",
    "latency_ms": "real",
    "dense_latency_ms": "real",
    "energy_uj": "real",
    "dense_energy_uj": "real",
    "area_mm2": "real",
    "dram_read_mb": "real",
    "dram_write_mb": "real",
    "dense_dram_read_mb": "real",
    "dense_dram_write_mb": "real",
    "cycles": "whole",  # of the whole clip
    "dense_cycles": "whole",
    **{f"cause_{cause}_share": "real" for cause in CAUSES},
    **{f"dense_cause_{cause}_share": "real" for cause in CAUSES},
}
KEY_COLUMNS = {
    "violates": "text",
    "on_front": "whole",
    "job_key": "text",
    "trace_hash": "text",
    "model_version": "whole",
    "error": "text",
}
COLUMNS = {**RECORDING_COLUMNS, **SIMULATION_COLUMNS, **TRACE_COLUMNS, **OUTCOME_COLUMNS, **KEY_COLUMNS}
OBJECTIVES = {  # columns that a study may aim at, and whether more of it is better
    "latency_ms": False,
    "energy_uj": False,
    "area_mm2": False,
    "quality_drop": False,
    "dram_read_mb": False,
    "dram_write_mb": False,
    "quality": True,
    "speedup": True,
    "realised": True,
    "mac_reduction": True,
}
DTYPES: dict[str, Any] = {"text": "object", "whole": "Int64", "real": "float64"}


def outcome_of(report: Report) -> dict[str, Any]:
    """Return the outcome columns of one simulation; None what is not known, as the energy of a measured processor."""
    dense = report.dense
    assert dense is not None, "a gated report has its dense one"
    outcome = {
        "chosen_tile": report.tile,
        "density": report.density,
        "effective_density": report.effective_density,
        "mac_reduction": report.mac_reduction,
        "speedup": report.speedup,
        "realised": report.realised,
        "area_mm2": report.area_mm2,
    }
    for prefix, one in (("", report), ("dense_", dense)):
        total = max(1, sum(one.causes.values()))
        outcome |= {
            f"{prefix}latency_ms": one.latency_ms_per_frame,
            f"{prefix}energy_uj": one.energy_uj / one.frames,
            f"{prefix}dram_read_mb": one.dram_read_bytes / one.frames / 1e6,
            f"{prefix}dram_write_mb": one.dram_write_bytes / one.frames / 1e6,
            f"{prefix}cycles": one.cycles,
            **{f"{prefix}cause_{cause}_share": cycles / total for cause, cycles in one.causes.items()},
        }
    return {name: None if value != value else value for name, value in outcome.items()}


def trace_columns(trace: Trace) -> dict[str, Any]:
    """Return the trace columns, with the quality that the trace carries."""
    compared = [name for name in ("agreement_ap", "agreement") if name in trace.quality]  # with the dense network
    metric = trace.quality.get("headline", next(iter(compared), ""))
    quality = trace.quality.get(metric, math.nan)
    itself = 1.0 if metric in compared else math.nan if any(layer.gate != "none" for layer in trace.layers) else quality
    dense = trace.quality.get(f"dense_{metric}", itself)
    return {
        "frames": trace.frames,
        "quality_metric": metric,
        "quality": quality,
        "dense_quality": dense,
        "quality_drop": 100 * (dense - quality),
        "trace_hash": trace.hash,
    }


def recording_columns(trace: Trace) -> dict[str, Any]:
    """Return the recording columns of a trace that was not recorded by the study, from its origin and layers."""
    gated = [layer for layer in trace.layers if layer.gate != "none"]
    blocks = {(layer.block_rows, layer.block_cols) for layer in gated} or {(1, 1)}
    gates = {layer.gate for layer in gated if layer.gate != "shared"} or {"none"}
    threshold = trace.origin.get("parameters", {}).get("threshold", math.nan)
    kind = "open" if "coarsened_from" in trace.origin else str(trace.origin.get("kind", "unknown"))
    return {
        "network": _network_of(trace),
        "clip": trace.path.name if trace.path else "",
        "group": "",
        "gate": "+".join(sorted(gates)),
        "threshold": threshold if isinstance(threshold, int | float) else math.nan,
        **block_columns(blocks.pop() if len(blocks) == 1 else None),
        "update": trace.update,
        "reset_every": trace.origin.get("reset_every") or 0,
        "loop": "closed" if kind == "recorded" else kind,
        "share": str(trace.origin.get("share", "")).replace("layer", ""),
        "signal": str(trace.origin.get("signal", "")).replace("residual", ""),
    }


def network_at(name: str, size: tuple[int, ...] | None) -> str:
    """Return the name of a network, with the rows and cols of its frames where these are not the usual ones."""
    return name if size in (None, usual_size(name)) else f"{name} {'x'.join(map(str, size or ()))}"


def _network_of(trace: Trace) -> str:
    name, size = str(trace.origin.get("network", "")), tuple(trace.origin.get("input", ())[1:])
    return network_at(name, size if usual_size(name) and size else None)


def block_columns(block: tuple[int, int] | None, text: str = "mixed") -> dict[str, Any]:
    """Return the columns of a block size; None: it differs between layers, as `text` says."""
    if block is None:
        return {"block": text, "block_rows": None, "block_cols": None}
    return {"block": f"{block[0]}x{block[1]}", "block_rows": block[0], "block_cols": block[1]}


def make_table(rows: Iterable[Mapping[str, Any]], overrides: Iterable[str] | Mapping[str, str] = ()) -> pd.DataFrame:
    """Make the table: columns in their order, types that do not depend on which rows failed.

    `overrides` are the columns that are dotted hardware keys; with their kinds, or those follow from the rows.
    """
    kinds = {**(overrides if isinstance(overrides, Mapping) else {}), **COLUMNS}
    names = [*RECORDING_COLUMNS, *SIMULATION_COLUMNS, *overrides, *TRACE_COLUMNS, *OUTCOME_COLUMNS, *KEY_COLUMNS]
    lists: dict[str, Any] = {name: array("d") if kinds.get(name) == "real" else [] for name in names}
    for row in rows:  # one at a time: a row as a dictionary takes ten times the room
        row = {"model_version": MODEL_VERSION, "error": "", **row}
        for name, values in lists.items():
            value = row.get(name)
            values.append(math.nan if value is None and kinds.get(name) == "real" else value)
    return pd.DataFrame({name: _column(lists.pop(name), kinds.get(name)) for name in names})


def _column(values: Any, kind: str | None) -> pd.Series[Any]:
    kind = kind or kind_of(values)
    if kind == "text":
        cells: Any = [intern(str("" if value is None else value)) for value in values]
    elif kind == "whole":
        cells = [pd.NA if value is None else value for value in values]
    else:
        cells = np.array([math.nan if value is None else value for value in values], np.float64)
    column: pd.Series[Any] = pd.Series(cells, dtype=DTYPES[kind])
    return column


def kind_of(values: Sequence[Any]) -> str:
    """Return the kind of a hardware key's column: numbers where all values are, otherwise text."""
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return "text"
    return "whole" if all(isinstance(value, int) for value in values) else "real"


def write_results(directory: Path, parts: Iterable[pd.DataFrame]) -> None:
    """Write the table, in parts, into a study's folder, whole or not at all; the same parts give the same bytes."""
    with replacing(directory / RESULTS) as temporary:
        for number, part in enumerate(parts):
            texts = {str(name): "utf8" for name in part if part[name].dtype == object}
            how: dict[str, Any] = {"compression": "SNAPPY", "write_index": False, "object_encoding": texts}
            fastparquet.write(str(temporary), part, append=number > 0, **how)


def read_results(directory: str | Path) -> pd.DataFrame:
    """Read the table of a finished study; anything wrong with the folder is an InputError."""
    directory = Path(directory)
    file = directory / RESULTS
    if not directory.is_dir():
        raise InputError(f"results folder {directory}: {'not a folder' if directory.exists() else 'no such folder'}")
    if not file.is_file():
        unfinished = (directory / "study.toml").is_file()
        rule = "the study is not finished; run its sweep again" if unfinished else "not the output of a sweep"
        raise InputError(f"results folder {directory}: no {RESULTS}: {rule}")
    try:
        table = pd.concat(map(_compact, fastparquet.ParquetFile(str(file)).iter_row_groups()), ignore_index=True)
    except Exception as error:  # fastparquet raises whatever it stumbles over
        raise InputError(f"{file}: not a readable table: {type(error).__name__}: {error}") from None
    for name in ("share", "signal", "group", "violates", "on_front"):  # what results of older versions do not have
        if name not in table:
            table[name] = "" if COLUMNS[name] == "text" else pd.NA
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise InputError(f"{file}: not the table of a sweep: column {missing[0]!r} is missing")
    for name, kind in COLUMNS.items():
        table[name] = table[name].astype(DTYPES[kind])
    for name in overrides_of(table):
        if not pd.api.types.is_numeric_dtype(table[name]):
            table[name] = table[name].astype("object")
    return table


def _compact(part: pd.DataFrame) -> pd.DataFrame:
    """Keep equal texts once in memory: a name in a hundred thousand rows is one."""
    for name in part:
        if part[name].dtype == object:
            part[name] = part[name].map(intern, na_action="ignore")
    return part


def overrides_of(table: pd.DataFrame) -> list[str]:
    """Return the columns that are dotted hardware keys."""
    return [str(name) for name in table if name not in COLUMNS]


def configuration_of(table: pd.DataFrame) -> list[str]:
    """Return the columns that name a row: what was recorded, and what it was simulated on."""
    return [*RECORDING_COLUMNS, *SIMULATION_COLUMNS, *overrides_of(table)]


def mean_over_clips(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per configuration, the mean over its clips; without configurations that failed on a clip.

    Clips weigh the same: times, bytes, energies, densities and qualities are averaged, ratios and shares are those of
    the averages; `clip` says how many there are. Rows stay as they are where not every configuration has run on every
    clip, as with traces that were collected from elsewhere.
    """
    clips = table["clip"].nunique()
    failed = table[table["error"] != ""]
    table = table[table["error"] == ""].copy()
    keys = [name for name in configuration_of(table) if name != "clip"]
    if len(failed):
        marked = failed[keys].drop_duplicates().assign(failed=True)
        table = table.merge(marked, on=keys, how="left")
        table = table[table.pop("failed").isna()].reset_index(drop=True)
    if clips <= 1 or table.empty or (table.groupby(keys, dropna=False)["clip"].nunique() != clips).any():
        return table.reset_index(drop=True)
    gated, dense = table["latency_ms"], table["dense_latency_ms"]
    columns = [str(name) for name in table]
    shares = {name: dense if name.startswith("dense") else gated for name in columns if name.endswith("_share")}
    for name, weight in shares.items():
        table[name] *= weight
    table["mac_reduction"] = 1 / table["mac_reduction"]
    means = {name: "mean" if COLUMNS.get(name) == "real" else "first" for name in columns if name not in keys}
    grouped = table.groupby(keys, sort=False, dropna=False)
    mean = grouped.agg(means).reset_index()
    for name in shares:
        mean[name] /= mean["dense_latency_ms" if name.startswith("dense") else "latency_ms"]
    mean["mac_reduction"] = 1 / mean["mac_reduction"]
    mean["speedup"] = mean["dense_latency_ms"] / mean["latency_ms"]
    mean["realised"] = mean["speedup"] / mean["mac_reduction"]
    mean["clip"] = f"{clips} clips"
    mean["group"] = mean["group"].iloc[0] if table["group"].nunique() == 1 else ""
    return mean[columns]


def gated_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with gates, where any of them ran: the dense network is beside each of them."""
    gated = table["gate"] != "none"
    return table[gated] if (gated & (table["error"] == "")).any() else table


def groups_of(table: pd.DataFrame) -> list[str]:
    """Return the groups that a table's clips are counted in, in their order; [] unless there are two or more."""
    groups = [str(name) for name in dict.fromkeys(table["group"])]
    return groups if len(groups) > 1 else []


def clips_of(table: pd.DataFrame, row: Mapping[str, Any]) -> pd.DataFrame:
    """Return the rows of a table, one per clip, of which a row of `mean_over_clips` is the mean."""
    own = table["error"] == ""
    for name in configuration_of(table):
        if name != "clip" or row["clip"] in set(table["clip"]):
            own &= table[name].isna() if pd.isna(row[name]) else table[name] == row[name]
    return table[own.fillna(False)]

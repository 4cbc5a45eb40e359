"""PanelWriter: one network on one machine as data for the page; traces are opened and runs simulated here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from skipsim.analysis.advice.decision import Decision, decide
from skipsim.analysis.loops import describe_gaps, loop_gaps
from skipsim.analysis.report.lanes import lanes_of, page_lanes
from skipsim.analysis.report.player import masks_of, pictures_of
from skipsim.analysis.report.runs import Panel, Run, plain, run_data, shown_in_full
from skipsim.analysis.results import RECORDING_COLUMNS, mean_over_clips
from skipsim.analysis.run_detail import detail_of, layers_of, machine_facts, middle_frame
from skipsim.analysis.running.machines import machine_of
from skipsim.errors import InputError
from skipsim.simulator.report import Report
from skipsim.simulator.schedule import dense_schedule, gated_schedule
from skipsim.simulator.simulate import parse_tile, simulate, simulate_gated
from skipsim.simulator.timeline import write_timeline
from skipsim.traces.trace import Trace, load_trace

MASK_BYTES = 2_500_000  # packed, of all recordings together; those of the recommended runs come first
PICTURE_BYTES = 1_500_000
DENSE = "dense"  # the name of the dense schedule among the runs of a panel


class PanelWriter:
    """Turns panels into data; `masks`, `clips` and `files` fill up as it does."""

    def __init__(
        self,
        directory: Path,
        timelines: Path,
        provenance: dict[str, Any],
        table: pd.DataFrame,
        max_drop: float,
        detailed: int,
        decisions: Mapping[tuple[str, str], Decision],
    ) -> None:
        self.masks: dict[str, dict[str, Any]] = {}
        self.clips: dict[str, list[str]] = {}
        self.files: list[Path] = []
        self._directory = directory
        self._timelines = timelines
        self._entries = {entry["trace_hash"]: entry for entry in provenance["recordings"]}
        self._table = table
        self._max_drop = max_drop
        self._detailed = detailed
        self._decisions = decisions
        self._traces: dict[str, Trace] = {}

    def panel(self, panel: Panel) -> dict[str, Any]:
        """Return all that the page shows of one panel."""
        number, decision = self._decision(panel)
        full, detailed = shown_in_full(panel, [] if number is None else [number], self._detailed, self._max_drop)
        details: dict[str, Any] = {}
        timelines: dict[str, Any] = {}
        masks: dict[str, list[str]] = {}
        first = panel.runs[number if number is not None else full[0]]
        for place in sorted(detailed, key=lambda place: (place != number, place)):
            run = panel.runs[place]
            traces, reports = self._simulated(panel, run)
            details[str(place)] = detail_of(reports)
            if place in full:
                timelines |= self._timeline(panel, str(place), traces[0], reports[0])
                masks[str(place)] = self._masks_of(run)
        hardware = machine_of(self._directory, first.row, panel.overrides)
        trace = self._open(first.clips.iloc[0]["trace_hash"])
        dense = simulate(trace, hardware, dense=True)
        details[DENSE] = detail_of([dense])
        timelines |= self._timeline(panel, DENSE, trace, dense)
        return {
            "network": panel.network,
            "hardware": panel.hardware,
            "machine": machine_facts(hardware),
            "overrides": list(panel.overrides),
            "metric": str(first.row["quality_metric"]),
            "layers": layers_of(trace.layers),
            "runs": [run_data(run, panel.overrides) for run in panel.runs],
            "recommended": number,
            "decision": decision,
            "details": details,
            "timelines": timelines,
            "masks": masks,
            "clips": [str(name) for name in first.clips["clip"]],
            "left_out": panel.left_out,
            "failed": panel.failed,
            "loops": self._loops(panel),
        }

    def _loops(self, panel: Panel) -> dict[str, Any] | None:
        """Return how far open loop is from closed, configuration by configuration; None without both."""
        own = (self._table["network"] == panel.network) & (self._table["hardware"] == panel.hardware)
        rows = mean_over_clips(self._table[own])
        gaps = loop_gaps(rows)
        if gaps.empty:
            return None
        percent = {"density": 100 * gaps["density_gap"], "latency": 100 * (gaps["latency_ratio"] - 1)}
        values = {**percent, "quality": gaps["quality_gap"], "threshold": gaps["threshold"]}
        return {
            "words": describe_gaps(rows),
            **{name: [plain(value) for value in column] for name, column in values.items()},
            **{name: [str(value) for value in gaps[name]] for name in ("block", "tile")},
        }

    def _decision(self, panel: Panel) -> tuple[int | None, dict[str, Any]]:
        """Return the recommended run's place and the decision, or the reason why there is none."""
        decision = self._decisions.get((panel.network, panel.hardware))
        if decision is None:
            try:
                decision = decide(
                    self._directory, self._table, panel.hardware, self._max_drop, network=panel.network, by_layer=False
                )
            except InputError as error:
                return None, {"none": str(error).removeprefix("recommend: ")}
        number = _place(panel, decision.answer.row)
        if number is None:
            return None, {"none": "the recommended run is not among those shown"}
        return number, decision.to_dict()

    def _simulated(self, panel: Panel, run: Run) -> tuple[list[Trace], list[Report]]:
        """Simulate a run on all of its clips."""
        traces = [self._open(name) for name in run.clips["trace_hash"]]
        hardware = machine_of(self._directory, run.row, panel.overrides)
        column = "chosen_tile" if run.row["tile"] == "auto" else "tile"
        tiles = ["auto" if tile == DENSE else str(tile) for tile in run.clips[column]]  # of a network without gates
        return traces, [simulate_gated(trace, hardware, tile) for trace, tile in zip(traces, tiles, strict=True)]

    def _timeline(self, panel: Panel, name: str, trace: Trace, report: Report) -> dict[str, Any]:
        """Write a run's timeline for Perfetto, and return it as lanes under its name; a measured machine has none."""
        hardware, frame = report.hardware, middle_frame(report, trace)
        if hardware.processor is not None:
            return {}
        size = report.tiling or parse_tile("auto" if DENSE in (name, report.tile) else report.tile)
        schedule = dense_schedule(trace, hardware) if size is None else gated_schedule(trace, hardware, size)
        self._timelines.mkdir(exist_ok=True)
        file = self._timelines / f"{_file_name(panel.network)}-{_file_name(panel.hardware)}-{name}.json.gz"
        write_timeline(file, schedule, frame)
        self.files.append(file)
        where = {"frame": frame, "cores": hardware.cores, "file": f"{self._timelines.name}/{file.name}"}
        return {name: page_lanes(lanes_of(schedule, frame), hardware.clock_hz) | where}

    def _masks_of(self, run: Run) -> list[str]:
        """Collect the masks and the clips of a run; return the keys of its masks, one per clip, while there is room."""
        keys = []
        for trace_hash, clip in zip(run.clips["trace_hash"], run.clips["clip"], strict=True):
            key = str(trace_hash)[:16]
            if key not in self.masks:
                if sum(len(one["packed"]) for one in self.masks.values()) > MASK_BYTES:
                    continue
                self.masks[key] = masks_of(self._open(trace_hash)) | {"clip": str(clip)}
            self._show_clip(str(clip), trace_hash)
            keys.append(key)
        return keys

    def _show_clip(self, clip: str, trace_hash: str) -> None:
        used = sum(len(picture) for pictures in self.clips.values() for picture in pictures)
        if clip not in self.clips and used < PICTURE_BYTES:
            self.clips[clip] = pictures_of(self._entries[trace_hash])

    def _open(self, trace_hash: str) -> Trace:
        if trace_hash not in self._entries:
            raise InputError(f"{self._directory / 'provenance.json'}: does not name the trace of {trace_hash[:12]}...")
        if trace_hash not in self._traces:
            self._traces[trace_hash] = load_trace(self._directory / self._entries[trace_hash]["trace"])
        return self._traces[trace_hash]


def _place(panel: Panel, row: dict[str, Any]) -> int | None:
    """Return which run a recommendation's row is."""
    names = [name for name in (*RECORDING_COLUMNS, "tile", *panel.overrides) if name != "threshold"]
    for number, run in enumerate(panel.runs):
        same = all(str(run.row[name]) == str(row[name]) for name in names)
        if same and plain(run.row["threshold"]) == plain(row["threshold"]):
            return number
    return None


def _file_name(text: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in text)

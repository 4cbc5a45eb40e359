"""Accuracy against MAC reduction: every gate, block, update form and alternative on the same labelled clips.

    python -m skipsim.analysis.accuracy docs/accuracy.csv [--task pose] [--models DIR]

Thresholds are chosen on validation clips and scored on test clips, by camera: of all that lose at most half a point of
the strict metric there, the one that saves most. The main rows are stricter, since the score of few clips is a coarse
measure: the whole 95 % interval of the loss, over samples of the choice clips, must lie below half a point ("sure"),
and the choice is scored on 200 clips that nobody had seen ("many"), with an interval too. AP of as many clips is
coarser still: there the threshold is the one that saves what is aimed at ("saving"), so that no loss had a part in the
choice, and the loss of 120 unseen clips says whether the aim is met. Thresholds
by layer ("tuned") follow from the damage that skipping does on training clips (see traces/tune.py); what is chosen is
the MAC reduction that they aim at. Every point is one row of the file, which is kept after each one: killed and started
again, the same command computes what is missing.

Networks come with skipsim, or from --models: NETWORK_seedN.safetensors, and NETWORK_gumbel_B_seedN.safetensors with
gates for blocks of B x B (NETWORK_gumbel_frame_B_... for gates that look at other signals). Points whose network is not
there are left out, and named.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from functools import lru_cache, partial
from io import StringIO
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from skipsim.analysis.accuracy_points import (
    AS_TRAINED,
    CAMERAS,
    CLIPS,
    MOST_SAVING,
    NARROW,
    NETWORKS,
    POINTS_ALLOWED,
    SAMPLED,
    SEEDS,
    SEEDS_OF,
    SMALLER,
    STRICTLY,
    THRESHOLDS,
    Point,
    cameras_of,
    candidates,
    families,
    scored_on,
)
from skipsim.analysis.inputs.gated_network import Gating, gated_network
from skipsim.analysis.sampled_clips import Watched, difference_interval
from skipsim.analysis.tune import chosen, search
from skipsim.atomic import write_text
from skipsim.errors import InputError
from skipsim.traces.models import MODELS, WEIGHTS
from skipsim.traces.video import shrink


class Bench:
    """Networks, clips and dense results, made once; measures points."""

    def __init__(self, models: Path | None) -> None:
        self._models = models
        self.clips = lru_cache(maxsize=None)(self._clips)
        self.dense = lru_cache(maxsize=None)(self._dense)
        self.curves = lru_cache(maxsize=1)(self._curves)

    def weights(self, point: Point) -> Path | None:
        """Return the file of a point's network, with its gates where it has any; None if it is not there."""
        name = NARROW[point.task] if point.method == "narrow" else NETWORKS[point.task]
        if point.method == "resolution_trained":
            name += "_sizes"
        if point.method.startswith("gumbel"):
            name += f"_{'gumbel' if point.method == AS_TRAINED else point.method}_{point.block}"
        shipped = WEIGHTS / f"{name}.safetensors"
        given = self._models / f"{name}_seed{point.seed}.safetensors" if self._models else None
        for file in (given, shipped if point.seed == 0 else None):
            if file is not None and file.is_file():
                return file
        return None

    def measure(self, point: Point) -> dict[str, Any]:
        """Run a point; return its row."""
        from skipsim.traces.record import record

        clips, file = self.clips(point.task, point.split, point.camera), self.weights(point)
        metric, dense_score, dense_macs, dense = self.dense(point.task, point.seed, point.split, point.camera)
        name = NARROW[point.task] if point.method == "narrow" else NETWORKS[point.task]
        gate = _gate_of(point.method)
        if gate == "gumbel":  # gates that were trained alone need the network that they were trained for
            gate, file = str(file), self.weights(replace(point, method="none"))
        gating = Gating(
            gate,
            threshold=None if gate == "none" else self.threshold(point),
            block=None if gate == "none" else (point.block, point.block),
            update=point.update,
            reset_every=point.reset_every or None,
            share=point.share if gate.endswith("norm") else None,
        )
        frames = [frame for clip in clips for frame in clip.frames]
        if point.method in SMALLER:
            frames = [shrink(frame, point.threshold or 1.0) for frame in frames]
        scorer = _scorer(point.task, clips, frames[0].shape, watched=dense is not None)
        trace = record(
            gated_network(name, gating, file),
            frames,
            cuts=[number * len(clips[0].frames) for number in range(1, len(clips))],
            quality=scorer,
            progress=False,
        )
        score = trace.quality[metric]
        ends = (None, None) if dense is None else difference_interval(dense, scorer.samples())
        low, high = (None if end is None else round(100 * end, 3) for end in ends)
        return {
            **asdict(point),
            "metric": metric,
            "score": round(score, 5),
            "dense_score": round(dense_score, 5),
            "drop_points": round(100 * (dense_score - score), 3),
            "mac_reduction": round(dense_macs * trace.frames / trace.macs, 4),
            "gated_mac_reduction": round(trace.gated_mac_reduction * dense_macs * trace.frames / trace.dense_macs, 4),
            "clips": len(clips),
            "frames": trace.frames,
            "drop_low": low,
            "drop_high": high,
        }

    def threshold(self, point: Point) -> Any:
        """Return what a point's gate takes as threshold."""
        if point.method != "tuned" or point.threshold is None:
            return point.threshold
        from skipsim.traces.tune import thresholds_for

        return thresholds_for(self.curves(point.task, point.seed, point.block, point.camera), point.threshold)

    def _clips(self, task: str, split: str, camera: str) -> list[Any]:
        from skipsim.traces.train import TASKS

        count, frames, first = CLIPS[task, split]
        model = MODELS[NETWORKS[task]]
        options = {"frames": frames, "rows": model.rows, "cols": model.cols}
        made = partial(TASKS[task].clips, SEEDS_OF.get(split, split), 1, **options)
        turns = range(first + CAMERAS.index(camera), first + 2 * count, len(CAMERAS))  # cameras come in turn
        return [clip for position in turns for clip in made(first=position)]

    def _curves(self, task: str, seed: int, block: int, camera: str) -> Any:
        """Measure on training clips what skipping harms in every layer."""
        from skipsim.traces.gates import InputNormGate
        from skipsim.traces.train import TASKS, make_plan
        from skipsim.traces.tune import damage_curves, labelled

        clips, plan = self.clips(task, "train", camera), make_plan(TASKS[task], {}, {})
        network = gated_network(NETWORKS[task], Gating("none"), self.weights(Point(task, seed, "none")))
        return damage_curves(
            network,
            [frame for clip in clips for frame in clip.frames],
            labelled(
                [TASKS[task].labels(clip) for clip in clips],
                lambda output, *labels: TASKS[task].loss(output, labels, plan),
            ),
            InputNormGate(0.0, block),
            cuts=[number * len(clips[0].frames) for number in range(1, len(clips))],
        )

    def _dense(
        self, task: str, seed: int, split: str, camera: str
    ) -> tuple[str, float, int, NDArray[np.float64] | None]:
        """Return of the dense network (strict metric, score, MACs of a frame, scores of samples where drawn)."""
        from skipsim.traces.record import record

        clips, point = self.clips(task, split, camera), Point(task, seed, "none")
        scorer = _scorer(task, clips, clips[0].frames.shape[1:], watched=split in SAMPLED)
        trace = record(
            gated_network(NETWORKS[task], Gating("none"), self.weights(point)),
            [frame for clip in clips for frame in clip.frames],
            quality=scorer,
            progress=False,
        )
        metric = trace.quality["headline"]
        samples = scorer.samples() if split in SAMPLED else None
        return metric, trace.quality[metric], trace.dense_macs // trace.frames, samples


def _gate_of(method: str) -> str:
    """Return the gate of a method, "none" for those that change what goes into the network."""
    if method.startswith("gumbel"):
        return "gumbel"
    if method == "tuned":
        return "input_norm"
    return method if method in (*THRESHOLDS, "hold") else "none"


def _scorer(task: str, clips: Sequence[Any], shape: Sequence[int], watched: bool = False) -> Any:
    """Return what scores a network that sees frames as [rows, cols, 3]; watched: samples of the clips too."""
    from skipsim.traces.average_precision import DetectionScorer
    from skipsim.traces.train import TASKS

    scorer: Any = TASKS[task].scorer(clips)
    if isinstance(scorer, DetectionScorer):
        scorer = replace(scorer, rows=shape[0], cols=shape[1])
    return Watched(scorer, clips) if watched else scorer


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a table that exists; none if it doesn't."""
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = list(csv.DictReader(path.open(encoding="utf-8", newline="")))
    wanted = {field.name for field in fields(Point)}
    if rows and not wanted <= set(rows[0]):
        raise InputError(f"{path}: not a table of accuracies; columns needed: {', '.join(sorted(wanted))}")
    return rows


def judged(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with its loss as a choice sees it.

    On "sure" clips the upper end of its interval, on "saving" clips what it saves beyond MOST_SAVING.
    """
    if row["split"] == "saving":
        return {**row, "drop_points": POINTS_ALLOWED + float(row["mac_reduction"]) - MOST_SAVING}
    return {**row, "drop_points": row["drop_high"]} if row["split"] == "sure" else row


class Table:
    """The file of rows, kept after each one."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, read_rows(path)
        self._found = {self._key(row): row for row in self.rows}

    def find(self, point: Point) -> dict[str, Any] | None:
        """Return a point's row, None if it has none yet."""
        return self._found.get(point.key())

    def add(self, row: dict[str, Any]) -> None:
        """Write a row."""
        self.rows.append(row)
        self._found[self._key(row)] = row
        text = StringIO()
        writer = csv.DictWriter(text, list(self.rows[-1]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path, text.getvalue())

    @staticmethod
    def _key(row: dict[str, Any]) -> tuple[str, ...]:
        return tuple("" if row[field.name] is None else str(row[field.name]) for field in fields(Point))


def run(
    path: Path,
    tasks: Sequence[str],
    models: Path | None,
    seeds: Sequence[int] = SEEDS,
    methods: Sequence[str] = (),
    cameras: Sequence[str] = CAMERAS,
    also: Sequence[str] = (),
    say: Any = click.echo,
) -> None:
    """Measure what is missing in the table, of some methods or all; strict choices on other clips `also`."""
    table, bench, absent = Table(path), Bench(models), set()

    def measured(point: Point) -> dict[str, Any]:
        row = table.find(point)
        if row is None:
            row = bench.measure(point)
            table.add(row)
            words = " ".join(part for part in point.key() if part)
            say(f"{words}: {row['drop_points']:+} points, {row['mac_reduction']}x")
        return row

    for family in (family for task in tasks for family in families(task) if family.seed in seeds):
        if methods and family.method not in methods:
            continue
        if bench.weights(family) is None or bench.weights(replace(family, method="none")) is None:
            absent.add(f"{family.task} {family.method} b={family.block} seed {family.seed}")
            continue
        for camera in (camera for camera in cameras_of(family) if camera in cameras):
            ladder = [replace(one, camera=camera) for one in candidates(family)]
            best = ladder[0]
            if len(ladder) > 1:
                rows = search(lambda point: judged(measured(point)), ladder, POINTS_ALLOWED)
                best = replace(best, threshold=float(chosen(rows, POINTS_ALLOWED)["threshold"]))
            for split in (scored_on(family), *(also if family.split in STRICTLY.values() else ())):
                measured(replace(best, split=split))
    for name in sorted(absent):
        say(f"left out, no weights: {name}")


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--task", "tasks", multiple=True, type=click.Choice(list(NETWORKS)), help="Default: all.")
@click.option("--models", type=click.Path(path_type=Path, exists=True), help="Folder of networks of other seeds.")
@click.option("--seed", "seeds", multiple=True, type=click.Choice(SEEDS), help="Networks of these seeds; default: all.")
@click.option("--method", "methods", multiple=True, help="Ways of gating; default: all.")
@click.option("--camera", "cameras", multiple=True, type=click.Choice(CAMERAS), help="Default: all.")
@click.option("--also", multiple=True, type=click.Choice(SAMPLED), help="Score strict choices on these clips too.")
def main(path: Path, models: Path | None, tasks: Sequence[str], cameras: Sequence[str], **chosen: Any) -> None:
    """Measure accuracy and MAC reduction of every gate and alternative; goes on after a kill."""
    seeds, methods = chosen["seeds"] or SEEDS, chosen["methods"]
    run(path, tasks or list(NETWORKS), models, seeds, methods, cameras or CAMERAS, chosen["also"])


if __name__ == "__main__":
    main()

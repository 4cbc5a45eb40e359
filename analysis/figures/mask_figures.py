"""Gate masks over the frames that they belong to: what is computed in full colour, what is skipped pale."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from skipsim.analysis.advice.budget import MAX_DROP_POINTS
from skipsim.analysis.figures.style import INK, PAGE_INCHES, VERMILION, styled
from skipsim.analysis.figures.variants import blocks_of
from skipsim.analysis.inputs.clips import load_clip
from skipsim.analysis.loops import decisive_rows
from skipsim.analysis.results import mean_over_clips
from skipsim.analysis.running.provenance import entries_of
from skipsim.errors import InputError
from skipsim.traces.layer import Layer
from skipsim.traces.trace import Trace, load_trace

Frame = NDArray[np.uint8]
GATE_COLUMNS = ("network", "gate", "threshold", "update", "reset_every")
MOST_ROWS = 4
MOST_FRAMES = 5
LINE_LETTERS = 20  # of a label beside the pictures
LETTER_INCHES = 0.062
PALE_SHARE = 0.72  # of white in what is skipped

CAPTION = "outlined: computed; pale: skipped; in the corner: computed share of the map"


@dataclass(frozen=True)
class _Row:
    """One row of pictures: the masks of one layer of one trace."""

    label: str
    trace: Trace
    layer: int


def masks_of_layers(
    trace: Trace,
    frames: Sequence[Frame] | None = None,
    *,
    layers: Sequence[str | int | tuple[str, int]] | None = None,
    shown: Sequence[int] | None = None,
) -> Figure:
    """Draw the masks of some layers on some frames.

    Args:
        trace: the recording.
        frames: its clip, uint8 [rows, cols, 3] each; None: masks without pictures.
        layers: by index, name or (name, call); None: one of each map size, the largest four sizes.
        shown: frame numbers; None: five gated frames, evenly spread.
    """
    chosen = _one_per_size(trace.layers) if layers is None else [trace.index(layer) for layer in layers]
    return _draw([_Row(_layer_label(trace.layers[index]), trace, index) for index in chosen], frames, shown, CAPTION)


def masks_by_block(
    traces: Sequence[Trace], frames: Sequence[Frame] | None = None, *, shown: Sequence[int] | None = None
) -> Figure:
    """Draw the masks of one layer, recorded with different block sizes, on some frames.

    The layer is the first with a gate in the first trace; traces are of one network and one clip.
    """
    gated = [place for place in _one_per_size(traces[0].layers) if all(t.layers[place].gate != "none" for t in traces)]
    layer = gated[0] if gated else _one_per_size(traces[0].layers)[0]
    rows = []
    for trace in traces:
        one = trace.layers[layer]
        rows.append(_Row(f"block {one.block_rows} x {one.block_cols}", trace, layer))
    return _draw(rows, frames, shown, f"layer {traces[0].layers[layer].name}; {CAPTION}")


def mask_figures(directory: Path, table: pd.DataFrame, max_drop: float = MAX_DROP_POINTS) -> dict[str, Figure]:
    """Return the mask figures of a study: layers of one recording, and block sizes at one threshold.

    The recording is that of the first clip, with the gates that skip most within `max_drop` points of dense accuracy
    on average over the clips. Where frames cannot be read any more, masks are drawn without pictures.
    """
    gated = ~table["gate"].isin(("none", "hold"))
    rows = decisive_rows(table[(table["error"] == "") & gated]).drop_duplicates("trace_hash")
    if rows.empty:
        return {}
    mean = mean_over_clips(rows)
    allowed = mean[~(mean["quality_drop"] > max_drop)]
    most = (allowed if len(allowed) else mean).sort_values("mac_reduction", ascending=False, kind="stable").iloc[0]
    best = _alike(rows, most, (*GATE_COLUMNS, "block")).iloc[0]
    entries = entries_of(directory)
    if best["trace_hash"] not in entries:
        raise InputError(f"{directory / 'provenance.json'}: does not name the trace of {best['trace_hash'][:12]}...")
    entry = entries[best["trace_hash"]]
    frames = _frames(entry)
    trace = load_trace(directory / entry["trace"])
    figures = {"gate-masks": masks_of_layers(trace, frames)}
    same = _alike(rows, best, (*GATE_COLUMNS, "clip"))
    order = list(blocks_of(same))
    same = same[same["block"] != "mixed"].sort_values("block", key=lambda names: names.map(order.index), kind="stable")
    if len(same) > 1 and same["block"].is_unique and entry.get("clip"):
        traces = [load_trace(directory / entries[found]["trace"]) for found in same["trace_hash"]]
        figures["gate-masks-by-block"] = masks_by_block(traces, frames)
    return figures


def _alike(rows: pd.DataFrame, one: pd.Series[Any], columns: Sequence[str]) -> pd.DataFrame:
    """Return the rows that have the values of one in some columns; missing values are alike."""
    for name in columns:
        rows = rows[rows[name].isna() if pd.isna(one[name]) else rows[name] == one[name]]
    return rows


def _frames(entry: dict[str, Any]) -> list[Frame] | None:
    """Read the frames of a recording again; None where there are none, as of synthetic masks."""
    if not entry.get("clip"):
        return None
    size = tuple(entry["size"]) if entry["size"] else None
    try:
        return list(load_clip(entry["clip"], entry["frames"], size).frames)
    except InputError:
        return None


def _one_per_size(layers: Sequence[Layer]) -> list[int]:
    """Return one gated layer of every map size, the middle one in order, largest maps first."""
    by_size: dict[tuple[int, int], list[int]] = {}
    gated = [index for index, layer in enumerate(layers) if layer.gate != "none"] or list(range(len(layers)))
    for index in gated:
        by_size.setdefault((layers[index].out_rows, layers[index].out_cols), []).append(index)
    sizes = sorted(by_size, key=lambda size: -size[0] * size[1])
    return [by_size[size][len(by_size[size]) // 2] for size in sizes[:MOST_ROWS]]


def _layer_label(layer: Layer) -> str:
    name = layer.name
    dots = [place for place, letter in enumerate(name) if letter == "."]
    if len(name) > LINE_LETTERS and dots:
        cut = min(dots, key=lambda place: abs(place - len(name) // 2)) + 1
        name = f"{name[:cut]}\n{name[cut:]}"
    return f"{name}\n{layer.out_rows} x {layer.out_cols}, block {layer.block_rows} x {layer.block_cols}"


def _draw(rows: Sequence[_Row], frames: Iterable[Frame] | None, shown: Sequence[int] | None, caption: str) -> Figure:
    first = rows[0].trace
    pictures = None if frames is None else list(frames)
    if pictures is not None and len(pictures) < first.frames:
        raise InputError(f"mask figure: the trace has {first.frames} frames, the clip only {len(pictures)}")
    chosen = _gated_frames(first) if shown is None else list(shown)
    layer = first.layers[rows[0].layer]
    shape = (layer.out_rows, layer.out_cols) if pictures is None else pictures[0].shape[:2]
    label_inches = 0.15 + LETTER_INCHES * max(len(line) for row in rows for line in row.label.splitlines())
    side = (PAGE_INCHES - label_inches) / len(chosen)
    with styled():
        height = len(rows) * (side * shape[0] / shape[1] + 0.03) + 0.5
        layout = ConstrainedLayoutEngine(w_pad=0.015, h_pad=0.015, wspace=0.0, hspace=0.0)
        figure = Figure(figsize=(PAGE_INCHES, height), layout=layout)
        grid = figure.subplots(len(rows), len(chosen), squeeze=False)
        for axes, row in zip(grid, rows, strict=True):
            axes[0].set_ylabel(row.label, rotation=0, ha="right", va="center", fontsize=7.5)
            for axis, frame in zip(axes, chosen, strict=True):
                _mask_panel(axis, row, frame, None if pictures is None else pictures[frame], shape)
        for axis, frame in zip(grid[0], chosen, strict=True):
            axis.set_title(f"frame {frame}", fontweight="normal")
        figure.supxlabel(caption, fontsize=7.5)
        return figure


def _gated_frames(trace: Trace) -> list[int]:
    gated = [frame for frame in range(trace.frames) if not trace.reference(frame)] or list(range(trace.frames))
    count = min(MOST_FRAMES, len(gated))
    return [gated[round((place + 0.5) * len(gated) / count - 0.5)] for place in range(count)]


def _mask_panel(axis: Axes, row: _Row, frame: int, picture: Frame | None, shape: tuple[int, int]) -> None:
    """Draw one mask over one frame; coordinates are pixels of the picture."""
    layer, mask = row.trace.layers[row.layer], row.trace.mask(row.layer, frame)
    image = np.full((*shape, 3), 170, np.uint8) if picture is None else picture
    rows = _centres(shape[0], layer.out_rows) // layer.block_rows
    cols = _centres(shape[1], layer.out_cols) // layer.block_cols
    computed = mask[np.ix_(rows, cols)][..., None]
    pale = 255 * PALE_SHARE + (1 - PALE_SHARE) * image.mean(axis=2, keepdims=True)
    axis.imshow(
        np.where(computed, image, pale).astype(np.uint8), extent=(0, shape[1], shape[0], 0), interpolation="nearest"
    )
    down = np.append(np.arange(layer.grid_rows) * layer.block_rows, layer.out_rows) * (shape[0] / layer.out_rows)
    across = np.append(np.arange(layer.grid_cols) * layer.block_cols, layer.out_cols) * (shape[1] / layer.out_cols)
    axis.add_collection(LineCollection(_outline(mask, down, across), colors=VERMILION, linewidths=0.6))
    axis.text(
        0.97,
        0.04,
        f"{row.trace.density(row.layer, frame):.0%}",
        transform=axis.transAxes,
        ha="right",
        va="bottom",
        fontsize=6.5,
        color=INK,
        bbox={"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 1.0},
    )
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(visible=False)
    for spine in axis.spines.values():
        spine.set_visible(True)
        spine.set_linewidth(0.5)


def _centres(pixels: int, out: int) -> NDArray[np.intp]:
    """Return for each picture row (or column) the output row that covers its centre."""
    return ((2 * np.arange(pixels) + 1) * out) // (2 * pixels)


def _outline(mask: NDArray[np.bool_], down: NDArray[Any], across: NDArray[Any]) -> list[list[tuple[float, float]]]:
    """Return the borders between computed and skipped blocks as line segments."""
    framed = np.pad(mask, 1)
    segments = []
    for row, col in np.argwhere(framed[1:, 1:-1] != framed[:-1, 1:-1]):
        segments.append([(across[col], down[row]), (across[col + 1], down[row])])
    for row, col in np.argwhere(framed[1:-1, 1:] != framed[1:-1, :-1]):
        segments.append([(across[col], down[row]), (across[col], down[row + 1])])
    return segments

"""record_clip: a network and a clip, both by name, to a trace on disk."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from pathlib import Path

from skipsim.analysis.inputs.clips import load_clip
from skipsim.analysis.inputs.gated_network import Gating, gated_network
from skipsim.analysis.inputs.labels import box_labels, label_scorer, quality_of
from skipsim.analysis.inputs.networks import check_network_name
from skipsim.errors import InputError
from skipsim.traces.trace import Trace
from skipsim.traces.video import read_frames


def record_clip(
    network: str,
    clip: str,
    out: str | Path,
    gating: Gating,
    *,
    frames: int | None = None,
    size: tuple[int, int] | None = None,
    weights: str | Path | None = None,
    labels: str | Path | None = None,
    agreement: bool = True,
) -> Trace:
    """Record a clip and write the trace; whatever can be wrong is checked before the first frame runs.

    Args:
        network: a registered name, or "package.module:factory" with modules of the current folder.
        clip: what `load_clip` takes; procedural clips are scored by themselves.
        out: the trace's folder.
        gating: the gate and how it is used.
        frames: at most so many of every clip.
        size: (rows, cols) to resize frames to; None: a registered network's usual size, otherwise as they are.
        weights: a file; None: those that ship with the network, or that the factory gave it.
        labels: of an own clip: joints in an .npz file, see `label_scorer`, or boxes in COCO's .json.
        agreement: whether to run the dense network beside it and compare.
    """
    check_network_name(network)
    loaded = load_clip(clip, frames, size, network)
    pictures = iter(loaded.frames)
    first = next(pictures)
    if labels is not None and (loaded.labelled or loaded.boxes):
        raise InputError(f"labels {labels}: clip {clip!r} has labels of its own")
    given = None
    if labels is not None:
        rows, cols = next(read_frames(clip, limit=1)).shape[:2]
        if Path(labels).suffix == ".json":
            boxes = box_labels(labels, frames)
            if (boxes.rows, boxes.cols) != (rows, cols):
                given_size = f"{boxes.rows} x {boxes.cols}"
                raise InputError(
                    f"labels {labels}: are for frames of {given_size}, those of {clip} are {rows} x {cols}"
                )
            loaded = replace(loaded, boxes=(boxes,))
        else:
            given = label_scorer(labels, rows, cols, frames)

    from skipsim.traces.record import record

    model = gated_network(network, gating, weights)
    if labels is not None and loaded.boxes and not callable(getattr(model, "detect", None)):
        raise InputError(f"labels {labels}: boxes need a network with a method detect (see README); {network} has none")
    return record(
        model,
        chain([first], pictures),
        update=gating.update,
        cuts=loaded.cuts,
        out=out,
        quality=quality_of(loaded, model) if given is None else given,
        agreement=agreement and gating.gate != "none",
        network=network,
    )

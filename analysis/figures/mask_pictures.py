"""draw_masks: the masks of one trace over its clip, into a picture file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from skipsim.analysis.figures.mask_figures import masks_of_layers
from skipsim.analysis.figures.style import PNG_DPI, styled
from skipsim.analysis.inputs.clips import load_clip
from skipsim.atomic import replacing
from skipsim.errors import InputError
from skipsim.traces.trace import Trace

SUFFIXES = (".png", ".pdf", ".svg")


def draw_masks(
    trace: Trace, out: Path, *, video: str | None = None, layers: Sequence[str] = (), shown: Sequence[int] = ()
) -> None:
    """Draw the masks of some layers on some frames, whole or not at all.

    Args:
        trace: the recording.
        out: the picture; .png, .pdf or .svg.
        video: the clip that was recorded; None: masks without pictures.
        layers: names; none: one layer of each map size.
        shown: frame numbers; none: five gated frames.
    """
    if out.suffix not in SUFFIXES:
        raise InputError(f"picture {out}: must end in {', '.join(SUFFIXES)}, got {out.suffix!r}")
    for frame in shown:
        trace.reference(frame)  # says which frames there are
    frames = None
    if video is not None:
        starts = [*trace.origin.get("clip_starts", [0]), trace.frames]  # of a recording of several clips
        size = tuple(trace.origin.get("input", ())[-2:])
        frames = list(load_clip(video, starts[1], size if len(size) == 2 else None).frames)
    figure = masks_of_layers(trace, frames, layers=layers or None, shown=shown or None)
    with styled(), replacing(out) as temporary:
        figure.savefig(temporary, dpi=PNG_DPI)

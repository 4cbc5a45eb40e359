"""Is a recorded trace intact, byte by byte?"""

from __future__ import annotations

from pathlib import Path

from skipsim.errors import InputError
from skipsim.traces import trace_files
from skipsim.traces.trace import load_trace


def check(path: str | Path) -> list[str]:
    """Read a whole trace directory and return what is wrong, one line per finding; an empty list: it is intact.

    Every byte of the manifest and of the segments is covered by a checksum. Where no manifest can be read at all there
    is nothing to check against: InputError.
    """
    path = Path(path)
    manifest = trace_files.read_manifest(path)
    width = trace_files.byte_offsets(manifest.layers)[-1]
    findings = []
    start = 0
    for segment in manifest.segments:
        file = path / segment.file
        try:
            rows = trace_files.open_segment(path, segment, width)
            if trace_files.file_sha256(file) != segment.sha256:
                raise InputError(f"{file}: damaged: its content does not match its sha256")
            for frame in segment.reference:
                trace_files.check_reference(manifest.layers, rows[frame - start], frame, f"{file}, ")
        except InputError as error:
            findings.append(str(error))
        start += segment.frames
    if not findings:
        load_trace(path)
    return findings

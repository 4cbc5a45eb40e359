"""What a study's results came from: versions, hashes, command lines, and where every trace and its clip lie."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from skipsim.errors import InputError

PROVENANCE = "provenance.json"


def command_line() -> str:
    """Return the command that runs, as it can be typed again."""
    program = Path(sys.argv[0]).name
    return shlex.join(["skipsim" if program == "__main__.py" else program, *sys.argv[1:]])


def provenance_of(directory: Path) -> dict[str, Any]:
    """Read the provenance of a finished study."""
    file = directory / PROVENANCE
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        found["recordings"][:0]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: not the provenance of a sweep: {error}") from None
    return found


def entries_of(directory: Path) -> dict[str, dict[str, Any]]:
    """Return where every trace and its clip lie, by the trace's hash."""
    return {entry["trace_hash"]: entry for entry in provenance_of(directory)["recordings"]}

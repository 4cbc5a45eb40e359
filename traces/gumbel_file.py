"""What a weights file says about the Gumbel gates in it, read without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from skipsim.errors import InputError

HEADER = "gumbel_gate"  # the entry of the safetensors header


def read_header(path: str | Path) -> dict[str, Any]:
    """Return what a weights file says about its gates: {} where it has none."""
    try:
        with safe_open(path, "np") as file:
            found: dict[str, Any] = json.loads((file.metadata() or {}).get(HEADER, "{}"))
    except FileNotFoundError:
        raise InputError(f"weights {path}: no such file") from None
    except SafetensorError as error:
        raise InputError(f"weights {path}: not a whole safetensors file ({error})") from None
    return found

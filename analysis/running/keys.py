"""Keys: the content of a simulation as one hash, so that nothing is computed twice and nothing stale is taken."""

from __future__ import annotations

import hashlib
import json

from skipsim.hwmodels.hardware import Hardware
from skipsim.simulator.tiles import MODEL_VERSION


def machine_hash(hardware: Hardware) -> str:
    """Return the hash of a machine's numbers; its name and sources change no result and are left out."""
    numbers = {
        key: {name: entry for name, entry in value.items() if name != "source"} if isinstance(value, dict) else value
        for key, value in hardware.model_dump().items()
        if key not in ("name", "source") and value is not None
    }
    return hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()


def job_key(trace_hash: str, machine: str, tile: str) -> str:
    """Return the hash that names a simulation: of the trace's content, `machine_hash`, tile and model version."""
    return hashlib.sha256(json.dumps([trace_hash, machine, tile, MODEL_VERSION]).encode()).hexdigest()

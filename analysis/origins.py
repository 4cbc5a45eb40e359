"""origin_differences: what two studies were not made from alike: versions, networks, weights, clips, machines.

Rows of both carry the same names, so their numbers may differ because of what stands behind a name.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from skipsim.analysis.running.machines import FOLDER as MACHINES
from skipsim.analysis.running.provenance import provenance_of
from skipsim.errors import InputError
from skipsim.traces.trace import load_trace

DIGITS = 8  # of a hash
MOST_KEYS = 4  # of a machine that are written out
VERSIONS = ("skipsim", "python")  # the model's stands in every row
Origins = dict[str, dict[str, set[str]]]  # what it is, its name, the hashes behind it


def origin_differences(before: Path, after: Path) -> list[str]:
    """Return one line per difference; of studies without a provenance nothing is known, so there is none."""
    try:
        old, new = provenance_of(before), provenance_of(after)
    except InputError:
        return []
    found = [
        f"{name.replace('_', ' ')} {old.get(name)} -> {new.get(name)}"
        for name in VERSIONS
        if old.get(name) != new.get(name)
    ]
    packages = old.get("packages", {}), new.get("packages", {})
    found += [
        f"{name} {packages[0][name]} -> {packages[1][name]}"
        for name in packages[0]
        if name in packages[1] and packages[0][name] != packages[1][name]
    ]
    one, other = _origins(before, old), _origins(after, new)
    for kind, names in one.items():
        for name, hashes in names.items():
            behind = other.get(kind, {}).get(name)
            if behind and hashes and behind != hashes:
                found.append(f"{kind.format(name)} differ: sha256 {_hashes(hashes)} -> {_hashes(behind)}")
    return [*found, *_machine_differences(before / MACHINES, after / MACHINES)]


def _origins(directory: Path, provenance: Mapping[str, Any]) -> Origins:
    """Collect the hashes behind the names of networks and clips, from the provenance and from the traces."""
    origins: Origins = {}

    def add(kind: str, name: str, value: Any) -> None:
        if value:
            origins.setdefault(kind, {}).setdefault(name, set()).add(str(value))

    for entry in provenance["recordings"]:
        content = entry.get("content")
        if not content:
            continue
        network, definition = content["network"]
        add("definitions of network {}", network, definition)
        try:
            origin = load_trace(directory / entry["trace"]).origin
        except InputError:  # the traces are not there any more
            continue
        add("weights of network {}", network, origin.get("weights_sha256"))
        add("frames of clip {}", Path(str(entry["clip"])).name, origin.get("frames_sha256"))
    return origins


def _hashes(found: set[str]) -> str:
    shown = sorted(found)
    return f"{shown[0][:DIGITS]}..." + (f" and {len(shown) - 1} more" if len(shown) > 1 else "")


def _machine_differences(before: Path, after: Path) -> Iterator[str]:
    """Yield a line for every machine that both have, with numbers that differ."""
    for file in sorted(before.glob("*.toml")):
        if not (after / file.name).is_file():
            continue
        one, other = (
            dict(_numbers(tomllib.loads(path.read_text(encoding="utf-8")))) for path in (file, after / file.name)
        )
        keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
        if keys:
            shown = [f"{key} {one.get(key)} -> {other.get(key)}" for key in keys[:MOST_KEYS]]
            more = f" and {len(keys) - MOST_KEYS} more" if len(keys) > MOST_KEYS else ""
            yield f"machine {one.get('name', file.stem)}: {', '.join(shown)}{more}"


def _numbers(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values; sources are words."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{key}.")
        elif key != "source":
            yield f"{prefix}{key}", value

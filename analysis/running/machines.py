"""The machines of a study as files in its folder, so that its rows can be simulated again wherever it lies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from skipsim.errors import InputError
from skipsim.hwmodels.hardware import Hardware, load_hardware, machines

FOLDER = "machines"


def save_machines(directory: Path, found: Iterable[Hardware]) -> None:
    """Write every machine once, by name; of several with one name, which differ in overridden keys, the first."""
    folder = directory / FOLDER
    folder.mkdir(exist_ok=True)
    by_name: dict[str, Hardware] = {}
    for machine in found:
        by_name.setdefault(machine.name, machine)
    for name, machine in by_name.items():
        machine.save(folder / _file(name))


def machine_of(directory: Path, row: Mapping[str, Any], overrides: Iterable[str]) -> Hardware:
    """Return the machine of a row of a study's table, with the row's values of overridden keys."""
    name, file = str(row["hardware"]), directory / FOLDER / _file(str(row["hardware"]))
    if file.is_file():
        machine = load_hardware(file)
    elif name in machines():
        machine = load_hardware(name)
    else:
        raise InputError(f"results folder {directory}: machine {name!r} is not in it; run its sweep again")
    changes = {key: _plain(row[key]) for key in overrides}
    return machine.replace(**changes) if changes else machine


def _file(name: str) -> str:
    return f"{quote(name, safe='')}.toml"


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value

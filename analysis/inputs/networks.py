"""Networks by name: registered ones, and the user's own from "package.module:factory"."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from skipsim.errors import InputError, nearest
from skipsim.traces import models


def check_network_name(name: str, folder: str | Path = ".") -> None:
    """Check without torch that a network of that name can be found."""
    if ":" not in name:
        if name not in models.MODELS:
            raise InputError(f"network {name!r} is unknown; {nearest(name, models.MODELS)}; or package.module:factory")
    elif module_file(name, folder) is None:
        raise InputError(f"network {name!r}: no module {name.partition(':')[0]!r} in {folder} or where Python looks")


def build_network(name: str, weights: str | Path | None = None, folder: str | Path = ".") -> Any:
    """Make a network from a registered name or from "package.module:factory", a function without arguments.

    Modules are looked for in `folder`, then where Python looks. Returns an nn.Module in evaluation mode. Weights left
    to chance are the same every time.

    Raises:
        InputError: an unknown network, a factory that fails or returns something else, or weights that do not fit.
    """
    if ":" not in name:
        with _seeded():
            return models.network(name, weights=models.SHIPPED if weights is None else weights)
    module_name, _, factory = name.partition(":")
    with _searching(folder), _forgetting(module_name):
        try:
            make = getattr(importlib.import_module(module_name), factory, None)
        except ModuleNotFoundError as error:
            raise InputError(f"network {name!r}: no module {error.name!r} in {folder} or where Python looks") from None
        if not callable(make):
            raise InputError(f"network {name!r}: module {module_name!r} has no function {factory!r}")
        try:
            inspect.signature(make).bind()
        except TypeError as error:
            raise InputError(f"network {name!r}: the factory must take no arguments: {error}") from None
        try:
            with _seeded():
                model = make()
        except Exception as error:  # the user's own code: where in it, and what
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(place.filename).name}, line {place.lineno}"
            raise InputError(
                f"network {name!r}: the factory failed in {where}: {type(error).__name__}: {error}"
            ) from error
    if not callable(getattr(model, "eval", None)):
        raise InputError(f"network {name!r}: the factory must return an nn.Module, got {type(model).__name__}")
    if weights is not None:
        from skipsim.traces.models.checkpoint import load_weights

        load_weights(model, weights)
    return model.eval()


def _seeded() -> AbstractContextManager[None]:
    if importlib.util.find_spec("torch") is None:
        return nullcontext()  # who needs torch says so
    from skipsim.traces.models.seeded import seeded

    return seeded()


def module_file(name: str, folder: str | Path) -> Path | None:
    """Return the file of the module in "package.module:factory", None if there is no such module."""
    with _searching(folder):
        try:
            found = importlib.util.find_spec(name.partition(":")[0])
        except (ImportError, ValueError):
            return None
    return Path(found.origin) if found and found.origin else None


@contextmanager
def _forgetting(module: str) -> Iterator[None]:
    """Forget a module's package if it is imported inside, so that a process that lives on reads it anew next time.

    Otherwise a file that was changed, or one of the same name in another folder, would be recorded as the old one.
    """
    package, known = module.partition(".")[0], set(sys.modules)
    try:
        yield
    finally:
        for name in set(sys.modules) - known:
            if name.partition(".")[0] == package:
                del sys.modules[name]


@contextmanager
def _searching(folder: str | Path) -> Iterator[None]:
    """Put a folder and the current one in front of Python's module path."""
    added = [str(Path(folder).absolute()), str(Path.cwd())]
    sys.path[:0] = added
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for entry in added:
            sys.path.remove(entry)

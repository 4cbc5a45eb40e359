"""The decorators of compiled code: `compiled`, `inlined` for small functions that compiled ones call, `entry`.

Compiled code is kept between runs in a folder named after the sources it was made from: numba by itself notices a
change of a function's own file, but not of the functions that it calls. Arrays are not reference-counted inside
(`_nrt`), which is five times faster here; so compiled functions are given all arrays that they need and make none.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core import config as numba_config

# numba's type stubs know neither `_nrt` nor that the cache folder can be set.
_njit: Callable[..., Callable[..., Any]] = numba.njit
_cfunc: Callable[..., Callable[..., Any]] = numba.cfunc
_config: Any = numba_config
# LLVM's second level of optimisation runs as fast here as the third and compiles in less time.
os.environ.setdefault("NUMBA_OPT", "2")
_config.reload_config()
_OPTIONS: dict[str, Any] = {"error_model": "numpy", "_nrt": False}
_entries: list[Any] = []  # compiled code lives as long as its object


def cache_home() -> Path:
    """Return the folder in which compiled code is kept; it need not exist."""
    home = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "skipsim"


@cache
def _cache_folder(package: Path) -> str | None:
    """Return where the compiled code of one package is kept, None if no such folder can be made.

    Only files that hold compiled code count, so that an edit elsewhere compiles nothing again.
    """
    digest = hashlib.sha256(f"{numba.__version__}".encode())
    for source in sorted(package.glob("*.py")):
        content = source.read_bytes()
        if b"skipsim.compiled" in content:
            digest.update(content)
    folder = cache_home() / digest.hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return str(folder)


@contextmanager
def _caching(function: Callable[..., Any]) -> Iterator[bool]:
    """Let numba keep what it compiles inside in the folder of `function`'s package; tell whether there is one."""
    folder, before = _cache_folder(Path(function.__code__.co_filename).parent), _config.CACHE_DIR
    _config.CACHE_DIR = folder or before
    try:
        yield folder is not None
    finally:
        _config.CACHE_DIR = before


def _jit(function: Callable[..., Any], **options: bool) -> Callable[..., Any]:
    with _caching(function) as kept:
        jitted: Callable[..., Any] = _njit(cache=kept, nogil=True, **_OPTIONS, **options)(function)
    return jitted


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function."""
    return _jit(function)


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function into those that call it."""
    return _jit(function, forceinline=True)


def entry(signature: str) -> Callable[[Callable[..., Any]], Callable[[], int]]:
    """Compile a function on first use, so that other compiled code can call it by its address.

    The decorated name becomes a function without arguments that returns the address.
    """

    def decorate(function: Callable[..., Any]) -> Callable[[], int]:
        @cache
        def address() -> int:
            with _caching(function) as kept:
                made = _cfunc(signature, cache=kept, **_OPTIONS)(function)
            _entries.append(made)
            return int(made.address)

        return address

    return decorate

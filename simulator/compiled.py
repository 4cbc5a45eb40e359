"""The two decorators of compiled code: `compiled`, and `inlined` for small functions that compiled ones call.

Compiled code is kept between runs in a folder named after the source it was made from: numba by itself notices a
change of a function's own file, but not of the functions that it calls. Arrays are not reference-counted inside
(`_nrt`), which is five times faster here; so compiled functions are given all arrays that they need and make none.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core import config as numba_config

# numba's type stubs know neither `_nrt` nor that the cache folder can be set.
_njit: Callable[..., Callable[..., Any]] = numba.njit
_config: Any = numba_config
# LLVM's first level of optimisation compiles in half the time and runs as fast here.
os.environ.setdefault("NUMBA_OPT", "1")
_config.reload_config()
_OPTIONS = {"nogil": True, "error_model": "numpy", "_nrt": False}


@cache
def _cache_folder() -> str | None:
    """Return where compiled code is kept, None if no such folder can be made."""
    digest = hashlib.sha256(f"{numba.__version__}".encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    home = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(home) / "skipsim" / digest.hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return str(folder)


def _jit(function: Callable[..., Any], **options: bool) -> Callable[..., Any]:
    folder, before = _cache_folder(), _config.CACHE_DIR
    _config.CACHE_DIR = folder or before
    try:
        jitted: Callable[..., Any] = _njit(cache=folder is not None, **_OPTIONS, **options)(function)
    finally:
        _config.CACHE_DIR = before
    return jitted


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function."""
    return _jit(function)


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function into those that call it."""
    return _jit(function, forceinline=True)

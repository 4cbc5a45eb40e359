"""The one exception that means: the user's input is wrong, and here is how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input from outside: one line naming object, field, rule, value given and choices.

    The command line prints the message and exits with code 2; it never shows a traceback for it.
    """


def nearest(value: str, choices: Iterable[str]) -> str:
    """Return the tail of an error message: the nearest valid choice, then all (or how they start, if many).

    >>> nearest("edge-npuu", ["edge-npu", "auto-npu"])
    "did you mean 'edge-npu'? choices: auto-npu, edge-npu"
    """
    names = sorted(choices)
    close = difflib.get_close_matches(value, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    if len(names) > 16:
        tables = sorted({name.split(".")[0] for name in names})
        return f"{hint}keys start with: {', '.join(tables)}"
    return f"{hint}choices: {', '.join(names)}"

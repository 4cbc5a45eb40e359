"""Progress: a bar on standard error that disappears when its work is done."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Bar:
    """A progress bar on standard error that disappears when its work is done."""

    def __init__(self, wanted: bool) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
        shown = wanted and console.is_terminal
        self._progress = Progress(*columns, console=console, transient=True, disable=not shown)
        self._task = self._progress.add_task("", total=None, visible=False)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def begin(self, what: str, total: int) -> None:
        """Start with a new kind of work."""
        self._progress.reset(self._task, description=what, total=total, visible=total > 0)

    def advance(self, count: int) -> None:
        """Note that so many pieces are done."""
        self._progress.advance(self._task, count)

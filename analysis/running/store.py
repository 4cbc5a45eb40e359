"""Store: the outcomes of simulations in one SQLite file, safe against being killed at any moment."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from skipsim.errors import InputError
from skipsim.simulator.tiles import MODEL_VERSION

APPLICATION_ID = 0x534B4950  # "SKIP": tells the file from other SQLite files

FINISHED = "SELECT job_key FROM simulations WHERE json_extract(outcome, '$.error') IS NULL"
NEXT_MISSING = "SELECT place FROM wanted WHERE place > ? ORDER BY place LIMIT 1000"


@dataclass(frozen=True)
class Spent:
    """What some runs took: how many, over how many frames together, and seconds of one core."""

    runs: int
    frames: int
    seconds: float


class Store:
    """Outcomes by job key, one row each.

    What `add` was given survives the death of the process; a power cut may cost the latest rows, never the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = sqlite3.connect(path, timeout=60)
        with self._writing():
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")  # no wait for the disk; a kill loses nothing
        with self._writing(), self._connection:
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS simulations (job_key TEXT PRIMARY KEY, outcome TEXT NOT NULL) WITHOUT ROWID"
            )
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS spent (kind TEXT PRIMARY KEY, runs INTEGER, frames INTEGER, seconds REAL)"
            )
            self._connection.execute(f"PRAGMA user_version = {MODEL_VERSION}")
            self._connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")

    def want(self, keys: Iterable[str]) -> int:
        """Note which jobs a study needs, by key and in order ("": none); return how many of them have yet to be done.

        Each counts once, however often it is wanted. Those that failed before have yet to be done.
        """
        with self._writing():
            return _want(self._connection, keys)

    def missing(self) -> Iterator[int]:
        """Yield the places, among the keys that were wanted, of the jobs that had yet to be done, in order."""
        last, places = -1, [0]
        while places:  # a few at a time, because the file may change between them
            places = [place for (place,) in self._connection.execute(NEXT_MISSING, (last,))]
            yield from places
            last = places[-1] if places else last

    def add(self, outcomes: Mapping[str, Mapping[str, Any]]) -> None:
        """Write outcomes, in the place of earlier ones of the same key."""
        rows = [(key, json.dumps(outcome, sort_keys=True, allow_nan=False)) for key, outcome in outcomes.items()]
        with self._writing(), self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO simulations VALUES (?, ?)", rows)

    def spend(self, kind: str, spent: Spent) -> None:
        """Note what runs of a kind have taken, beside what was noted before."""
        with self._writing(), self._connection:
            self._connection.execute(
                "INSERT INTO spent VALUES (?, ?, ?, ?) ON CONFLICT (kind) DO UPDATE SET runs = runs + excluded.runs, "
                "frames = frames + excluded.frames, seconds = seconds + excluded.seconds",
                (kind, spent.runs, spent.frames, spent.seconds),
            )

    def outcome(self, key: str) -> dict[str, Any]:
        """Return the outcome of a job that has been added."""
        (text,) = self._connection.execute("SELECT outcome FROM simulations WHERE job_key = ?", (key,)).fetchone()
        outcome: dict[str, Any] = json.loads(text)
        return outcome

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn what the disk has against writing, such as being full, into an OSError that says what to do."""
        try:
            yield
        except sqlite3.OperationalError as error:
            rule = "finished rows are kept; make room and start the study again"
            raise OSError(f"{self._path}: {error}; {rule}") from None

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.close()


def check_store(path: Path) -> None:
    """Check, without changing anything, that a store of this model's version lies in `path` or can be made there."""
    if not path.exists():
        return
    try:
        with closing(_read_only(path)) as connection:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
    except sqlite3.DatabaseError as error:
        raise InputError(f"{path}: not a results file: {error}") from None
    if (application, version) == (0, 0):  # killed before it was set up
        return
    if application != APPLICATION_ID:
        raise InputError(f"{path}: not a results file: it belongs to another program")
    if version != MODEL_VERSION:
        raise InputError(
            f"{path}: holds results of model version {version}, this is version {MODEL_VERSION}; give another folder"
        )


def count_missing(path: Path, keys: Iterable[str]) -> int:
    """Return how many of the jobs a store that may not be there yet lacks, without changing anything: see `want`."""
    with closing(_read_only(path) if path.exists() else sqlite3.connect("")) as connection:
        return _want(connection, keys)


def read_spent(path: Path) -> dict[str, Spent]:
    """Return what the runs in a store took by kind, "recording" or "simulation"; {} where nothing is known."""
    if not path.exists():
        return {}
    with closing(_read_only(path)) as connection:
        try:
            return {kind: Spent(*spent) for kind, *spent in connection.execute("SELECT * FROM spent")}
        except sqlite3.OperationalError:  # killed before it was set up, or made by an older version
            return {}


def _want(connection: sqlite3.Connection, keys: Iterable[str]) -> int:
    """Keep wanted jobs that are missing in a temporary table of the connection, on disk if it is large."""
    connection.execute("DROP TABLE IF EXISTS temp.wanted")
    connection.execute("CREATE TEMP TABLE wanted (place INTEGER PRIMARY KEY, job_key TEXT UNIQUE)")
    named = ((place, key) for place, key in enumerate(keys) if key)
    connection.executemany("INSERT OR IGNORE INTO wanted VALUES (?, ?)", named)
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'simulations'").fetchone():
        connection.execute(f"DELETE FROM wanted WHERE job_key IN ({FINISHED})")
    connection.commit()
    (count,) = connection.execute("SELECT count(*) FROM wanted").fetchone()
    return int(count)


def _read_only(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=60)

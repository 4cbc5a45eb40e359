"""Does a study run on a Dask cluster as it runs here, also when a worker is killed in the middle?"""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import dask
import distributed
import pytest

from skipsim.analysis.running.cluster import connected, in_cluster
from skipsim.analysis.running.parallel import WorkerDied
from skipsim.analysis.sweep import sweep
from skipsim.errors import InputError
from skipsim.traces.synthetic import synthetic_trace

STUDY = """
name = "cluster"
[recording]
trace = ["a.trace", "b.trace"]
[simulation]
hardware = "systolic-32x32"
tile = ["2x2", "4x4"]
"gather.setup_cycles" = { from = 1, to = 50, steps = 50 }
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    local = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None, "silence_logs": 50}
    with dask.config.set({"distributed.scheduler.allowed-failures": 1}), distributed.LocalCluster(**local) as cluster:
        yield cluster


@pytest.fixture
def study(tmp_path: Path) -> Path:
    for name, density in (("a", 0.2), ("b", 0.4)):
        synthetic_trace("pose_small", rows=64, cols=64, frames=6, density=density, cluster_pixels=8, block=2).save(
            tmp_path / f"{name}.trace"
        )
    (tmp_path / "study.toml").write_text(STUDY)
    return tmp_path / "study.toml"


def blind(file: str) -> tuple[str, list[Any]]:
    return "", []


def newer(file: str) -> tuple[str, list[Any]]:
    return Path(file).read_text(), ["9.9", 99]


@pytest.mark.parametrize(
    ("answer", "message"), [(blind, "must lie on a file system that all workers share"), (newer, "has skipsim 9.9")]
)
def test_workers_that_are_of_no_use(
    cluster: Any, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Any, message: str
) -> None:
    monkeypatch.setattr("skipsim.analysis.running.cluster._look", answer)
    with pytest.raises(InputError, match=message) as caught:
        sweep(study, tmp_path / "out", cluster=cluster.scheduler_address)
    assert str(caught.value).startswith(f"cluster '{cluster.scheduler_address}': worker tcp://")
    assert not (tmp_path / "out").exists()


def rows_in(store: Path) -> int:
    try:
        with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT count(*) FROM simulations").fetchone()[0])
    except sqlite3.Error:
        return 0


def test_a_study_survives_the_death_of_a_worker(cluster: Any, study: Path, tmp_path: Path) -> None:
    out, seen = tmp_path / "cluster", []

    def kill_one() -> None:
        while not seen and threading.main_thread().is_alive():
            count = rows_in(out / "results.sqlite")
            if count:
                with distributed.Client(cluster, set_as_default=False) as client:
                    pids = client.run(os.getpid)
                os.kill(min(pids.values()), signal.SIGKILL)
                seen.append(count)
            time.sleep(0.005)

    killer = threading.Thread(target=kill_one)
    killer.start()
    table = sweep(study, out, cluster=cluster.scheduler_address, progress=False)
    killer.join()
    assert 0 < seen[0] < 200, "killed in the middle"
    assert len(table) == 200
    assert (table["error"] == "").all()
    sweep(study, tmp_path / "here", 1)
    assert (out / "results.parquet").read_bytes() == (tmp_path / "here" / "results.parquet").read_bytes()
    assert not list(out.glob(".shared.*"))


def test_only_the_culprit_of_a_batch_fails(cluster: Any, tmp_path: Path) -> None:
    def double_or_die(items: Sequence[int]) -> list[int]:
        if 3 in items:
            os.kill(os.getpid(), signal.SIGKILL)
        return [2 * item for item in items]

    with connected(cluster.scheduler_address, tmp_path) as client:
        results = {
            item: result
            for batch, results in in_cluster(client, double_or_die, [[0, 1], [2, 3], [4, 5]])
            for item, result in zip(batch, results, strict=True)
        }
    assert isinstance(results.pop(3), WorkerDied)
    assert results == {item: 2 * item for item in (0, 1, 2, 4, 5)}


def test_bad_addresses(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skipsim.analysis.running.cluster.SECONDS_TO_ANSWER", 0.2)
    for address in ("tcp://127.0.0.1:1", "nonsense://x", "127.0.0.1:port"):
        with pytest.raises(InputError, match="no Dask scheduler answers there") as caught:
            sweep(study, tmp_path / "out", cluster=address)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="exclude each other"):
        sweep(study, tmp_path / "out", 2, cluster="tcp://127.0.0.1:1")
    assert not (tmp_path / "out").exists()

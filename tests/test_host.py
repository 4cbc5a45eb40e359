"""Is a busy machine, one without vectors, one core, or another machine than measured noticed and said?"""

import os
import threading
import time

import pytest

from skipsim.errors import InputError
from skipsim.hwmodels import host
from skipsim.hwmodels.host import check_idle, check_threads, check_vectors, describe_host, differences, load_of_others


def test_this_machine_is_described():
    here = describe_host()
    assert here.device == "cpu"
    assert here.cores == os.cpu_count()
    assert any(version.startswith("numpy ") for version in here.versions)
    assert differences(here, here) == []


def test_a_file_of_another_machine_is_noticed():
    here = describe_host()
    there = here.model_copy(update={"model": "Another CPU", "cores": here.cores + 1, "cache_bytes": (1024.0,)})
    found = differences(there, here)
    assert [line.split(":")[0] for line in found] == ["model", "cores", "cache_bytes"]
    assert found[0] == f"model: measured on Another CPU, this is {here.model}"


@pytest.mark.parametrize(("cores", "warned"), [(0.0, False), (0.09, False), (0.2, True), (0.49, True)])
def test_some_load_is_warned_about(cores, warned):
    said = check_idle(cores)
    assert (said is not None) == warned
    if said:
        assert said.startswith(f"calibrate: others keep {cores:.1f} cores of this machine busy: times will be too long")


def test_much_load_is_refused_unless_it_is_wanted():
    with pytest.raises(InputError, match=r"others keep 1\.5 cores .* busy; stop them, or give --allow-busy"):
        check_idle(1.5)
    assert check_idle(1.5, allow_busy=True) is not None


def test_load_is_what_others_spend_and_what_this_thread_waits(monkeypatch):
    """Of two seconds all cores spend five, this thread one: others three, and one in which it wanted to run."""
    clocks = {"busy": iter([10.0, 15.0]), "wall": iter([0.0, 2.0]), "own": iter([0.0, 1.0])}
    monkeypatch.setattr(host, "_busy_seconds", lambda: next(clocks["busy"]))
    monkeypatch.setattr(host.time, "perf_counter", lambda: next(clocks["wall"]))
    monkeypatch.setattr(host.time, "process_time", lambda: next(clocks["own"]))
    assert load_of_others(2.0, spin=lambda seconds: None) == pytest.approx((5 - 1) / 2 + (1 - 1 / 2))


def test_a_sleeping_thread_counts_as_one_that_could_not_run():
    assert load_of_others(0.2, spin=time.sleep) > 0.8
    assert threading.active_count() >= 1


@pytest.mark.parametrize(
    ("instructions", "said"),
    [
        (("avx", "avx2", "fma", "avx512f"), None),
        (("avx", "avx2", "fma"), None),
        (("asimd",), None),
        (("avx",), "AVX but no FMA"),
        ((), "no AVX: kernels run on vectors of four"),
    ],
)
def test_a_machine_without_vectors_is_warned_about(instructions, said):
    found = check_vectors(describe_host().model_copy(update={"instructions": instructions}))
    assert found is None if said is None else said in found


def test_one_core_is_warned_about_and_more_threads_than_cores_refused(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert check_threads(1) == "this machine has one core: everything else on it interrupts the measurement"
    with pytest.raises(InputError, match=r"threads must be in 1\.\.1, .* got 2"):
        check_threads(2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert check_threads(1) is None

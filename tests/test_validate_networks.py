"""Are whole networks predicted from masks alone, before they run?"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from skipsim.analysis.validate_networks import (
    ATTEMPTS,
    PREDICTIONS,
    ROUNDS,
    KernelScales,
    Run,
    predict_kernels,
    run_rounds,
    steadiest,
    summarise,
)
from skipsim.hwmodels.hardware import load_hardware
from skipsim.hwmodels.kernels import ActivePixels
from skipsim.traces.execute.timed_network import TimedNetwork, mean_inputs


@pytest.fixture(scope="module")
def timed():
    return TimedNetwork("pose_small", 64, 64, block=4)


def test_scaled_kernels_put_their_own_configuration_right_and_scale_the_others():
    """Kernels measured at twice and half of what was predicted, and 7 ns of everything else."""
    measured = SimpleNamespace(kernels_ns=np.array([20, 5]), rest_ns=7)
    scales = KernelScales.of(measured, np.array([10.0, 10.0]))  # type: ignore[arg-type]
    assert scales.frame_ns(np.array([10.0, 10.0])) == 20 + 5 + 7
    assert scales.frame_ns(np.array([30.0, 4.0])) == 60 + 2 + 7


def test_a_frame_is_predicted_before_it_runs_as_after_it(timed):
    """Predicting makes exactly the lists of positions that running the masks makes."""
    processor = load_hardware("measured-zen4-2core").processor
    assert processor is not None
    masks = timed.draw(0.3, seed=5)
    before = predict_kernels(timed, masks, processor)
    planned = [_listed(entry.item) for entry in timed.planned(masks)]
    ran = timed.time(masks, repeats=1)
    assert [_listed(entry.item) for entry in timed.planned(masks)] == planned
    assert len(ran.kernels_ns) == len(before)
    assert (before > 0).all()
    assert ran.rest_ns + ran.kernels_ns.sum() == ran.whole_ns
    fewer = predict_kernels(timed, timed.draw(0.05, seed=5), processor)
    assert fewer.sum() < before.sum()


def _listed(step: object) -> list[int]:
    return [int(held.count[0]) for held in getattr(step, "held", ()) if isinstance(held, ActivePixels)]


def test_masks_that_gates_recorded_on_a_clip_fit_the_network(timed):
    masks = timed.record("pose:3:static", share=0.3, frame=2)
    assert 0 < timed.macs(masks) < sum(layer.macs for layer in timed.layers)
    assert [timed.planned(masks)[0].operation] == ["input"]


def test_errors_are_summed_up_by_network_and_over_all():
    rows = [
        {"network": name, **dict.fromkeys(PREDICTIONS, error)} for name, error in (("a", -0.1), ("a", 0.3), ("b", 0.5))
    ]
    found = {(one["network"], one["error"]): one for one in summarise(rows)}
    assert found["a", "anchored_error"]["median"] == pytest.approx(0.2)
    assert found["all", "anchored_error"]["median"] == pytest.approx(0.3)
    assert found["all", "anchored_error"]["count"] == 3


def test_a_configuration_counts_where_its_reference_was_steadiest():
    references, times = iter([150.0, 160.0, 161.0, 170.0]), iter([1.0, 2.0, 3.0])
    counted, last_ns = steadiest(lambda: next(times), lambda: next(references), before_ns=100.0)
    assert (counted, last_ns) == (Run(3.0, 160.0, 161.0), 161.0)  # 50 %, then 6 %, then steady
    jumping, times = iter([150.0, 100.0, 110.0, 9.0]), iter([1.0, 2.0, 3.0, 4.0])
    counted, last_ns = steadiest(lambda: next(times), lambda: next(jumping), before_ns=100.0)
    assert next(times) == ATTEMPTS + 1  # it gave up
    assert (counted, last_ns) == (Run(3.0, 100.0, 110.0), 110.0)


def test_rounds_go_forth_and_back_between_references():
    order: list[str] = []

    def note(name: str, ns: float) -> float:
        order.append(name)
        return ns

    runs = run_rounds([lambda: note("a", 10.0), lambda: note("b", 20.0)], lambda: note("ref", 5.0))
    assert order == ["ref", "a", "ref", "b", "ref", "b", "ref", "a", "ref"]
    assert [[one.whole_ns for one in rounds] for rounds in runs] == [[10.0] * ROUNDS, [20.0] * ROUNDS]
    assert all(one.reference_ns == 5.0 and one.unsteady == 0 for rounds in runs for one in rounds)


def test_mean_inputs_are_of_the_first_call_and_may_be_zero():
    shared = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(shared.weight, 2.0)
    network = nn.Sequential(shared, shared, nn.ReLU(), nn.Conv2d(1, 1, 1))
    assert mean_inputs(network, torch.full((1, 1, 2, 2), -3.0)) == {"0": 3.0, "3": 0.0}

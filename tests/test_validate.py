"""Are the numbers of a validation what their names say, and are machines that can't be validated refused?"""

import numpy as np
import pandas as pd
import pytest

from skipsim.analysis import validate as validation
from skipsim.analysis.cli import main
from skipsim.analysis.validate import (
    _crossing,
    break_even,
    error_groups,
    kendall_tau,
    naive_errors,
    own_errors,
    predicted_ns,
    refitted,
    spread,
)
from skipsim.errors import InputError
from skipsim.hwmodels.design import Call, draw_shapes
from skipsim.hwmodels.hardware import load_hardware
from skipsim.hwmodels.measurement_file import row_of

MEASURED = "measured-zen4-2core"


@pytest.mark.parametrize(
    ("second", "tau"), [([1, 2, 3, 4], 1.0), ([4, 3, 2, 1], -1.0), ([1, 2, 4, 3], 4 / 6), ([2, 1, 4, 3], 2 / 6)]
)
def test_tau_counts_pairs_in_the_same_order(second, tau):
    assert kendall_tau(np.array([1.0, 2, 3, 4]), np.array(second, float)) == pytest.approx(tau)


def test_a_line_of_times_breaks_even_where_it_says():
    density = np.array([0.1, 0.3, 0.5, 1.0])
    assert _crossing(density, 0.2 + 1.6 * density) == pytest.approx(0.5)
    assert _crossing(density, 0.5 * density) == np.inf
    assert _crossing(density, 1.1 + density) == 0
    twice = np.repeat(density, 3)
    assert _crossing(twice, np.tile([0.01, 1.0, 99.0], 4) * (0.2 + 1.6 * twice)) == pytest.approx(0.5)


def test_break_even_is_where_the_path_takes_as_long_as_the_dense_layer():
    """PyTorch's path: half the dense time, and twice the dense time x density: 1/4. The compiled path: never."""
    processor = load_hardware(MEASURED).processor
    assert processor is not None
    shape = draw_shapes(5, {"plain": 1})[0]
    rows = [
        {**row_of(what, Call(shape, (4, 4), density, 0.0, seed), False, 2.0**28), "ns": ns, "total_ns": ns}
        for seed, density in enumerate((0.1, 0.25, 0.5, 1.0))
        for what, ns in (("torch_blocks", 500 + 2000 * density), ("compiled", 2000.0), ("list", 100.0))
    ]
    dense = pd.DataFrame([{**row_of("dense", Call(shape, (1, 1), 1.0, 0.0, 0), False, 2.0**28), "ns": 1000.0}])
    found = {(row["path"], row["block"]): row["measured"] for row in break_even(pd.DataFrame(rows), dense, processor)}
    assert found == {("compiled", 4): 0.0, ("torch_blocks", 4): pytest.approx(0.25)}


def test_errors_are_spread_over_what_is_known():
    found = spread(np.array([0.01, 0.03, np.nan, 0.02]))
    assert found["median"] == pytest.approx(0.02)
    assert found["count"] == 3


def test_naive_predictors_are_their_formulas():
    processor = load_hardware(MEASURED).processor
    assert processor is not None
    shape = draw_shapes(5, {"plain": 1})[0]
    row = row_of("compiled", Call(shape, (1, 1), 1.0, 0.0, 0), False, 2.0**28)
    at_peak = 2 * shape.macs / processor.peaks.fma_gflops
    table = pd.DataFrame([{**row, "ns": 2 * at_peak, "total_ns": 1.0}])
    naive = naive_errors(table, {shape.name: 3 * at_peak}, processor)
    assert naive["mac_count"]["median"] == pytest.approx(0.5)
    assert naive["dense_x_density"]["median"] == pytest.approx(0.5)
    assert predicted_ns(table, processor)[0] > 0


def test_layers_that_were_fitted_tell_how_far_the_machine_has_moved():
    """Every cold call takes a quarter longer than the fit says; hot ones and other paths don't count."""
    processor = load_hardware(MEASURED).processor
    assert processor is not None
    shapes = draw_shapes(5, {"plain": 3})
    calls = [Call(shape, (2, 2), 0.5, 0.0, 0) for shape in shapes]
    cold = pd.DataFrame([row_of("compiled", call, False, 2.0**28) for call in calls])
    cold["ns"] = 1.25 * predicted_ns(cold, processor)
    noise = pd.DataFrame([row_of(what, calls[0], True, 2.0**28) | {"ns": 1.0} for what in ("compiled", "torch_blocks")])
    (found,) = own_errors(pd.concat([cold, noise], ignore_index=True), processor)
    assert (found["class"], found["moved"]) == ("plain", pytest.approx(0.25))
    assert found["error"]["median"] == found["error"]["p90"] == pytest.approx(0.2)  # of the measured time
    assert found["fitted"]["median"] == processor.kernels["compiled"]["plain"].median_error


def test_a_fit_to_the_layers_as_they_are_now_knows_that_the_machine_became_slower():
    """Everything takes twice as long: the new fit predicts that for layers that neither fit has seen."""
    processor = load_hardware(MEASURED).processor
    assert processor is not None

    def rows(seed: int, count: int) -> pd.DataFrame:
        shapes = draw_shapes(seed, {"plain": count})
        calls = [Call(shape, (2, 2), share, 0.0, 0) for shape in shapes for share in (0.1, 0.5, 1.0)]
        table = pd.DataFrame([row_of("compiled", call, hot, 2.0**28) for call in calls for hot in (False, True)])
        return table.assign(ns=(2 * predicted_ns(table, processor)).clip(1))

    own, others = (rows(seed, count) for seed, count in ((5, 20), (6, 4)))
    today = refitted(own.assign(total_ns=own["ns"]), processor)
    assert predicted_ns(others, today) == pytest.approx(others["ns"].to_numpy(), rel=0.02)
    assert today.kernels["compiled"]["strided"] == processor.kernels["compiled"]["strided"]  # none was measured again


def test_large_maps_stand_apart_and_stages_together():
    rows = pd.DataFrame(
        [
            ("compiled", "plain", 95, 97),
            ("compiled", "plain", 96, 96),
            ("list", "plain", 96, 96),
            ("dense", "stem", 99, 9),
        ],
        columns=["what", "kind", "out_rows", "out_cols"],
    )
    assert error_groups(rows) == ["plain", "plain, large maps", "", "stem"]


def test_a_machine_that_was_not_measured_is_refused(capsys):
    with pytest.raises(InputError, match="hardware 'edge-npu': was not measured"):
        validation.validate(load_hardware("edge-npu"))
    with pytest.raises(SystemExit) as ended:
        main(["validate", "--hardware", MEASURED, "--network", "hrnet_w23"])
    assert ended.value.code == 2
    assert "--network 'hrnet_w23' is unknown; did you mean 'hrnet_w32'?" in capsys.readouterr().err


def test_a_file_of_another_machine_is_warned_about(monkeypatch):
    hardware = load_hardware(MEASURED).replace(**{"processor.host.model": "Another CPU"})
    said: list[str] = []

    def stop(*_: object, **__: object) -> None:
        raise InterruptedError

    monkeypatch.setattr(validation, "load_of_others", lambda: 0.0)
    monkeypatch.setattr(validation, "measure_compiled", stop)
    with pytest.raises(InterruptedError):
        validation.validate(hardware, say=said.append)
    assert any(line.startswith("warning: another machine: model: measured on Another CPU, this is ") for line in said)

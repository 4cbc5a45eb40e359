"""Do layers run densely where the machine at hand predicts that to be faster, and no others?"""

import warnings

import numpy as np
import pytest
import torch

from skipsim.errors import InputError
from skipsim.hwmodels import choice
from skipsim.hwmodels.choice import dense_ns, faster_dense, gated_ns, machine_at_hand
from skipsim.hwmodels.hardware import load_hardware
from skipsim.hwmodels.kernel_work import LayerShape
from skipsim.traces.convert import convert
from skipsim.traces.gates import InputNormGate

MEASURED = "measured-zen4-2core"
SHAPE = LayerShape(32, 24, 24, 32, 24, 24, 3, 3, padding_top=1, padding_left=1)


def machine(**anchors: float):
    """Return the packaged machine with other dense times, by shape."""
    hardware = load_hardware(MEASURED)
    assert hardware.processor is not None
    return hardware.model_copy(
        update={"processor": hardware.processor.model_copy(update={"dense_layers_ns": dict(anchors)})}
    )


def test_a_layer_runs_densely_exactly_where_its_dense_time_is_the_smaller():
    processor = machine().processor
    gated = gated_ns(SHAPE, (4, 4), processor, 2.0**28, 0.25)
    for factor, chosen in ((0.99, True), (1.01, False)):
        known = processor.model_copy(update={"dense_layers_ns": {SHAPE.name: factor * gated}})
        assert dense_ns(SHAPE, known, 2.0**28) == factor * gated
        footprint = SHAPE.weight_bytes + 0.25 * (2 * SHAPE.in_bytes + SHAPE.out_bytes)
        same = gated_ns(SHAPE, (4, 4), known, footprint, 0.25) / gated
        known = known.model_copy(update={"dense_layers_ns": {SHAPE.name: factor * same * gated}})
        found = faster_dense({"layer": (SHAPE, (4, 4))}, known, 0.25)
        assert (list(found) == ["layer"]) is chosen
        assert not chosen or found["layer"] == pytest.approx(factor)


def test_more_to_compute_takes_longer_and_what_is_not_known_is_not_chosen():
    processor = machine().processor
    times = [gated_ns(SHAPE, (4, 4), processor, 2.0**28, density) for density in (0.05, 0.25, 1.0)]
    assert times == sorted(times)
    bare = processor.model_copy(update={"kernels": {"compiled": {}}, "dense": {}})
    assert dense_ns(SHAPE, bare, 1.0) == np.inf
    assert gated_ns(SHAPE, (4, 4), bare, 1.0, 0.25) == 0
    assert faster_dense({"layer": (SHAPE, (4, 4))}, bare.model_copy(update={"dense": processor.dense}), 0.25) == {}


def test_a_network_runs_what_was_predicted():
    model = torch.nn.Sequential(
        torch.nn.Conv2d(8, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 16, 3, padding=1)
    ).eval()
    first = LayerShape(8, 24, 24, 8, 24, 24, 3, 3, padding_top=1, padding_left=1)
    second = LayerShape(8, 24, 24, 16, 24, 24, 3, 3, padding_top=1, padding_left=1)
    frames = torch.rand(3, 1, 8, 24, 24)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of another machine, wherever this runs
        known = machine(**{first.name: 1e9, second.name: 1.0})
        sparse = convert(model, InputNormGate(0.3, block=4), execute="sparse", machine=known)
    plain = convert(model, InputNormGate(0.3, block=4), execute="sparse", machine=None)
    for frame in frames:
        found, expected = sparse(frame), plain(frame)
    assert sparse.dense_layers == ("2",)
    assert plain.dense_layers == ()
    assert found.shape == expected.shape
    assert sparse.masks()["2", 0].all()


def test_the_machine_at_hand(monkeypatch):
    said: list[str] = []
    assert machine_at_hand(None, said.append) is None
    monkeypatch.setenv(choice.MACHINE, "none")
    assert machine_at_hand("auto", said.append) is None
    here = load_hardware(MEASURED).processor.host
    monkeypatch.setattr(choice, "describe_host", lambda: here)
    monkeypatch.setenv(choice.MACHINE, MEASURED)
    assert machine_at_hand("auto", said.append).name == MEASURED
    monkeypatch.delenv(choice.MACHINE)
    choice._packaged.cache_clear()
    assert machine_at_hand("auto", said.append).name == MEASURED
    choice._packaged.cache_clear()
    monkeypatch.setattr(choice, "describe_host", lambda: here.model_copy(update={"model": "Another CPU"}))
    assert machine_at_hand("auto", said.append) is None
    choice._packaged.cache_clear()
    assert not said


def test_a_machine_of_another_host_is_warned_about_and_one_that_was_not_measured_refused(monkeypatch):
    here = load_hardware(MEASURED).processor.host
    monkeypatch.setattr(choice, "describe_host", lambda: here.model_copy(update={"model": "Another CPU"}))
    said: list[str] = []
    assert machine_at_hand(MEASURED, said.append) is not None
    assert said == [
        f"machine '{MEASURED}' is another machine, its predictions may not hold here: "
        f"model: measured on {here.model}, this is Another CPU"
    ]
    with pytest.raises(InputError, match="machine 'edge-npu': was not measured and predicts no kernels"):
        machine_at_hand("edge-npu", said.append)

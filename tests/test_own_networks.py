"""Is a network by name the same every time, and is a fault in a user's own factory one line that names the place?"""

from __future__ import annotations

import pytest
import torch

from skipsim.analysis.inputs.networks import build_network
from skipsim.errors import InputError

MODULE = """
from torch import nn
def build():
    return nn.Conv2d(3, 4, 3)
def fails():
    raise ValueError("checkpoint is gone")
def asks(size):
    return nn.Conv2d(3, size, 3)
def number():
    return 3
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "some_networks.py").write_text(MODULE, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("name", ["some_networks:build", "unet"])
def test_random_weights_are_the_same_every_time_and_leave_the_callers_numbers_alone(name, folder):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = build_network(name, folder=folder)
    assert torch.equal(torch.rand(3), expected)
    second = build_network(name, folder=folder)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("fails", "the factory failed in some_networks.py, line 6: ValueError: checkpoint is gone"),
        ("asks", "the factory must take no arguments: missing a required argument: 'size'"),
        ("number", "the factory must return an nn.Module, got int"),
        ("other", "module 'some_networks' has no function 'other'"),
    ],
)
def test_faults_are_one_line(factory, message, folder):
    with pytest.raises(InputError) as caught:
        build_network(f"some_networks:{factory}", folder=folder)
    assert str(caught.value) == f"network 'some_networks:{factory}': {message}"

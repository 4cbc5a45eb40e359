"""Decision: where the mask of one convolution comes from when a network runs sparsely."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from skipsim.traces.gates import Gate


@dataclass(frozen=True)
class NormGate:
    """A gate of its own: the mean change of the input over the receptive field, against a threshold."""

    threshold: float
    block: tuple[int, int]


@dataclass(frozen=True, eq=False)
class CustomGate:
    """A gate of its own whose rule is Python code; it sees the whole map, so it costs a dense pass.

    `signal` says what it looks at, one of traces.skipconv.SIGNALS.
    """

    gate: Gate
    module: nn.Conv2d
    block: tuple[int, int]
    signal: str


@dataclass(frozen=True, eq=False)
class GivenMask:
    """The user's own function decides: `ask()` returns a mask, or None to compute all."""

    ask: Callable[[], Any]
    block: tuple[int, int]


@dataclass(frozen=True)
class Shared:
    """The mask of an earlier convolution, carried on as traces.sharing says.

    With `network` the leader's own mask is brought to this layer's size; otherwise the one that was last carried on.
    """

    leader: str
    block: tuple[int, int]
    network: bool


@dataclass(frozen=True)
class Follow:
    """No gate: exactly the positions that read a changed one."""


@dataclass(frozen=True)
class Dense:
    """No gate: the whole map on every frame, by torch's own convolution."""


Decision = NormGate | CustomGate | GivenMask | Shared | Follow | Dense

"""Does a recording that cannot be made say why in one line, and leave nothing behind?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recorded_subject import Frame, Net, as_input, clip
from torch import Tensor, nn

from skipsim.errors import InputError
from skipsim.traces.convert import convert
from skipsim.traces.gates import InputNormGate
from skipsim.traces.record import record
from skipsim.traces.trace import Trace


def changing_model() -> nn.Module:
    class Changing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.frame = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), 0

        def forward(self, x: Tensor) -> Tensor:
            self.frame += 1
            y: Tensor = self.one(x) if self.frame < 3 else self.two(x)
            return y

    return Changing()


def late_mask() -> Callable[[nn.Module], Any]:
    """Give masks for `stem` always, for `deep` from its third run on."""
    runs = Counter[int]()

    def mask(module: nn.Module) -> Any:
        if not isinstance(module, nn.Conv2d) or module.kernel_size == (1, 1):
            return None
        runs[module.groups] += 1
        return np.ones((10, 8)) if module.groups == 1 or runs[module.groups] > 2 else None

    return mask


class After(nn.Module):
    """A convolution and a function of what it puts out."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.one, self.function = nn.Conv2d(3, 3, 1), function

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.function(self.one(x))]


def fault(x: Tensor) -> Tensor:
    raise ValueError("not today")


def fault_in(file: str) -> Callable[[Tensor], Tensor]:
    """Return the same fault, as if it stood in a file."""
    names: dict[str, Any] = {}
    exec(compile("def fault(x):\n    raise ValueError('not today')", file, "exec"), names)
    made: Callable[[Tensor], Tensor] = names["fault"]
    return made


def with_nan(frames: list[Frame]) -> list[Tensor]:
    tensors = [as_input(frame)[0] for frame in frames]
    tensors[3][0, 2, 2] = float("nan")
    return tensors


GATE = InputNormGate(threshold=0.02)
BAD: dict[str, tuple[Callable[..., Trace], str]] = {
    "no frames": (
        lambda **o: record(Net(), [], GATE, **o),
        "frames: a recording needs at least two (the first is computed densely), got 0",
    ),
    "one frame": (
        lambda **o: record(Net(), clip(1), GATE, **o),
        "frames: a recording needs at least two (the first is computed densely), got 1",
    ),
    "no frames at all": (lambda **o: record(Net(), [], **o), "frames: a recording needs at least one, got 0"),
    "size": (
        lambda **o: record(Net(), [*clip(3), *clip(1, 20, 18)], GATE, **o),
        "frame 3: all frames must have one size; expected [channels, rows, cols] = [3, 20, 16], got [3, 20, 18]",
    ),
    "kind": (
        lambda **o: record(Net(), [*clip(2), clip(1)[0][..., 0]], GATE, **o),
        "frame 2: must be a uint8 array [rows, cols, 3] or a float tensor [3, rows, cols] (or give preprocess), "
        "got ndarray of uint8 [20, 16]",
    ),
    "float array": (
        lambda **o: record(Net(), [clip(1)[0] / 255.0], GATE, **o),
        "frame 0: must be a uint8 array [rows, cols, 3] or a float tensor [3, rows, cols] (or give preprocess), "
        "got ndarray of float64 [20, 16, 3]",
    ),
    "preprocess": (
        lambda **o: record(Net(), clip(), GATE, preprocess=lambda frame: torch.zeros(2, 3, 4, 4), **o),
        "frame 0: preprocess must return a tensor [3, rows, cols] or [1, 3, rows, cols], got [2, 3, 4, 4]",
    ),
    "not frames": (
        lambda **o: record(Net(), 3, GATE, **o),  # type: ignore[arg-type]
        "frames: must be something to iterate over, or a path, got int",
    ),
    "NaN": (
        lambda **o: record(Net(), with_nan(clip()), GATE, **o),
        "layer 'stem': output of frame 3 is NaN or infinite somewhere; so is its input",
    ),
    "NaN at the end": (
        lambda **o: record(After(lambda y: y / 0 * 0), clip(), GATE, **o),
        "network After: the output of frame 0 is NaN somewhere",
    ),
    "NaN without a gate": (
        lambda **o: record(Net(), with_nan(clip()), **o),
        "network Net: the output of frame 3 is NaN somewhere",
    ),
    "clips of one frame": (
        lambda **o: record(Net(), clip(3), GATE, cuts=[1, 2], **o),
        "frames: a recording needs a clip of two frames at least, got 3 clips of one",
    ),
    "channels": (
        lambda **o: record(nn.Conv2d(4, 2, 1), clip(), GATE, **o),
        "network Conv2d: failed on frame 0, input [1, 3, 20, 16]: RuntimeError: Given groups=1, weight of size "
        "[2, 4, 1, 1], expected input[1, 3, 20, 16] to have 4 channels, but got 3 channels instead",
    ),
    "its own fault": (
        lambda **o: record(After(fault), clip(), network="mine:build", **o),
        "network mine:build: failed on frame 0, input [1, 3, 20, 16] in test_record_input.py, line "
        f"{fault.__code__.co_firstlineno + 1}: ValueError: not today",
    ),
    "its own fault in a folder of our name": (
        lambda **o: record(After(fault_in("/elsewhere/skipsim/torch/net.py")), clip(), network="net:build", **o),
        "network net:build: failed on frame 0, input [1, 3, 20, 16] in net.py, line 2: ValueError: not today",
    ),
    "both": (
        lambda **o: record(Net(), clip(), GATE, mask=lambda module: None, **o),
        "record: give either a gate or a mask function, got both",
    ),
    "block": (
        lambda **o: record(Net(), clip(), GATE, block=4, **o),
        "record: block is an argument only together with mask; a gate has its own",
    ),
    "reset_every": (
        lambda **o: record(Net(), clip(), reset_every=4, **o),
        "record: reset_every is an argument only together with gate",
    ),
    "converted": (
        lambda **o: record(convert(Net(), GATE), clip(), GATE, **o),
        "record: the model is converted already; gate, mask and reset_every belong to convert",
    ),
    "agreement": (
        lambda **o: record(Net(), clip(), mask=lambda module: None, agreement=True, **o),
        "record: agreement needs the dense network, which a model that skips by itself does not show",
    ),
    "cuts of others": (
        lambda **o: record(Net(), clip(), mask=lambda module: None, cuts=[2], **o),
        "record: cuts drop the state of a converted model; one that skips by itself keeps its own",
    ),
    "cuts": (
        lambda **o: record(Net(), clip(), GATE, cuts=[6], **o),
        "record: cuts must be frames of the clip, 0..5, got 6",
    ),
    "no mask": (
        lambda **o: record(Net(), clip(), mask=lambda module: module.lastmask, **o),
        "mask: the function gave no mask for any module on the frames so far "
        "('Net' object has no attribute 'lastmask')",
    ),
    "late mask": (
        lambda **o: record(Net(), clip(), mask=late_mask(), **o),
        "layer 'deep': its first mask comes too late; give one on frame 0 or 1",
    ),
    "mask shape": (
        lambda **o: record(Net(), clip(), mask=lambda module: np.ones((3, 3)), **o),
        "layer 'stem': mask must have one entry per output pixel [10, 8] or per 1x1 block [10, 8], got shape [3, 3]",
    ),
    "changing calls": (
        lambda **o: record(changing_model(), clip(), **o),
        "model: every frame must run the same convolutions; call 0 was 'one' and is 'two'",
    ),
    "no convolution": (
        lambda **o: record(nn.Linear(16, 2), clip(), **o),
        "model: Linear ran no nn.Conv2d, so there is nothing to record",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(BAD))
def test_bad_input_is_one_clear_line_and_leaves_nothing(case: str, tmp_path: Path) -> None:
    call, message = BAD[case]
    with pytest.raises(InputError) as error:
        call(out=tmp_path / "run.trace", progress=False)
    assert str(error.value) == message
    assert not list(tmp_path.iterdir())

"""TrainingRun: a training at some step, and the checkpoint file from which it goes on after a kill."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from skipsim.atomic import replacing, write_text
from skipsim.errors import InputError, nearest
from skipsim.traces.datasets import CAMERAS

MAY_BE_ZERO = ("seed", "weight_decay", "beta", "beta_rise")
SIZES = 8  # into which a picture's sides are divided, where a network is trained at several sizes


@dataclass(frozen=True)
class Plan:
    """Everything that decides the trained weights; the same plan gives the same weights on the same machine.

    Attributes:
        seed: of the first weights, the order of the pictures and their variation.
        steps: optimiser steps.
        batch: pictures per step, or sequences of pictures where clip_frames > 1.
        clip_frames: successive pictures of a clip that are trained on together.
        gate_rate: how many times faster gates learn than the network.
        beta: price of computing everything, in units of the task's loss, where gates are trained (gumbel_training.py).
        beta_rise: share of the steps over which beta rises from 0, so that gates don't close before they can decide.
        learning_rate: greatest rate; it rises over the first tenth of the steps and falls to 0 as a cosine.
        weight_decay: of AdamW.
        heatmap_sigma: standard deviation of the wanted heat map, in its own pixels.
        pool_clips: training clips made before the first step; static and panning cameras in turn.
        pool_frames: frames taken of each; of these, as many as clip_frames divides.
        pool_frames_per_second: of these clips; low, so that the frames of a clip differ.
        camera: "all", or "static" or "pan": clips of one camera only.
        rows: picture height in pixels.
        cols: picture width in pixels.
        smallest: least share of these sides that the pictures of a step are shrunk to; each step draws an eighth from
            here to 1, for a network that is to run at several sizes.
        checkpoint_every: steps between checkpoints, each with a score on validation clips.
        validation_clips: clips for that score.
        test_clips: clips for the score written beside the weights.
        test_frames: frames of each test clip, at its full frame rate.
    """

    seed: int = 0
    steps: int = 3200
    batch: int = 16
    clip_frames: int = 1
    learning_rate: float = 4e-3
    gate_rate: float = 10.0
    beta: float = 0.0
    beta_rise: float = 0.5
    weight_decay: float = 0.01
    heatmap_sigma: float = 1.0
    pool_clips: int = 1600
    pool_frames: int = 6
    pool_frames_per_second: float = 4.0
    camera: str = "all"
    rows: int = 128
    cols: int = 128
    smallest: float = 1.0
    checkpoint_every: int = 200
    validation_clips: int = 24
    test_clips: int = 60
    test_frames: int = 12

    def __post_init__(self) -> None:
        """Check that every number can be trained with."""
        if self.camera not in ("all", *CAMERAS):
            raise InputError(f"training: camera {self.camera!r} is unknown; {nearest(self.camera, ('all', *CAMERAS))}")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("camera", "smallest"):
                continue
            low = 0 if field.name in MAY_BE_ZERO else 1 if field.type == "int" else 1e-9
            kinds, kind = ((int,), "a whole number") if field.type == "int" else ((int, float), "a number")
            if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value < math.inf:
                raise InputError(f"training: {field.name} must be {kind} >= {low:g}, got {value!r}")
        if not isinstance(self.smallest, int | float) or not 1 / SIZES <= self.smallest <= 1:
            rule = f"a share of the sides, {1 / SIZES} to 1"
            raise InputError(f"training: smallest must be {rule}, got {self.smallest!r}")
        if self.clip_frames > self.pool_frames:
            raise InputError(
                f"training: clip_frames must be at most pool_frames = {self.pool_frames}, got {self.clip_frames}"
            )
        sequences = self.pool_clips * (self.pool_frames // self.clip_frames)
        if self.batch > sequences:
            rule = "pool_clips x pool_frames" if self.clip_frames == 1 else "pool_clips x (pool_frames // clip_frames)"
            raise InputError(f"training: batch must be at most {rule} = {sequences}, got {self.batch}")

    def rate(self, step: int) -> float:
        """Return the learning rate of a step: linear rise, then a cosine to 0."""
        rise = max(1, self.steps // 10)
        if step < rise:
            return self.learning_rate * (step + 1) / rise
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, self.steps - rise)))

    def share(self, step: int) -> float:
        """Return the share of their sides that the pictures of a step have."""
        least = math.ceil(SIZES * self.smallest)
        drawn = np.random.default_rng([self.seed, 2, step]).integers(least, SIZES + 1)
        return float(drawn) / SIZES

    def price(self, step: int) -> float:
        """Return beta at a step: linear rise from 0, then constant."""
        rise = self.beta_rise * self.steps
        return self.beta * min(1.0, step / rise) if rise else self.beta


class TrainingRun:
    """A training run at some step: model, optimiser and history, and the checkpoint file that keeps them."""

    def __init__(
        self, model: nn.Module, groups: list[dict[str, Any]], plan: Plan, identity: dict[str, Any], out: Path
    ) -> None:
        self.model, self.plan, self.identity, self.out = model, plan, identity, out
        self.checkpoint = out.with_name(f"{out.stem}.checkpoint.safetensors")
        self.optimiser = torch.optim.AdamW(groups, lr=plan.learning_rate, weight_decay=plan.weight_decay)
        self.step = 0
        self.seconds = 0.0
        self.history: list[dict[str, float]] = []

    def set_rates(self) -> None:
        """Give every group of parameters its learning rate for this step."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.plan.rate(self.step) * group.get("rate", 1.0)

    def note(self, measured: dict[str, float]) -> None:
        """Add a line to the history: what was measured since the last one."""
        self.history.append({"step": self.step, "learning_rate": self.plan.rate(self.step - 1), **measured})

    def latest(self) -> str:
        """Return the last line of the history in words, for people who watch."""
        return ", ".join(f"{name} {value:.4g}" for name, value in list(self.history[-1].items())[2:])

    def save(self) -> None:
        """Write the checkpoint whole or not at all: tensors, and in its header the step and the history."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors.update({f"optimiser.{index}.{name}": tensor for name, tensor in state.items()})
        header = {**self.identity, "step": self.step, "seconds": self.seconds, "history": self.history}
        with replacing(self.checkpoint) as temporary:
            whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            temporary.write_bytes(save(whole, {"run": json.dumps(header)}))
        lines = [",".join(f"{value:.6g}" for value in row.values()) for row in self.history]
        write_text(self.out.with_suffix(".csv"), "\n".join([",".join(self.history[-1]), *lines, ""]))

    def load(self) -> None:
        """Go on from the checkpoint if there is one; InputError where it is damaged or of another plan."""
        if not self.checkpoint.exists():
            return
        try:
            with safe_open(self.checkpoint, "pt") as file:
                header = json.loads(file.metadata()["run"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 # not a dict
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"checkpoint {self.checkpoint}: not readable ({error}); remove it to start again"
            ) from None
        for key, value in self.identity.items():
            if header.get(key) != value:
                raise InputError(
                    f"checkpoint {self.checkpoint}: is of another run ({_difference(key, header.get(key), value)}); "
                    "train as then, or remove it to start again"
                )
        self.model.load_state_dict({n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")})
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimiser."):
                _, index, part = name.split(".")
                state.setdefault(int(index), {})[part] = tensor
        self.optimiser.load_state_dict({"state": state, "param_groups": self.optimiser.state_dict()["param_groups"]})
        self.step, self.seconds, self.history = header["step"], header["seconds"], header["history"]

    def save_weights(self, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
        """Write tensors whole or not at all."""
        with replacing(self.out) as temporary:
            whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            temporary.write_bytes(save(whole, header or None))  # `save_file` lets nobody else read what it writes


def _difference(key: str, then: Any, now: Any) -> str:
    if isinstance(then, dict) and isinstance(now, dict):
        key = next(name for name in now if then.get(name) != now[name])
        then, now = then.get(key), now[key]
    return f"{key} was {then!r}, is {now!r}"

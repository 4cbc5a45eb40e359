"""Recordings: the axes of what a network does, and the combinations that they are recorded with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, model_validator

from skipsim.analysis.axes import (
    SINGLE_PIXELS,
    BlockPlan,
    Clip,
    plan_of,
    read_axis,
    read_blocks,
    read_clips,
    read_numbers,
    read_sizes,
)
from skipsim.analysis.inputs.gate_files import TRAINED, is_gate_file, read_gate_file
from skipsim.analysis.inputs.gated_network import GATES, NORM_GATES
from skipsim.analysis.results import block_columns, network_at
from skipsim.errors import InputError, nearest

Name = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[Name, ...], BeforeValidator(read_axis), Field(min_length=1)]
Threshold = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Side = Annotated[int, Field(ge=1)]


class Table(BaseModel):
    """A table of a study file: unknown keys and other types are errors."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


def _thresholds(value: Any, info: ValidationInfo) -> tuple[Any, ...]:
    for one in value if isinstance(value, list | tuple) else (value,):
        if isinstance(one, str) and (is_gate_file(one) or one in GATES):
            raise ValueError(f"a file of gates stands in gate, got {one!r}")
    return read_numbers(value, fine=bool(info.context and info.context["search"]))


class Recordings(Table):
    """What the network does; paths are relative to the study file.

    Either `trace` (directories or topology files that exist), or `network` and `clip` with gates. `loop` says whose
    masks a block size gets: "closed" records the network with it; "open" coarsens the recording of single pixels, a
    superset of what the gate asks for, and bounds accuracy and time without a recording of its own.
    """

    trace: Names | None = None
    network: Names | None = Field(None, description='registered names, or "package.module:factory"')
    clip: Annotated[tuple[Clip, ...], BeforeValidator(read_clips), Field(min_length=1)] | None = Field(
        None, description="what read_frames takes, or labelled clips pose:SPLIT:COUNT; a table names groups of them"
    )
    frames: Side | None = Field(None, description="at most so many of every clip")
    size: Annotated[tuple[tuple[int, int], ...], BeforeValidator(read_sizes), Field(min_length=1)] | None = Field(
        None, description="rows, cols of frames; None: the network's usual ones, or as they are"
    )
    weights: Name | None = None
    gate: Names = Field(("input_norm",), description="names, or files of `skipsim tune` and `skipsim train`")
    threshold: Annotated[tuple[Threshold, ...], BeforeValidator(_thresholds), Field(min_length=1)] | None = None
    block: Annotated[tuple[Any, ...], BeforeValidator(read_blocks), Field(min_length=1)] = read_blocks(1)
    update: Annotated[
        tuple[Literal["previous", "accumulate", "recompute"], ...], BeforeValidator(read_axis), Field(min_length=1)
    ] = ("recompute",)
    reset_every: Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(read_axis), Field(min_length=1)] = (
        Field((0,), description="frames between reference frames; 0: only the first is one")
    )
    share: Annotated[tuple[Literal["", "block", "network"], ...], BeforeValidator(read_axis), Field(min_length=1)] = (
        Field(("",), description='whose mask a layer takes, see convert; "": its own, or as its gates were trained')
    )
    signal: Annotated[
        tuple[Literal["", "residual", "magnitude", "frame"], ...], BeforeValidator(read_axis), Field(min_length=1)
    ] = Field(("",), description='what gates look at, see convert; "": the residual, or as they were trained')
    loop: Annotated[tuple[Literal["closed", "open"], ...], BeforeValidator(read_axis), Field(min_length=1)] = (
        "closed",
    )

    @model_validator(mode="after")
    def _traces_or_networks(self) -> Self:
        if self.trace is not None:
            others = self.model_fields_set - {"trace"}
            if others:
                raise ValueError(f"trace excludes {', '.join(sorted(others))}: existing traces are taken as they are")
            return self
        for key in ("network", "clip", "threshold"):
            if getattr(self, key) is None and (key != "threshold" or set(self.gate) & set(NORM_GATES)):
                raise ValueError(f"{key} is missing (or give trace, for existing traces)")
        for gate in self.gate:
            if gate not in GATES and not is_gate_file(gate):
                raise ValueError(f"gate {gate!r} is unknown; {nearest(gate, GATES)}; or a file of gates")
        if self.weights is not None and len(self.network or ()) > 1:
            raise ValueError("weights needs a single network")
        return self

    def block_plans(self) -> tuple[BlockPlan, ...]:
        """Return every choice of blocks."""
        return tuple(dict.fromkeys(plan for axes in self.block for plan in axes.plans()))

    def choices(self, folder: Path = Path()) -> Iterator[RecordingChoice]:
        """Return every combination of these axes, in their order; `folder` is where files of gates are looked for."""
        if self.trace is not None:
            yield from (RecordingChoice(self, trace=trace) for trace in self.trace)
            return
        found: dict[RecordingChoice, None] = {}
        for network, size, clip, gate, share, signal, update, reset, loop in product(
            self.network or (), self.size or (None,), self.clip or (), self.gate, self.share, self.signal, self.update,
            self.reset_every, self.loop,
        ):  # fmt: skip
            if gate == "hold" and not reset and any(self.reset_every):
                continue  # frames between references of the other gates
            for block, threshold in product(self.block_plans(), self.thresholds(gate)):
                choice = RecordingChoice(
                    self,
                    None,
                    network,
                    clip.name,
                    gate,
                    threshold,
                    block,
                    share,
                    signal,
                    update,
                    reset,
                    loop,
                    clip.group,
                    size,
                )
                found[choice.settled(folder)] = None
        yield from found

    def thresholds(self, gate: str) -> tuple[float, ...]:
        """Return the thresholds of a gate; nan alone for one that has none, or its own.

        Those of the logits of trained gates are another quantity: they stand in a table without norm gates, or nowhere.
        """
        trained = gate == "gumbel" or gate.endswith(TRAINED)
        if gate in NORM_GATES or (trained and not set(self.gate) & set(NORM_GATES)):
            return self.threshold or (math.nan,)
        return (math.nan,)


@dataclass(frozen=True)
class RecordingChoice:
    """One combination of the recording axes of a table, or one existing trace."""

    axes: Recordings
    trace: str | None = None
    network: str = ""
    clip: str = ""
    gate: str = ""
    threshold: float = math.nan
    block: BlockPlan = SINGLE_PIXELS
    share: str = ""
    signal: str = ""
    update: str = ""
    reset_every: int = 0
    loop: str = ""
    group: str = ""  # of the clip
    size: tuple[int, int] | None = None  # rows, cols that frames are resized to

    @property
    def network_name(self) -> str:
        """The network in tables: with size and weights, where these are not the usual ones."""
        name = network_at(self.network, self.size)
        return f"{name} {Path(self.axes.weights).with_suffix('').as_posix()}" if self.axes.weights else name

    def settled(self, folder: Path) -> RecordingChoice:
        """Return the choice as its gate has it, which may have no threshold, and in a file has block and update form.

        Raises:
            InputError: a file that holds no gates, or gates of larger blocks in open loop.
        """
        if self.gate == "none":
            return RecordingChoice(
                self.axes, self.trace, self.network, self.clip, "none",
                update="recompute", loop="closed", group=self.group, size=self.size,
            )  # fmt: skip
        choice = self
        if self.gate == "hold":  # nothing is decided by block
            choice = replace(choice, block=SINGLE_PIXELS, share="", signal="", loop="closed")
        if self.threshold not in self.axes.thresholds(self.gate):
            choice = replace(choice, threshold=math.nan)
        if not is_gate_file(self.gate):
            return choice
        file = read_gate_file(folder / self.gate)
        plan = plan_of(file.block)
        if self.loop == "open" and plan != SINGLE_PIXELS:
            raise InputError(
                f"gate {self.gate!r}: open loop needs gates of single pixels, these are for blocks of {plan}"
            )
        return replace(choice, block=self.block if self.loop == "open" else plan, update=file.update or self.update)

    def columns(self) -> dict[str, Any]:
        """Return the columns of the table that name this choice; of an existing trace they are in the trace."""
        if self.trace is not None:
            return {}
        return {
            "network": self.network_name,
            "clip": self.clip,
            "group": self.group,
            "gate": self.gate,
            "threshold": self.threshold,
            **block_columns(self.block.default if not self.block.groups else None, str(self.block)),
            "update": self.update,
            "reset_every": self.reset_every,
            "loop": self.loop,
            "share": self.share,
            "signal": self.signal,
        }

"""Search: NSGA-II picks combinations of a study's axes instead of running them all.

Every axis of the study is a dimension: thresholds, blocks (one dimension per group of layers), tiles, machines and
their numbers. A trial is one combination on all clips; its objectives are the means of the results table. The first
half of the trials is a coarse grid; generations go on from its front. Trials are asked for one generation at a time, so
that a generation's recordings and simulations run in parallel.

`search.journal` in the study's folder is Optuna's journal. Every proposal draws from a random number generator of its
own, seeded by its place, so a search that was killed goes on to the same trials as one that was not.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from skipsim.analysis.recording_axes import RecordingChoice
from skipsim.analysis.results import OBJECTIVES
from skipsim.analysis.running.simulations import SimulationChoice
from skipsim.analysis.study import Search, Study
from skipsim.atomic import write_text
from skipsim.errors import InputError

JOURNAL = "search.journal"
ATTEMPTS = 20
WORST = 1e30  # what a trial that cannot run gets instead of its objectives


@dataclass(frozen=True)
class Dimension:
    """One axis of the search: what it is called, and its values."""

    name: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Trial:
    """One combination: what is recorded (one choice per clip), and what it is simulated on."""

    recordings: tuple[RecordingChoice, ...]
    simulation: SimulationChoice


def space_of(study: Study) -> list[Dimension]:
    """Return the dimensions of a study's search."""
    axes, simulation = study.recording[0], study.simulation
    blocks = axes.block[0].groups if len(axes.block) == 1 else [("", axes.block_plans())]
    recorded = [
        Dimension("gate", axes.gate),
        Dimension("share", axes.share),
        Dimension("signal", axes.signal),
        Dimension("update", axes.update),
        Dimension("reset_every", axes.reset_every),
        Dimension("threshold", axes.threshold or (math.nan,)),
        *(Dimension(f"block {group}", tuple(values)) for group, values in blocks),
    ]
    return [
        *(recorded if axes.trace is None else ()),
        Dimension("hardware", tuple(study.machines)),
        *(Dimension(key, values) for key, values in simulation.overrides.items()),
        Dimension("tile", simulation.tile),
    ]


def trial_of(study: Study, place: Mapping[str, int]) -> Trial:
    """Return the combination at a place of the search space: an index into the values of every dimension."""
    chosen = {one.name: one.values[place[one.name]] for one in space_of(study)}
    values = tuple(chosen[key] for key in study.simulation.overrides)
    simulation = study.simulation_choice(chosen["hardware"], values, chosen["tile"])
    axes = study.recording[0]
    if axes.trace is not None:
        return Trial(tuple(axes.choices()), simulation)
    blocks = [value for name, value in chosen.items() if name.startswith("block ")]
    block = axes.block[0].plan(blocks) if len(axes.block) == 1 else blocks[0]
    names = ("gate", "threshold", "update", "reset_every", "share", "signal")
    named = {name: chosen[name] for name in names}
    (network,), (size,) = axes.network or ("",), axes.size or (None,)
    clips = axes.clip or ()
    return Trial(
        tuple(
            RecordingChoice(
                axes, None, network, clip.name, block=block, loop=axes.loop[0], group=clip.group, size=size, **named
            ).settled(study.folder)
            for clip in clips
        ),
        simulation,
    )


Run = Callable[[Sequence[Trial]], pd.DataFrame]


def search(study: Study, folder: Path, run: Run) -> list[Trial]:
    """Search until the study's number of trials is reached; return what was run, each once, in order of trial.

    Args:
        study: a study with [search].
        folder: where the journal is or will be.
        run: evaluates combinations: their rows of the results table, clips of one combination after the other.

    Raises:
        InputError: optuna is not installed, or an objective that this study does not measure.
    """
    assert study.search is not None, "only a study with [search] is searched"
    optuna = _optuna()
    journal = _open(optuna, study, folder)
    first = coarse_grid(space_of(study), -(-study.search.trials // 2))
    start, population, exhausted = len(first), population_of(study.search), False
    while True:
        trials = _kept(optuna, journal, study)
        done = [trial for trial in trials if trial.state.is_finished()]
        if len(done) >= study.search.trials or (exhausted and len(done) == len(trials)):
            tried = dict.fromkeys(trial_of(study, trial.params) for trial in done[: study.search.trials])
            return [trial for trial in tried if _possible(study, trial)]
        generation = max(0, len(done) - start) // population
        end = start if len(done) < start else min(study.search.trials, start + (generation + 1) * population)
        seen = {tuple(trial.params.items()) for trial in trials}
        for number in range(len(trials), end):
            place = _propose(optuna, journal, study, number, first[number : number + 1], seen)
            exhausted = place is None
            if exhausted:
                break
            seen.add(place)
        running = [trial for trial in _kept(optuna, journal, study) if not trial.state.is_finished()]
        _evaluate(optuna, journal, study, running, run)


def population_of(search: Search) -> int:
    """Return how many trials a generation has."""
    return search.population or max(2, round(math.sqrt(search.trials)))


def coarse_grid(space: Sequence[Dimension], most: int) -> list[dict[str, int]]:
    """Return the places of a grid of at most so many combinations, ends of axes included; blocks alike in all groups.

    Every axis gets as many values as the others, as far as it has them; one that gets a single value, its middle one.
    Blocks of different layers seldom gain from being far apart, so that uniform ones are where to start from.
    """
    sizes: dict[str, int] = {}
    for one in space:
        sizes[_axis(one)] = max(sizes.get(_axis(one), 1), len(one.values))
    levels, growing = dict.fromkeys(sizes, 1), [axis for axis, size in sizes.items() if size > 1]
    while growing:
        axis = min(growing, key=lambda axis: levels[axis])
        if math.prod(levels.values()) // levels[axis] * (levels[axis] + 1) > most:
            break
        levels[axis] += 1
        growing = [axis for axis in growing if levels[axis] < sizes[axis]]
    combinations = (dict(zip(levels, one, strict=True)) for one in product(*map(range, levels.values())))
    places = [
        {one.name: _at(len(one.values), level[_axis(one)], levels[_axis(one)]) for one in space}
        for level in combinations
    ]
    return [place for number, place in enumerate(places) if place not in places[:number]]


def _axis(dimension: Dimension) -> str:
    return "block" if dimension.name.startswith("block ") else dimension.name


def _at(size: int, level: int, levels: int) -> int:
    """Return which of so many values the level stands for."""
    return size // 2 if levels == 1 else round(level * (size - 1) / (levels - 1))


def _propose(
    optuna: Any, journal: Any, study: Study, number: int, first: Sequence[dict[str, int]], seen: set[Any]
) -> Any:
    """Ask for one combination that is new and can be, `first` if it is one; None if there seems to be no more.

    Crossover often gives what is there already; what it does not find is then looked for at random.
    """
    assert study.search is not None
    space = space_of(study)
    mutation = 1 / max(1, sum(len(one.values) > 1 for one in space))  # one value of a combination on average
    for attempt in range(2 * ATTEMPTS):
        seed = int.from_bytes(hashlib.sha256(f"{study.search.seed} {number} {attempt}".encode()).digest()[:4], "big")
        sampler = optuna.samplers.NSGAIISampler(
            population_size=population_of(study.search), mutation_prob=mutation, seed=seed
        )
        chosen = first[0] if first and not attempt else None
        if attempt >= ATTEMPTS:
            draw = random.Random(seed)
            chosen = {one.name: draw.randrange(len(one.values)) for one in space}
        journal.sampler = sampler if chosen is None else optuna.samplers.PartialFixedSampler(chosen, sampler)
        asked = journal.ask()
        for one in space:
            asked.suggest_int(one.name, 0, len(one.values) - 1)
        place = tuple(asked.params.items())
        if place not in seen and _exists(study, asked.params):
            return place
        journal.tell(asked, state=optuna.trial.TrialState.FAIL)
    return None


def _exists(study: Study, place: Mapping[str, int]) -> bool:
    """Tell whether a combination is a machine at all: some values exclude each other."""
    try:
        trial_of(study, place)
    except InputError:
        return False
    return True


def _evaluate(optuna: Any, journal: Any, study: Study, running: Sequence[Any], run: Run) -> None:
    """Run the trials that are under way and tell the journal what came out."""
    if not running:
        return
    trials = [trial_of(study, trial.params) for trial in running]
    possible = list(dict.fromkeys(trial for trial in trials if _possible(study, trial)))
    table = run(possible)
    by_trial, begin = {}, 0
    for trial in possible:
        by_trial[trial] = table.iloc[begin : begin + len(trial.recordings)]
        begin += len(trial.recordings)
    _check_objectives(study, table)
    for frozen, trial in zip(running, trials, strict=True):
        values, broken = None, _beforehand(study, trial)
        if trial in by_trial:
            values, broken = _outcome(study, by_trial[trial], broken)
        told = optuna.trial.Trial(journal, frozen._trial_id)
        for name, amount in broken.items():
            if name not in frozen.constraints:
                told.set_constraint(name, amount)
        journal.tell(frozen.number, values or [WORST * (-1 if OBJECTIVES[name] else 1) for name in study.objectives])


def _possible(study: Study, trial: Trial) -> bool:
    return not any(_beforehand(study, trial).values())


def _beforehand(study: Study, trial: Trial) -> dict[str, float]:
    """Return by how much a combination breaks each constraint, as far as that is known before it runs; 0: not."""
    known = trial.recordings[0].columns() | trial.simulation.known()
    return {"failed": 0.0} | {
        str(one): one.violation(known[one.column]) if one.column in known else 0.0 for one in study.constraints
    }


def _outcome(
    study: Study, rows: pd.DataFrame, broken: Mapping[str, float]
) -> tuple[list[float] | None, dict[str, float]]:
    """Return the objectives of a combination that ran, None if it failed, and by how much constraints are broken."""
    if (rows["error"] != "").any():
        return None, {**broken, "failed": 1.0}
    late = {str(one): max(one.violation(value) for value in rows[one.column]) for one in study.late_constraints}
    return [float(rows[name].mean()) for name in study.objectives], {**broken, **late}


def _check_objectives(study: Study, table: pd.DataFrame) -> None:
    able = table[table["error"] == ""]
    for name in study.objectives:
        if len(able) and able[name].isna().all():
            raise InputError(
                f"study {study.name!r}: search: no row has the objective {name!r}; choose other objectives"
            )


def _kept(optuna: Any, journal: Any, study: Study) -> list[Any]:
    """Return finished trials and those under way; a proposal that a kill cut short or left double is given up."""
    kept: list[Any] = []
    for trial in journal.get_trials(deepcopy=False):
        whole = len(trial.params) == len(space_of(study)) and all(trial.params != other.params for other in kept)
        if trial.state == optuna.trial.TrialState.RUNNING and not whole:
            journal.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        elif trial.state != optuna.trial.TrialState.FAIL:
            kept.append(trial)
    return kept


def _open(optuna: Any, study: Study, folder: Path) -> Any:
    """Open the journal of this search; another space, objective or seed is another search in the same file."""
    file = folder / JOURNAL
    for lock in folder.glob(f"{JOURNAL}.*"):  # whoever held it was killed: the folder is locked by us
        lock.unlink()
    if file.exists():
        whole = file.read_bytes()
        if not whole.endswith(b"\n"):  # a kill or a full disk cut the last line short
            write_text(file, whole[: whole.rfind(b"\n") + 1].decode())
    assert study.search is not None
    identity = [
        [[one.name, [_plain(value) for value in one.values]] for one in space_of(study)],
        [str(one) for one in study.constraints],
        [study.objectives, study.search.seed],
        study.recording[0].model_dump(mode="json", include={"network", "clip", "frames", "size", "weights", "trace"}),
    ]
    name = hashlib.sha256(json.dumps(identity, default=str).encode()).hexdigest()[:16]
    return optuna.create_study(
        storage=optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(file))),
        study_name=name,
        directions=["maximize" if OBJECTIVES[name] else "minimize" for name in study.objectives],
        load_if_exists=True,
    )


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else str(value)


def _optuna() -> Any:
    try:
        import optuna
    except ModuleNotFoundError:
        raise InputError("a study with [search] needs optuna: pip install 'skipsim[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", message="PartialFixedSampler is experimental")
    return optuna

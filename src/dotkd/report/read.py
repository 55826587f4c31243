"""Reads a comparison: finished runs sorted into arms and sweeps, with notes on unequal conditions.

Code that reads folders, recipes and environments belongs here; numbers belong to ``statistics``.
"""

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

from dotkd.errors import BadInput
from dotkd.records import Sweep, Tuning
from dotkd.runs import SWEEP, TUNING, RunRecord, find_runs, read_record

KINDS = ("plain", "sgd", "dot", "control")
"""Kinds of arms, in the order of a report; other optimizers come last."""
WEIGHTS = ("task_weight", "distill_weight", "warmup")
"""Options of a method that weigh its losses and leave the raw losses as they are."""
_TAUGHT = ("label_noise", "train_images", "validation", "seed")
_MANY = 3  # arms with one seed that get a note each

Arms = Mapping[str, Sequence[RunRecord]]


@dataclass(frozen=True)
class SweptPoint:
    """An arm of a sweep: its swept values as text, and its place on the axis."""

    name: str
    values: tuple[str, ...]
    place: float

    @property
    def label(self) -> str:
        """The values on one line."""
        return " / ".join(self.values)


@dataclass(frozen=True)
class Series:
    """The arms that a sweep made of one recipe, the base; ``numeric``: places are the swept numbers."""

    base: str
    keys: tuple[str, ...]
    points: tuple[SweptPoint, ...]
    numeric: bool

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arms."""
        return tuple(point.name for point in self.points)


@dataclass(frozen=True)
class Comparison:
    """Finished runs of students by arm, in the order of a report, with teachers, sweep and tuning.

    ``series`` are the arms of the sweep that were run; ``kinds`` maps an arm to one of :data:`KINDS` or to
    the name of another optimizer.
    """

    arms: Arms
    kinds: Mapping[str, str]
    teachers: tuple[RunRecord, ...] = ()
    sweep: Sweep | None = None
    tuning: Tuning | None = None
    series: tuple[Series, ...] = ()

    @property
    def runs(self) -> tuple[RunRecord, ...]:
        """All runs of students."""
        return tuple(run for runs in self.arms.values() for run in runs)

    @property
    def bases(self) -> dict[str, str]:
        """Maps each arm to the base that it was swept from, or to itself."""
        swept = {name: series.base for series in self.series for name in series.names}
        return {name: swept.get(name, name) for name in self.arms}

    @property
    def labels(self) -> dict[str, str]:
        """Short names: base and values of a swept arm, else the name."""
        swept = {p.name: f"{series.base}: {p.label}" for series in self.series for p in series.points}
        return {name: swept.get(name, name) for name in self.arms}

    @property
    def not_run(self) -> list[str]:
        """Arms of the sweep without a finished run."""
        return [arm.name for arm in self.sweep.arms if arm.name not in self.arms] if self.sweep else []


def read_comparison(folder: Path) -> Comparison:
    """Read all finished runs in a folder or below it, with the sweep and the tuning of the folder.

    Args:
        folder: The folder of a comparison, or of a run.

    Returns:
        The comparison.

    Raises:
        BadInput: The folder has no finished run of a student, a file is broken, an arm has a seed twice, or a
            run was not tested; the message names the folder or the file.

    Example:
        >>> from dotkd.recipe import load_recipe
        >>> from dotkd.train import train
        >>> _ = train(load_recipe("quick/digits-plain", ["schedule.epochs=1"]), Path("runs/plain"))
        >>> list(read_comparison(Path("runs")).arms)
        ['plain']
    """
    folder = Path(folder)
    runs = find_runs(folder)
    if not runs:
        raise BadInput(f"{folder}: no finished run in this folder or below it")
    places = folder / SWEEP, folder / TUNING
    sweep = read_record(places[0], Sweep) if places[0].exists() else None
    tuning = read_record(places[1], Tuning) if places[1].exists() else None
    try:
        return compared(runs, sweep, tuning)
    except BadInput as error:
        raise BadInput(f"{folder}: {error}") from None


def compared(
    runs: Sequence[RunRecord], sweep: Sweep | None = None, tuning: Tuning | None = None
) -> Comparison:
    """Sort runs into arms: by kind, then by name; within an arm by seed.

    Args:
        runs: Finished runs, teachers too.
        sweep: The sweep of the comparison.
        tuning: The tuning of the comparison.

    Returns:
        The comparison.

    Raises:
        BadInput: No run is a student's, an arm has a seed twice, or a run was not tested.
    """
    found: dict[str, list[RunRecord]] = {}
    for run in sorted((run for run in runs if not run.is_teacher), key=lambda run: run.seed):
        if run.results.last.test_accuracy is None:
            raise BadInput(
                f"{run.path} was never tested, as trials of a learning rate are not: no report is made"
            )
        members = found.setdefault(run.name, [])
        if members and members[-1].seed == run.seed:
            where = f"{members[-1].path} and {run.path}"
            raise BadInput(f"arm {run.name!r} has seed {run.seed} twice: {where}; move one of them away")
        members.append(run)
    if not found:
        raise BadInput("no finished run of a student: there is nothing to report")
    kinds = {name: _kind(members[0]) for name, members in found.items()}

    def order(name: str) -> tuple[int, bool, str]:
        kind = kinds[name]
        # Among arms without a teacher the plain student comes before, say, label smoothing.
        return (KINDS.index(kind) if kind in KINDS else len(KINDS), "method" in found[name][0].recipe, name)

    arms = {name: found[name] for name in sorted(found, key=order)}
    teachers = tuple(run for run in runs if run.is_teacher)
    kinds = {name: kinds[name] for name in arms}
    return Comparison(arms, kinds, teachers, sweep, tuning, tuple(_series(sweep, arms)))


def is_distilled(run: RunRecord) -> bool:
    """Tell whether a run has a teacher and a method."""
    return bool(run.recipe.get("method") and run.recipe.get("teacher"))


def _kind(run: RunRecord) -> str:
    return str(run.recipe["optimizer"]["name"]) if is_distilled(run) else "plain"


def without_seed(run: RunRecord) -> dict[str, Any]:
    """Return the recipe without its seeds."""
    return {
        key: {inner: value[inner] for inner in value if inner != "seed"} if isinstance(value, dict) else value
        for key, value in run.recipe.items()
    }


def losses_of(run: RunRecord) -> tuple[Any, ...]:
    """Return method, teacher and checksum: runs with the same have one scale of distillation losses."""
    method = {key: value for key, value in run.recipe["method"].items() if key not in WEIGHTS}
    return (method, run.recipe.get("teacher"), run.environment.get("teacher_checksum"))


# ---------------------------------------------------------------- sweeps


def _series(sweep: Sweep | None, arms: Arms) -> Iterator[Series]:
    """Sort the arms of a sweep that were run by base, and in order of their numbers."""
    if sweep is None:
        return
    numeric = len(sweep.keys) == 1 and all(_is_number(arm.values[0]) for arm in sweep.arms)
    values = list(dict.fromkeys(_shown(arm.values) for arm in sweep.arms))
    found: dict[str, list[SweptPoint]] = {}
    for arm in sweep.arms:
        if arm.name in arms:
            shown = _shown(arm.values)
            place = float(arm.values[0]) if numeric else float(values.index(shown))
            found.setdefault(arm.base, []).append(SweptPoint(arm.name, shown, place))
    for base, points in found.items():
        yield Series(base, sweep.keys, tuple(sorted(points, key=lambda point: point.place)), numeric)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _shown(values: Sequence[Any]) -> tuple[str, ...]:
    return tuple(
        f"{value:.6g}" if _is_number(value) else value if isinstance(value, str) else json.dumps(value)
        for value in values
    )


# ---------------------------------------------------------------- unequal conditions


def partners(arms: Arms, names: Sequence[str], others: Sequence[str]) -> list[tuple[str, str]]:
    """Pair each arm with the arm that it is to be compared with.

    Args:
        arms: Name of an arm -> its runs.
        names: The arms to pair.
        others: The candidates.

    Returns:
        Each arm with the candidate of the same method that has the same ``delta``, which a control matches,
        and else the nearest settings; arms without a candidate are left out.
    """

    def distance(mine: Mapping[str, Any], other: str) -> tuple[bool, int]:
        theirs = arms[other][0].recipe
        optimizer = theirs["optimizer"]
        differs = "delta" in optimizer and optimizer["delta"] != mine["optimizer"].get("delta")
        return differs, len(_settings(mine, theirs))

    pairs = []
    for name in names:
        mine = arms[name][0].recipe
        method = mine["method"]["name"]
        same = [other for other in others if arms[other][0].recipe["method"]["name"] == method]
        if same:
            pairs.append((name, min(same, key=partial(distance, mine))))
    return pairs


def notes(comparison: Comparison, pairs: Sequence[tuple[str, str]]) -> Iterator[str]:
    """State the unequal conditions within arms, between arms, and between teachers and students.

    Args:
        comparison: The runs.
        pairs: Arms that should differ in the kind of optimizer only.

    Yields:
        Sentences.
    """
    arms = comparison.arms
    single = [name for name, runs in arms.items() if len(runs) == 1]
    for name, runs in arms.items():
        if any(without_seed(run) != without_seed(runs[0]) for run in runs):
            yield f"The runs of {name} have different recipes: its mean mixes them."
        if len({run.environment.get("teacher_checksum") for run in runs}) > 1:
            yield f"The runs of {name} have different teachers: its mean mixes them."
        if name in single and len(single) <= _MANY:
            yield f"{name} has only one seed: no interval."
    if len(single) > _MANY:
        who = "All" if len(single) == len(arms) else f"{len(single)} of"
        yield f"{who} {len(arms)} arms have only one seed: no interval."
    for name, runs in arms.items():
        for what, seeds in _unmeasured(runs).items():
            yield f"{name}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}: no {what}."
    for first, second in combinations(arms, 2):
        if found := _conditions(arms[first], arms[second]):
            yield f"{first} and {second} were run under unequal conditions: {', '.join(found)}."
    for name, other in pairs:
        if found := _settings(arms[name][0].recipe, arms[other][0].recipe):
            yield f"{name} and {other} differ in more than the kind of optimizer: {', '.join(found)}."
    students = comparison.runs[0].recipe["data"]
    for teacher in comparison.teachers:
        theirs = {key: value for key, value in teacher.recipe["data"].items() if key in _TAUGHT}
        if found := _unequal("data", theirs, {key: students.get(key) for key in theirs}):
            yield f"{teacher.name} and its students had different data: {', '.join(found)}."


def _unmeasured(runs: Sequence[RunRecord]) -> dict[str, list[int]]:
    """Return what could not be measured, with the reason, and the seeds of which it is missing."""
    found: dict[str, list[int]] = {}
    for run in runs:
        reasons = {line.gradient_reason: None for line in run.metrics if line.gradient_reason is not None}
        said = [f"comparison of the gradients ({reason})" for reason in reasons]
        said += [f"{part} ({why})" for part, why in (run.analysis.reasons if run.analysis else {}).items()]
        for what in said:
            found.setdefault(what, []).append(run.seed)
    return found


def _settings(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Name the settings of method and optimizer that differ, of those that both optimizers have."""
    shared = {key: value for key, value in one["optimizer"].items() if key in other["optimizer"]}
    return [
        *_unequal("method", one.get("method", {}), other.get("method", {})),
        *_unequal("optimizer", shared, {key: other["optimizer"][key] for key in shared}, but={"name"}),
    ]


def _unequal(
    table: str, one: Mapping[str, Any], other: Mapping[str, Any], but: Collection[str] = ()
) -> list[str]:
    keys = [key for key in {**one, **other} if key not in but and one.get(key) != other.get(key)]
    return [f"{table}.{key} ({one.get(key, 'absent')} and {other.get(key, 'absent')})" for key in keys]


def _conditions(one: Sequence[RunRecord], other: Sequence[RunRecord]) -> list[str]:
    """Name the differences in data, student, schedule, run and teacher; compares equal seeds if any."""
    theirs = {run.seed: run for run in other}
    shared = [(run, theirs[run.seed]) for run in one if run.seed in theirs]
    but = set() if shared else {"seed"}
    found: dict[str, None] = {}
    for mine, its in shared or [(one[0], other[0])]:
        for table in ("data", "student", "schedule"):
            differing = _unequal(table, mine.recipe.get(table, {}), its.recipe.get(table, {}), but)
            found.update(dict.fromkeys(differing))
        found.update(dict.fromkeys(_unequal("run", mine.recipe["run"], its.recipe["run"], {"seed"})))
        if "method" in mine.recipe and "method" in its.recipe:
            checksums = [run.environment.get("teacher_checksum") for run in (mine, its)]
            if checksums[0] != checksums[1]:
                found[f"the teacher ({checksums[0]} and {checksums[1]})"] = None
    return list(found)

"""The numbers of a report: means and errors of each arm, differences paired by seed, what was unequal.

Here belongs everything that is computed from runs; how it is said or drawn belongs to the neighbours.
Accuracies stay fractions here. An interval is a two-sided 95 % interval of Student's t.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from dotkd.errors import BadInput
from dotkd.runs import RunRecord

_TAUGHT = ("label_noise", "train_images", "validation", "seed")
ORDER = ("plain", "sgd", "dot", "control")
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over ``n`` seeds; one seed has no deviation, no standard error and no interval."""

    n: int
    mean: float
    deviation: float | None
    error: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Arm:
    """What the runs of one name have in common; ``kind`` is one of ORDER, or another optimizer's name."""

    name: str
    kind: str
    seeds: tuple[int, ...]
    test: Estimate
    best: Estimate | None
    task_loss: Estimate | None
    distill_loss: Estimate | None
    seconds: float
    parameters: int


@dataclass(frozen=True)
class Difference:
    """Test accuracy after the last epoch, ``arm`` minus ``against``, over the seeds that both have.

    ``verdict`` is "higher" or "lower" where the interval excludes 0, "not distinguishable" where it
    contains 0, "one seed" and "no spread" where
    there is no interval, and "no common seed".
    """

    arm: str
    against: str
    seeds: tuple[int, ...]
    mean: float | None
    low: float | None
    high: float | None
    verdict: str


@dataclass(frozen=True)
class Teacher:
    """A teacher run: a line to compare with, not an arm."""

    name: str
    seed: int
    test_accuracy: float


@dataclass(frozen=True)
class Summary:
    """All numbers of a report.

    ``to_baseline`` has every other arm, ``to_plain`` every distilled arm, ``to_sgd`` each DOT arm
    against plain momentum with its method, ``to_control`` each DOT arm against its matched control.
    """

    arms: tuple[Arm, ...]
    baseline: str
    to_baseline: tuple[Difference, ...]
    to_plain: tuple[Difference, ...]
    to_sgd: tuple[Difference, ...]
    to_control: tuple[Difference, ...]
    teachers: tuple[Teacher, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Give the same as a dict of lists, strings and numbers."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }


def summarize(runs: Sequence[RunRecord]) -> Summary:
    """Compute the numbers of a report.

    Args:
        runs: finished runs; those of one name are one arm, teachers are a reference only.

    Returns:
        The arms in order (plain, then momentum, DOT, control, then by name), and their differences.

    Raises:
        BadInput: if no run is a student's, or an arm has a seed twice.
    """
    groups = by_arm(runs)
    if not groups:
        raise BadInput("no finished run of a student: there is nothing to report")
    kinds = {name: kind_of(members[0]) for name, members in groups.items()}
    plain = [name for name, kind in kinds.items() if kind == "plain"]
    distilled = [name for name, kind in kinds.items() if kind != "plain"]
    sgd, dot, controls = ([name for name in distilled if kinds[name] == kind] for kind in ORDER[1:])
    baseline = (sgd if len(sgd) == 1 else distilled or plain)[0]
    with_sgd, with_control = (_partners(groups, dot, others) for others in (sgd, controls))

    def differences(pairs: Sequence[tuple[str, str]]) -> tuple[Difference, ...]:
        return tuple(difference(groups[arm], groups[against]) for arm, against in pairs)

    return Summary(
        arms=tuple(_arm(members) for members in groups.values()),
        baseline=baseline,
        to_baseline=differences([(name, baseline) for name in groups if name != baseline]),
        to_plain=differences([(name, plain[0]) for name in distilled if plain]),
        to_sgd=differences(with_sgd),
        to_control=differences(with_control),
        teachers=tuple(
            Teacher(run.name, run.seed, run.results["last"]["test_accuracy"])
            for run in runs
            if run.is_teacher
        ),
        notes=(
            *_notes(groups, [*with_sgd, *with_control]),
            *_teacher_notes([run for run in runs if run.is_teacher], groups),
        ),
    )


def by_arm(runs: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """Sort students' runs into arms, in the order of a report; within an arm by seed.

    Args:
        runs: the runs; teachers are left out.

    Returns:
        Name of an arm -> its runs.

    Raises:
        BadInput: if an arm has a seed twice, for then no pairing by seed is right.
    """
    groups: dict[str, list[RunRecord]] = {}
    for run in sorted((run for run in runs if not run.is_teacher), key=lambda run: run.seed):
        members = groups.setdefault(run.name, [])
        if members and members[-1].seed == run.seed:
            where = f"{members[-1].path} and {run.path}"
            raise BadInput(f"arm {run.name!r} has seed {run.seed} twice: {where}; move one of them away")
        members.append(run)

    def place(name: str) -> tuple[int, str]:
        kind = kind_of(groups[name][0])
        return (ORDER.index(kind) if kind in ORDER else len(ORDER), name)

    return {name: groups[name] for name in sorted(groups, key=place)}


def kind_of(run: RunRecord) -> str:
    """Tell "plain" from the optimizer's name of a distilled run."""
    return str(run.recipe["optimizer"]["name"]) if run.recipe.get("method") else "plain"


def estimate(values: Sequence[float]) -> Estimate:
    """Give mean, deviation (n - 1), standard error and 95 % interval of the mean of some values."""
    from scipy import stats  # type: ignore[import-untyped]  # slow to load

    n, mean = len(values), float(np.mean(values))
    if n == 1:
        return Estimate(n, mean, None, None, None, None)
    deviation = float(np.std(values, ddof=1))
    error = deviation / math.sqrt(n)
    reach = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * error
    return Estimate(n, mean, deviation, error, mean - reach, mean + reach)


def difference(arm: Sequence[RunRecord], against: Sequence[RunRecord]) -> Difference:
    """Compare the last test accuracies of two arms, seed by seed."""
    ours, theirs = (
        {run.seed: run.results["last"]["test_accuracy"] for run in runs} for runs in (arm, against)
    )
    seeds = tuple(seed for seed in ours if seed in theirs)
    names = (arm[0].name, against[0].name)
    if not seeds:
        return Difference(*names, seeds, None, None, None, "no common seed")
    paired = estimate([ours[seed] - theirs[seed] for seed in seeds])
    if paired.low is None or paired.high is None:
        verdict = "one seed"
    elif paired.high - paired.low < 1e-9:  # accuracies are counts of few images: equal ones do occur
        verdict = "no spread"
    elif paired.low <= 0 <= paired.high:
        verdict = "not distinguishable"
    else:
        verdict = "higher" if paired.mean > 0 else "lower"
    return Difference(*names, seeds, paired.mean, paired.low, paired.high, verdict)


def _arm(runs: Sequence[RunRecord]) -> Arm:
    def over(values: Sequence[float | None]) -> Estimate | None:
        known = [value for value in values if value is not None]
        return estimate(known) if known else None

    return Arm(
        name=runs[0].name,
        kind=kind_of(runs[0]),
        seeds=tuple(run.seed for run in runs),
        test=estimate([run.results["last"]["test_accuracy"] for run in runs]),
        best=over([run.results["best"]["test_accuracy"] for run in runs if run.results.get("best")]),
        task_loss=over([run.metrics[-1]["train_task_loss"] for run in runs]),
        distill_loss=over([run.metrics[-1]["train_distill_loss"] for run in runs]),
        seconds=float(np.mean([run.results["seconds"] for run in runs])),
        parameters=int(runs[0].results["parameters"]),
    )


# ---------------------------------------------------------------- what was unequal


def _partners(
    groups: Mapping[str, Sequence[RunRecord]], arms: Sequence[str], others: Sequence[str]
) -> list[tuple[str, str]]:
    """For each arm the other one with its method whose settings are nearest."""
    pairs = []
    for name in arms:
        mine = groups[name][0].recipe
        same = [
            other for other in others if groups[other][0].recipe["method"]["name"] == mine["method"]["name"]
        ]
        if same:
            pairs.append((name, min(same, key=lambda other: len(_settings(mine, groups[other][0].recipe)))))
    return pairs


def _settings(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Settings of method and optimizer that differ, save what makes them different optimizers."""
    optimizers = {key: one["optimizer"][key] for key in one["optimizer"] if key in other["optimizer"]}
    return [
        *_unequal("method", one.get("method", {}), other.get("method", {})),
        *_unequal("optimizer", optimizers, {key: other["optimizer"][key] for key in optimizers}, {"name"}),
    ]


def _unequal(
    table: str, one: Mapping[str, Any], other: Mapping[str, Any], but: frozenset[str] | set[str] = frozenset()
) -> list[str]:
    keys = [key for key in {**one, **other} if key not in but and one.get(key) != other.get(key)]
    return [f"{table}.{key} ({one.get(key, 'absent')} and {other.get(key, 'absent')})" for key in keys]


def _notes(groups: Mapping[str, Sequence[RunRecord]], pairs: Sequence[tuple[str, str]]) -> Iterator[str]:
    for name, runs in groups.items():
        if any(without_seed(run) != without_seed(runs[0]) for run in runs):
            yield f"The runs of {name} do not all have the same recipe: its mean mixes them."
        if len({run.environment.get("teacher_checksum") for run in runs}) > 1:
            yield f"The runs of {name} do not all have the same teacher: its mean mixes them."
        if len(runs) == 1:
            yield f"{name} has one seed only: no interval."
    for first, name in combinations(groups, 2):
        found = _conditions(groups[first], groups[name])
        if found:
            yield f"{first} and {name} were not run under equal conditions: {', '.join(found)}."
    for name, other in pairs:
        found = _settings(groups[name][0].recipe, groups[other][0].recipe)
        if found:
            yield f"{name} and {other} differ in more than the kind of optimizer: {', '.join(found)}."


def _teacher_notes(teachers: Sequence[RunRecord], groups: Mapping[str, Sequence[RunRecord]]) -> Iterator[str]:
    """Say where a teacher had other data than the students it taught."""
    students = next(iter(groups.values()))[0].recipe["data"]
    for teacher in teachers:
        theirs = {key: value for key, value in teacher.recipe["data"].items() if key in _TAUGHT}
        found = _unequal("data", theirs, {key: students.get(key) for key in theirs})
        if found:
            yield f"{teacher.name} and its students had different data: {', '.join(found)}."


def _conditions(one: Sequence[RunRecord], other: Sequence[RunRecord]) -> list[str]:
    """What differs in data, teacher, student, schedule and run; the data's seed only between equal seeds."""
    theirs = {run.seed: run for run in other}
    shared = [(run, theirs[run.seed]) for run in one if run.seed in theirs]
    but = {"seed"} if not shared else set()
    found: dict[str, None] = {}
    for mine, its in shared or [(one[0], other[0])]:
        for table in ("data", "student", "schedule"):
            found.update(
                dict.fromkeys(_unequal(table, mine.recipe.get(table, {}), its.recipe.get(table, {}), but))
            )
        found.update(dict.fromkeys(_unequal("run", mine.recipe["run"], its.recipe["run"], {"seed"})))
        if "method" in mine.recipe and "method" in its.recipe:
            ours, other_ones = (run.environment.get("teacher_checksum") for run in (mine, its))
            if ours != other_ones:
                found[f"the teacher ({ours} and {other_ones})"] = None
    return list(found)


def without_seed(run: RunRecord) -> dict[str, Any]:
    """Give the recipe without what may differ from seed to seed."""
    return {
        key: {inner: value[inner] for inner in value if inner != "seed"} if isinstance(value, dict) else value
        for key, value in run.recipe.items()
    }

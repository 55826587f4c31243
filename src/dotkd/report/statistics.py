"""The numbers of a report: means and errors of each arm, and differences paired by seed.

Here belongs everything that is computed from runs; how it is said or drawn belongs to the neighbours.
Accuracies stay fractions here. An interval is a two-sided 95 % interval of Student's t.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dotkd.errors import BadInput
from dotkd.report.conditions import ORDER, kind_of, notes, partners, teacher_notes
from dotkd.report.inputs import Sweep
from dotkd.runs import RunRecord

LEVEL = 0.95
_NO_SPREAD = 1e-9  # accuracies are counts of few images: equal differences do occur

Measure = Callable[[RunRecord], float | None]


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
    """What the runs of one name have in common; ``kind`` is one of ORDER, or another optimizer's name.

    ``test``, ``validation`` and the losses are of the last epoch, ``best`` is the test accuracy of the
    epoch chosen on validation images. ``epochs`` and ``best_epochs`` are those epochs, seed by seed.
    """

    name: str
    kind: str
    seeds: tuple[int, ...]
    epochs: tuple[int, ...]
    best_epochs: tuple[int, ...]
    test: Estimate
    best: Estimate | None
    validation: Estimate | None
    task_loss: Estimate | None
    distill_loss: Estimate | None
    validation_loss: Estimate | None
    validation_distill_loss: Estimate | None
    seconds: float
    parameters: int


@dataclass(frozen=True)
class Difference:
    """A measure of two arms, ``arm`` minus ``against``, over the seeds that both have.

    ``verdict`` is "higher" or "lower" where the interval excludes 0, "not distinguishable" where it
    contains 0, "one seed" and "no spread" where there is no interval, and "no common seed". ``effect`` is
    Cohen's d_z: the mean of the differences over their standard deviation, where they have one.
    """

    arm: str
    against: str
    seeds: tuple[int, ...]
    mean: float | None
    low: float | None
    high: float | None
    verdict: str
    effect: float | None = None


@dataclass(frozen=True)
class Teacher:
    """A teacher run: a line to compare with, not an arm."""

    name: str
    seed: int
    test_accuracy: float


@dataclass(frozen=True)
class Summary:
    """All numbers of a report that quote the test accuracy after the last epoch.

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


def summarize(runs: Sequence[RunRecord], sweep: Sweep | None = None) -> Summary:
    """Compute the numbers of a report.

    Args:
        runs: finished runs; those of one name are one arm, teachers are a reference only.
        sweep: what was swept, if anything was: of several values, the baseline has those of the recipe.

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
    candidates = sgd if len(sgd) == 1 else distilled or plain
    baseline = candidates[0]
    said: list[str] = []
    # Of momenta that were swept the first is the one to compare with: delta 0 is plain momentum.
    if kinds[baseline] == "sgd" and (unswept := _as_before(sweep, baseline, candidates)) is not None:
        baseline = unswept
        said.append(f"Arms are compared with {baseline}: it has the values of the recipe that was swept.")
    with_sgd, with_control = (partners(groups, dot, others) for others in (sgd, controls))
    teachers = [run for run in runs if run.is_teacher]

    def differences(pairs: Sequence[tuple[str, str]]) -> tuple[Difference, ...]:
        return tuple(difference(groups[arm], groups[against]) for arm, against in pairs)

    return Summary(
        arms=tuple(_arm(members) for members in groups.values()),
        baseline=baseline,
        to_baseline=differences([(name, baseline) for name in groups if name != baseline]),
        to_plain=differences([(name, plain[0]) for name in distilled if plain]),
        to_sgd=differences(with_sgd),
        to_control=differences(with_control),
        teachers=tuple(Teacher(run.name, run.seed, run.results["last"]["test_accuracy"]) for run in teachers),
        notes=(*said, *notes(groups, [*with_sgd, *with_control]), *teacher_notes(teachers, groups)),
    )


def _as_before(sweep: Sweep | None, baseline: str, candidates: Sequence[str]) -> str | None:
    """Find the arm that has the values which the baseline's recipe had before it was swept."""
    if sweep is None:
        return None
    base = next((arm.base for arm in sweep.arms if arm.name == baseline), None)
    values = None if base is None else sweep.unswept.get(base)
    same = [arm.name for arm in sweep.arms if arm.base == base and arm.values == values]
    return next((name for name in same if name in candidates), None)


def by_arm(runs: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """Sort students' runs into arms, in the order of a report; within an arm by seed.

    Args:
        runs: the runs; teachers are left out.

    Returns:
        Name of an arm -> its runs.

    Raises:
        BadInput: if an arm has a seed twice, for then no pairing by seed is right, or a run was not tested.
    """
    groups: dict[str, list[RunRecord]] = {}
    for run in sorted((run for run in runs if not run.is_teacher), key=lambda run: run.seed):
        if last_test(run) is None:
            raise BadInput(
                f"{run.path} was never tested, as trials of a learning rate are not: no report is made"
            )
        members = groups.setdefault(run.name, [])
        if members and members[-1].seed == run.seed:
            where = f"{members[-1].path} and {run.path}"
            raise BadInput(f"arm {run.name!r} has seed {run.seed} twice: {where}; move one of them away")
        members.append(run)

    def place(name: str) -> tuple[int, bool, str]:
        run = groups[name][0]
        kind = kind_of(run)
        # Among the arms without a teacher the student as it is comes before, say, label smoothing.
        return (ORDER.index(kind) if kind in ORDER else len(ORDER), "method" in run.recipe, name)

    return {name: groups[name] for name in sorted(groups, key=place)}


# ---------------------------------------------------------------- what is measured


def last_test(run: RunRecord) -> float | None:
    """Give the test accuracy after the last epoch."""
    return known(run.results["last"]["test_accuracy"])


def best_test(run: RunRecord) -> float | None:
    """Give the test accuracy of the epoch that was best on validation images, if one was chosen."""
    best = run.results.get("best")
    return known(best.get("test_accuracy")) if best else None


def at_end(column: str) -> Measure:
    """Make a measure of a column of the metrics, at the last epoch."""
    return lambda run: known(run.metrics[-1].get(column))


def known(value: Any) -> float | None:
    """Return a finite number as it is, and nothing for anything else."""
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def over_seeds(runs: Iterable[RunRecord], measure: Measure) -> Estimate | None:
    """Estimate a measure over the runs that have it; nothing if none has."""
    found = [value for value in map(measure, runs) if value is not None]
    return estimate(found) if found else None


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


def difference(
    arm: Sequence[RunRecord], against: Sequence[RunRecord], measure: Measure = last_test
) -> Difference:
    """Compare a measure of two arms seed by seed; the test accuracy after the last epoch by default."""
    ours, theirs = (_by_seed(runs, measure) for runs in (arm, against))
    seeds = tuple(seed for seed in ours if seed in theirs)
    names = (arm[0].name, against[0].name)
    if not seeds:
        return Difference(*names, seeds, None, None, None, "no common seed")
    paired = estimate([ours[seed] - theirs[seed] for seed in seeds])
    effect = None
    if paired.low is None or paired.high is None:
        verdict = "one seed"
    elif paired.high - paired.low < _NO_SPREAD:
        verdict = "no spread"
    else:
        effect = paired.mean / paired.deviation if paired.deviation else None
        if paired.low <= 0 <= paired.high:
            verdict = "not distinguishable"
        else:
            verdict = "higher" if paired.mean > 0 else "lower"
    return Difference(*names, seeds, paired.mean, paired.low, paired.high, verdict, effect)


def _by_seed(runs: Iterable[RunRecord], measure: Measure) -> Mapping[int, float]:
    found = {run.seed: measure(run) for run in runs}
    return {seed: value for seed, value in found.items() if value is not None}


def _arm(runs: Sequence[RunRecord]) -> Arm:
    chosen = [run.results["best"]["epoch"] for run in runs if run.results.get("best")]
    return Arm(
        name=runs[0].name,
        kind=kind_of(runs[0]),
        seeds=tuple(run.seed for run in runs),
        epochs=tuple(run.results["last"]["epoch"] for run in runs),
        best_epochs=tuple(chosen),
        test=estimate([run.results["last"]["test_accuracy"] for run in runs]),
        best=over_seeds(runs, best_test),
        validation=over_seeds(runs, at_end("validation_accuracy")),
        task_loss=over_seeds(runs, at_end("train_task_loss")),
        distill_loss=over_seeds(runs, at_end("train_distill_loss")),
        validation_loss=over_seeds(runs, at_end("validation_loss")),
        validation_distill_loss=over_seeds(runs, at_end("validation_distill_loss")),
        seconds=float(np.mean([run.results["seconds"] for run in runs])),
        parameters=int(runs[0].results["parameters"]),
    )

"""Estimates over seeds and paired differences: the summary of a comparison and the choices of a sweep.

Accuracies are fractions here. An interval is a two-sided 95 % interval of Student's t. Numbers beyond the
metrics of runs, such as those of analyses, belong to ``evidence``.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from dotkd.records import Sweep
from dotkd.report.read import KINDS, Arms, Comparison, Series, SweptPoint, notes, partners
from dotkd.runs import RunRecord

LEVEL = 0.95
TEST, BEST_TEST, VALIDATION = "test_accuracy", "best_test_accuracy", "validation_accuracy"
_NO_SPREAD = 1e-9  # accuracies are counts of few images: equal differences do occur

Runs = Sequence[RunRecord]


@dataclass(frozen=True)
class Estimate:
    """A mean over ``n`` seeds; one seed has no deviation, standard error or interval."""

    n: int
    mean: float
    deviation: float | None
    error: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Arm:
    """The runs of one name.

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
    """A measure of two arms, ``arm`` minus ``against``, paired over the seeds that both have.

    ``verdict`` is "higher" or "lower" where the interval excludes 0, "not distinguishable" where it
    contains 0, "one seed" and "no spread" where there is no interval, and "no common seed". ``effect`` is
    Cohen's d_z: the mean of the differences over their standard deviation.
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
class TeacherRun:
    """A teacher's run: a reference, not an arm."""

    name: str
    seed: int
    test_accuracy: float


@dataclass(frozen=True)
class Summary:
    """Arms and their paired differences in test accuracy after the last epoch.

    ``to_baseline`` has every other arm, ``to_plain`` every distilled arm, ``to_sgd`` each DOT arm
    against plain momentum with its method, ``to_control`` each DOT arm against its matched control.
    """

    arms: tuple[Arm, ...]
    baseline: str
    to_baseline: tuple[Difference, ...]
    to_plain: tuple[Difference, ...]
    to_sgd: tuple[Difference, ...]
    to_control: tuple[Difference, ...]
    teachers: tuple[TeacherRun, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the summary as dicts, lists, strings and numbers."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }


def summarize(comparison: Comparison) -> Summary:
    """Compute the estimates of all arms and the differences between them.

    Args:
        comparison: Finished runs by arm, from :func:`~dotkd.report.read_comparison`. The baseline is plain
            momentum with a teacher; of several swept values it is the value that the recipe had.

    Returns:
        The summary; arms are in the order of the comparison.

    Example:
        >>> from pathlib import Path
        >>> from dotkd.recipe import load_recipe
        >>> from dotkd.train import train
        >>> from dotkd.report import read_comparison
        >>> _ = train(load_recipe("quick/digits-plain", ["schedule.epochs=1"]), Path("runs/plain"))
        >>> summary = summarize(read_comparison(Path("runs")))
        >>> summary.baseline, summary.arms[0].test.n
        ('plain', 1)
    """
    arms, kinds = comparison.arms, comparison.kinds
    plain, sgd, dot, controls = ([name for name in arms if kinds[name] == kind] for kind in KINDS)
    distilled = [name for name in arms if name not in plain]
    candidates = sgd if len(sgd) == 1 else distilled or plain
    baseline = candidates[0]
    said: list[str] = []
    # Of swept momenta the first is the baseline: delta 0 is plain momentum.
    if kinds[baseline] == "sgd" and (unswept := _unswept(comparison.sweep, baseline, candidates)) is not None:
        baseline = unswept
        said.append(f"The baseline is {baseline}: it has the values of the recipe before the sweep.")
    to_sgd, to_control = (partners(arms, dot, others) for others in (sgd, controls))

    def differences(pairs: Sequence[tuple[str, str]]) -> tuple[Difference, ...]:
        return tuple(difference(arms[arm], arms[against]) for arm, against in pairs)

    return Summary(
        arms=tuple(_arm(runs, kinds[name]) for name, runs in arms.items()),
        baseline=baseline,
        to_baseline=differences([(name, baseline) for name in arms if name != baseline]),
        to_plain=differences([(name, plain[0]) for name in distilled if plain]),
        to_sgd=differences(to_sgd),
        to_control=differences(to_control),
        teachers=tuple(
            TeacherRun(run.name, run.seed, run.results.last.test_accuracy)
            for run in comparison.teachers
            if run.results.last.test_accuracy is not None
        ),
        notes=(*said, *notes(comparison, [*to_sgd, *to_control])),
    )


def _unswept(sweep: Sweep | None, baseline: str, candidates: Sequence[str]) -> str | None:
    """Return the arm with the values that the recipe of the baseline had before the sweep."""
    if sweep is None:
        return None
    base = next((arm.base for arm in sweep.arms if arm.name == baseline), None)
    values = None if base is None else sweep.unswept.get(base)
    same = [arm.name for arm in sweep.arms if arm.base == base and arm.values == values]
    return next((name for name in same if name in candidates), None)


def _arm(runs: Runs, kind: str) -> Arm:
    test = over_seeds(runs, TEST)
    assert test is not None  # runs that were not tested are refused where they are read
    return Arm(
        name=runs[0].name,
        kind=kind,
        seeds=tuple(run.seed for run in runs),
        epochs=tuple(run.results.last.epoch for run in runs),
        best_epochs=tuple(run.results.best.epoch for run in runs if run.results.best),
        test=test,
        best=over_seeds(runs, BEST_TEST),
        validation=over_seeds(runs, VALIDATION),
        task_loss=over_seeds(runs, "train_task_loss"),
        distill_loss=over_seeds(runs, "train_distill_loss"),
        validation_loss=over_seeds(runs, "validation_loss"),
        validation_distill_loss=over_seeds(runs, "validation_distill_loss"),
        seconds=float(np.mean([run.results.seconds for run in runs])),
        parameters=runs[0].results.parameters,
    )


# ---------------------------------------------------------------- estimates and differences


def measure(run: RunRecord, name: str) -> float | None:
    """Return a test accuracy of a run, :data:`TEST` or :data:`BEST_TEST`, or a metric of its last epoch."""
    if name == TEST:
        return run.results.last.test_accuracy
    if name == BEST_TEST:
        return run.results.best.test_accuracy if run.results.best else None
    value: float | None = getattr(run.metrics[-1], name)
    return value


def over_seeds(runs: Runs, name: str) -> Estimate | None:
    """Estimate a measure over the runs that have it; None if none has."""
    return estimate([measure(run, name) for run in runs])


def estimate(values: Iterable[float | None]) -> Estimate | None:
    """Return mean, deviation (n - 1), standard error and interval of the known values; None without any."""
    from scipy.special import stdtrit  # type: ignore[import-untyped]  # slow to load

    found = [value for value in values if value is not None and math.isfinite(value)]
    if not found:
        return None
    n, mean = len(found), float(np.mean(found))
    if n == 1:
        return Estimate(n, mean, None, None, None, None)
    deviation = float(np.std(found, ddof=1))
    error = deviation / math.sqrt(n)
    reach = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * error
    return Estimate(n, mean, deviation, error, mean - reach, mean + reach)


def difference(arm: Runs, against: Runs, name: str = TEST) -> Difference:
    """Compare a measure of two arms, paired by seed."""
    ours, theirs = ({run.seed: measure(run, name) for run in runs} for runs in (arm, against))
    pairs = {seed: (value, theirs.get(seed)) for seed, value in ours.items()}
    found = {seed: a - b for seed, (a, b) in pairs.items() if a is not None and b is not None}
    names, seeds, paired = (arm[0].name, against[0].name), tuple(found), estimate(found.values())
    if paired is None:
        return Difference(*names, seeds, None, None, None, "no common seed")
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


# ---------------------------------------------------------------- sweeps


@dataclass(frozen=True)
class Choice:
    """The point of a series with the best mean validation accuracy, compared with others on validation.

    ``against`` names arms of the series by their values, neighbours first; a baseline outside the sweep has
    its own name.
    """

    series: Series
    best: SweptPoint
    accuracy: float
    against: tuple[Difference, ...]


def choose(comparison: Comparison, baseline: str) -> tuple[Choice, ...]:
    """Choose the best value of each series on validation images.

    Args:
        comparison: The runs.
        baseline: The arm to compare with, unless it is swept too.

    Returns:
        A choice for each series whose runs all have a validation accuracy: otherwise the test images would
        have to choose.
    """
    swept = {name for series in comparison.series for name in series.names}
    outside = None if baseline in swept else baseline
    found = [_choose(series, comparison.arms, outside) for series in comparison.series]
    return tuple(choice for choice in found if choice is not None)


def _choose(series: Series, arms: Arms, baseline: str | None) -> Choice | None:
    found: list[float] = []
    for name in series.names:
        accuracy = over_seeds(arms[name], VALIDATION)
        if accuracy is None or accuracy.n < len(arms[name]):
            return None
        found.append(accuracy.mean)
    place = max(range(len(found)), key=found.__getitem__)
    best = series.points[place]

    def against(name: str, label: str) -> Difference:
        return replace(difference(arms[best.name], arms[name], VALIDATION), arm=best.label, against=label)

    neighbours = [series.points[i] for i in (place - 1, place + 1) if 0 <= i < len(found)]
    compared = [against(point.name, point.label) for point in neighbours]
    if baseline is not None:
        compared.append(against(baseline, baseline))
    return Choice(series, best, found[place], tuple(compared))

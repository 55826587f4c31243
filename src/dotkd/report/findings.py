"""What the numbers of a sweep, the trade-off, the gradients, the minima and a tuning allow to be said.

A sentence here states counts of seeds, or what an interval allows, and nothing more; plain text, escaped by
whoever shows it.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence

from dotkd.report.between import Lines, finite
from dotkd.report.inputs import Tuning
from dotkd.report.statistics import at_end, estimate
from dotkd.report.sweep import Choice, Series
from dotkd.report.text import compared, number
from dotkd.report.tradeoff import AgainstFront, BothLower
from dotkd.runs import RunRecord


def chosen(best_of: Sequence[Choice], every: Sequence[Series], missing: Sequence[str]) -> Iterator[str]:
    """Say which value of a sweep is best on validation images, and whether it differs from others there.

    Args:
        best_of: the best values.
        every: all series of the sweep.
        missing: arms of the sweep without a finished run.

    Yields:
        Sentences.
    """
    for choice in best_of:
        keys = " and ".join(choice.series.keys)
        count = len(choice.series.points)
        best = (
            f"{choice.series.base}: {keys} = {choice.best.label} is best on validation images "
            f"({100 * choice.accuracy:.2f} %, the highest mean of {count} value{'s' * (count > 1)})."
        )
        yield " ".join([best, *(f"There {compared(difference)}." for difference in choice.against)])
    if any(difference.low is not None for choice in best_of for difference in choice.against):
        yield (
            "A best value was picked because it came out highest, which these intervals do not account for: "
            "they lean in its favour."
        )
    unchosen = [series.base for series in every if series.base not in {c.series.base for c in best_of}]
    if unchosen:
        yield (
            f"No value is chosen for {', '.join(unchosen)}: not every run has a validation accuracy, and "
            "test images choose nothing."
        )
    if missing:
        yield f"Without a finished run, and so left out: {', '.join(missing)}."


def beside_front(found: Sequence[AgainstFront], arms: Collection[str], split: str) -> Iterator[str]:
    """Say for how many seeds DOT lies below the front that reweighting reaches.

    Args:
        found: the counts.
        arms: names of the DOT arms to speak of.
        split: whose losses they are.

    Yields:
        Sentences.
    """
    for one in found:
        if one.arm not in arms:
            continue
        if not one.seeds:
            yield f"{one.arm} has no seed in common with all weightings of {one.base}: nothing is counted."
            continue
        seeds = len(one.seeds)
        past = ""
        if one.beyond:
            past = f" For {_of(one.beyond, seeds)} it lies past an end of that front, where no line can say."
        yield (
            f"{one.arm} beside the front of {one.base} ({one.arms} weightings, {split} losses after the last "
            f"epoch): no weighting dominates it for {_of(one.not_dominated, seeds)}, and it lies below the "
            f"front for {_of(one.below, seeds)}.{past}"
        )


def no_front(dots: Sequence[str]) -> str:
    """Say that the weights were not swept, so that nothing is known of a front."""
    return (
        "The weights of the losses were not swept with plain momentum, so whether reweighting alone would "
        f"reach what {' and '.join(dots)} reach{'es' * (len(dots) == 1)} was not measured."
    )


def both(found: Sequence[BothLower], split: str) -> Iterator[str]:
    """Say for how many seeds an arm is lower in both losses than another.

    Args:
        found: the counts.
        split: whose losses they are.

    Yields:
        Sentences.
    """
    for one in found:
        yield (
            f"{one.arm} against {one.against}, {split} losses after the last epoch: the task loss is lower "
            f"for {_of(one.task, one.seeds)}, the distillation loss for {_of(one.distill, one.seeds)}, both "
            f"for {_of(one.both, one.seeds)}."
        )


def steps(groups: Mapping[str, Sequence[RunRecord]]) -> Iterator[str]:
    """Say for how many seeds the gradients, and the last step, go against each other.

    Args:
        groups: name of an arm to speak of -> its runs.

    Yields:
        Sentences, about the probe batch after the last epoch.
    """
    for name, runs in groups.items():
        found = {column: _known(runs, column) for column in _COSINES}
        cosines, *updates = found.values()
        if not cosines:
            continue
        said = (
            f"{name}, on the probe batch after the last epoch: the two gradients point against each other "
            f"(cosine below 0) for {_below(cosines)}"
        )
        if all(updates):
            said += (
                "; going on in the direction of the last step would, to first order, raise the task loss for "
                f"{_below(updates[0])}, and the distillation loss for {_below(updates[1])}"
            )
        yield f"{said}."


_COSINES = ("gradient_cosine", "task_update_cosine", "distill_update_cosine")


def _known(runs: Sequence[RunRecord], column: str) -> list[float]:
    return [value for value in map(at_end(column), runs) if value is not None]


def _below(values: Sequence[float]) -> str:
    return _of(sum(value < 0 for value in values), len(values))


def between(found: Sequence[Lines]) -> Iterator[str]:
    """Say how far the task loss rises between students.

    Args:
        found: the lines to speak of.

    Yields:
        Sentences.
    """
    for line in found:
        barriers = finite(line.barriers("task")) if "task" in line.values else []
        if barriers:
            mean = "" if len(barriers) == 1 else f", mean of {len(barriers)} lines"
            yield (
                f"On the straight line from a student of {line.start} to one of {line.arm} {line.whose} the "
                f"task loss rises by up to {number(estimate(barriers))} above a straight line between its "
                f"ends{mean}."
            )


def budget(tuning: Tuning) -> Iterator[str]:
    """Say whether all arms tried the same learning rates as often, and whether these reached far enough.

    Args:
        tuning: what was tried.

    Yields:
        Sentences.
    """
    yield _equal(tuning)
    ends = (min(tuning.rates), max(tuning.rates))
    at_end = [f"{name} ({arm.chosen:g})" for name, arm in tuning.arms.items() if arm.chosen in ends]
    if at_end and len(tuning.rates) > 1:
        yield (
            "At an end of the rates that were tried, so that a better one may lie past it: "
            f"{', '.join(at_end)}."
        )


def _equal(tuning: Tuning) -> str:
    unequal = [
        name for name, arm in tuning.arms.items() if any(arm.at(rate) is None for rate in tuning.rates)
    ]
    if unequal:
        return (
            f"Budgets were not equal: {', '.join(unequal)} did not try all of the {len(tuning.rates)} rates."
        )
    return (
        f"Budgets were equal: every arm tried the same {len(tuning.rates)} learning rates with the same "
        f"{len(tuning.seeds)} seeds, judged on validation images."
    )


def _of(count: int, seeds: int) -> str:
    return f"{count} of {seeds} seed{'s' * (seeds > 1)}"

"""The sentences of a report: counts of seeds, and claims that go no further than their intervals.

Sentences are plain text; ``page`` escapes them. To add a sentence to a section, extend its function.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from dotkd.records import MeasuredOn, Tuning
from dotkd.report.evidence import Evidence, against_fronts, both_lower
from dotkd.report.read import Comparison
from dotkd.report.statistics import Difference, Summary, estimate
from dotkd.report.tables import interval, number, points


def lead(comparison: Comparison) -> tuple[str, ...]:
    """Return the sentences that open a report: whether distillation helps, and what DOT adds.

    Args:
        comparison: Finished runs, from :func:`~dotkd.report.read_comparison`.

    Returns:
        Sentences. Of a swept arm they cover the value that is best on validation images.

    Example:
        >>> from pathlib import Path
        >>> from dotkd.recipe import load_recipe
        >>> from dotkd.train import train
        >>> from dotkd.report import read_comparison
        >>> _ = train(load_recipe("quick/digits-plain", ["schedule.epochs=1"]), Path("runs/plain"))
        >>> lead(read_comparison(Path("runs")))[1]
        'No arm has a teacher: the effect of distillation was not measured.'
    """
    return opening(Evidence(comparison))


def opening(evidence: Evidence) -> tuple[str, ...]:
    """Return the sentences of :func:`lead` from computed numbers."""
    summary, arms = evidence.summary, evidence.spoken
    dots = [arm.name for arm in summary.arms if arm.kind == "dot" and arm.name in arms]
    over_plain = _over_plain(summary, arms)
    against = [one for one in (*summary.to_sgd, *summary.to_control) if one.arm in dots]
    said = [
        "All accuracies are test accuracies after the last epoch; test images were read only after training.",
        *_distillation(summary, over_plain),
        *_dot(summary, dots),
        *_caveat([*over_plain, *against]),
    ]
    if len(arms) < len(evidence.comparison.arms):
        said.append(
            "Of each swept arm this summary covers the value that is best on validation images; the tables "
            "have all values."
        )
    return tuple(said)


def findings_of(section: str, evidence: Evidence) -> tuple[str, ...]:
    """Return the sentences of a section."""
    find = _SECTIONS.get(section)
    return () if find is None else tuple(find(evidence))


def compared(difference: Difference) -> str:
    """Say how two arms compare, in half a sentence; claims nothing without an interval that excludes 0."""
    arm, against = difference.arm, difference.against
    if difference.mean is None:
        return f"{arm} and {against} have no seed in common and are not compared"
    if difference.low is None:
        return (
            f"{arm} and {against} share one seed, with a difference of {points(difference.mean)} points; "
            "one seed gives no interval, so nothing is claimed"
        )
    if difference.verdict == "no spread":
        return (
            f"{arm} and {against} differ by {points(difference.mean)} points for each of "
            f"{len(difference.seeds)} seeds; without spread there is no interval, so nothing is claimed"
        )
    range_ = f"95 % interval {interval(difference)}, {len(difference.seeds)} seeds"
    if difference.verdict == "not distinguishable":
        size = f"difference {points(difference.mean)} points"
        return f"{arm} is not distinguishable from {against} ({size}, {range_})"
    size = f"{100 * abs(difference.mean):.2f}"
    return f"{arm} is {difference.verdict} than {against} by {size} points ({range_})"


# ---------------------------------------------------------------- the opening


def _over_plain(summary: Summary, arms: Collection[str]) -> list[Difference]:
    """Return the differences that show whether distillation helps: plain momentum's, else the baseline's."""
    kinds = {arm.name: arm.kind for arm in summary.arms}
    plain_momentum = [one for one in summary.to_plain if kinds[one.arm] == "sgd" and one.arm in arms]
    return plain_momentum or [one for one in summary.to_plain if one.arm == summary.baseline]


def _distillation(summary: Summary, over_plain: Sequence[Difference]) -> Iterator[str]:
    if all(arm.kind == "plain" for arm in summary.arms):
        yield "No arm has a teacher: the effect of distillation was not measured."
    elif not over_plain:
        yield "No arm trains without a teacher: whether distillation helps was not measured."
    for one in over_plain:
        yield f"Distillation: {compared(one)}."


def _dot(summary: Summary, dots: Sequence[str]) -> Iterator[str]:
    for name in dots:
        momentum = [one for one in summary.to_sgd if one.arm == name]
        control = [one for one in summary.to_control if one.arm == name]
        for one in momentum:
            yield f"DOT against plain momentum: {compared(one)}."
        if not momentum:
            yield f"No arm has plain momentum and the method of {name}: the two were not compared."
        for one in control:
            yield (
                "DOT against its gain-matched control (one momentum, and the long-run loss weights of DOT's "
                f"two): {compared(one)}."
            )
        if not control:
            yield (
                f"Without a gain-matched control, an effect of {name} may come from its memory or from the "
                "heavier weight of its distillation loss: the two were not separated."
            )


def _caveat(shown: Sequence[Difference]) -> Iterator[str]:
    intervals = sum(one.low is not None for one in shown)
    fixed = "new student seeds with the same teacher, labels and test images"
    if intervals > 1:
        yield (
            f"The {intervals} intervals hold at 95 % each, not corrected for their number, and cover {fixed}."
        )
    elif intervals == 1:
        yield f"The interval covers {fixed}."


# ---------------------------------------------------------------- sections


def _sweep(evidence: Evidence) -> Iterator[str]:
    for choice in evidence.choices:
        keys = " and ".join(choice.series.keys)
        count = len(choice.series.points)
        best = (
            f"{choice.series.base}: {keys} = {choice.best.label} has the highest mean validation accuracy of "
            f"{count} value{'s' * (count > 1)} ({100 * choice.accuracy:.2f} %)."
        )
        yield " ".join([best, *(f"On validation images {compared(one)}." for one in choice.against)])
    if any(one.low is not None for choice in evidence.choices for one in choice.against):
        yield (
            "The best value was selected because it is the highest; these intervals do not account for the "
            "selection and favour it."
        )
    chosen = {choice.series.base for choice in evidence.choices}
    unchosen = [series.base for series in evidence.comparison.series if series.base not in chosen]
    if unchosen:
        yield (
            f"No value is chosen for {', '.join(unchosen)}: some runs have no validation accuracy, and test "
            "images are not used for choices."
        )
    if evidence.comparison.not_run:
        yield f"Left out, because no run is finished: {', '.join(evidence.comparison.not_run)}."


def _losses(evidence: Evidence) -> Iterator[str]:
    summary = evidence.summary
    dots = [arm.name for arm in summary.arms if arm.kind == "dot" and arm.name in evidence.spoken]
    pairs = [(one.arm, one.against) for one in (*summary.to_sgd, *summary.to_control) if one.arm in dots]
    for plane in evidence.planes:
        for one in both_lower(plane, pairs):
            yield (
                f"{one.arm} against {one.against}, {plane.split} losses after the last epoch: the task loss "
                f"is lower for {_of(one.task, one.seeds)}, the distillation loss for "
                f"{_of(one.distill, one.seeds)}, both for {_of(one.both, one.seeds)}."
            )
        for front in against_fronts(plane, evidence.comparison):
            if front.arm not in dots:
                continue
            if not front.seeds:
                yield f"{front.arm} shares no seed with all weightings of {front.base}: nothing is counted."
                continue
            seeds = len(front.seeds)
            said = (
                f"{front.arm} against the front of {front.base} ({front.arms} weightings, {plane.split} "
                f"losses after the last epoch): not dominated by any weighting for "
                f"{_of(front.not_dominated, seeds)}, below the front for {_of(front.below, seeds)}."
            )
            if front.beyond:
                said += (
                    f" For {_of(front.beyond, seeds)} it lies past an end of the front, where the comparison "
                    "is undefined."
                )
            yield said
    if dots and not any(plane.fronts(evidence.comparison) for plane in evidence.planes):
        yield (
            "The loss weights were not swept with plain momentum: whether reweighting alone reaches the "
            f"losses of {' and '.join(dots)} was not measured."
        )


def _gradients(evidence: Evidence) -> Iterator[str]:
    for name, runs in evidence.spoken.items():
        cosines, task, distill = (
            [value for run in runs if (value := getattr(run.metrics[-1], column)) is not None]
            for column in ("gradient_cosine", "task_update_cosine", "distill_update_cosine")
        )
        if not cosines:
            continue
        said = (
            f"{name}, probe batch after the last epoch: the cosine between the two gradients is negative for "
            f"{_negative(cosines)}"
        )
        if task and distill:
            said += (
                "; a further step along the last one would, to first order, raise the task loss for "
                f"{_negative(task)} and the distillation loss for {_negative(distill)}"
            )
        yield f"{said}."


def _negative(values: Sequence[float]) -> str:
    return _of(sum(value < 0 for value in values), len(values))


def _minima(evidence: Evidence) -> Iterator[str]:
    yield from _measured_on(evidence, ("landscape", "sharpness", "interpolation"))
    for line in evidence.lines:
        barriers = line.barriers("task")
        found = estimate(barriers)
        if found is not None and line.arm in evidence.spoken:
            mean = "" if len(barriers) == 1 else f"; mean of {len(barriers)} lines"
            yield (
                f"On the straight line from a student of {line.start} to one of {line.arm} {line.seeds} the "
                f"task loss has a barrier of {number(found)} (its largest rise above the straight line "
                f"between its ends{mean})."
            )


def _quality(evidence: Evidence) -> Iterator[str]:
    yield from _measured_on(evidence, ("quality",))


def _measured_on(evidence: Evidence, parts: Sequence[str]) -> Iterator[str]:
    """State which images parts of the analyses were measured on, and warn where they differ between runs."""
    analyses = [run.analysis for run in evidence.analysed_runs if run.analysis]
    on: dict[str, dict[str, None]] = {}
    for part in parts:
        for one in analyses:
            if getattr(one, part) is not None:
                on.setdefault(_images(one.on(part)), {})[part] = None
    if not on:
        return
    alike = len(on) == 1
    images = " and ".join(text if alike else f"{text} ({', '.join(names)})" for text, names in on.items())
    epochs = " / ".join(map(str, sorted({one.epoch for one in analyses if one.epoch is not None})))
    counts = [
        sum(any(getattr(run.analysis, part) for part in parts) for run in runs)
        for runs in evidence.analysed.values()
    ]
    low, high = min(filter(None, counts)), max(counts)
    runs_of = f"{low} to {high} runs" if low < high else f"{low} run{'s' * (low > 1)}"
    alone = ": one run has no standard error and says little about other seeds" if high == 1 else ""
    after = f" after epoch {epochs}" if epochs else ""
    yield f"Measured on {images}{after}, for {runs_of} of each arm{alone}."
    if unlike := [part for part in parts if sum(part in names for names in on.values()) > 1]:
        yield f"Runs were measured on different images, so arms may not compare: {', '.join(unlike)}."


def _images(on: MeasuredOn) -> str:
    count = "" if on.images is None else f"{on.images:,}"
    split = {"train": "training"}.get(on.split, on.split) if on.split else ""
    return " ".join(word for word in (count, split, "images") if word)


def _tuning(evidence: Evidence) -> Iterator[str]:
    if evidence.comparison.tuning is not None:
        yield from _budget(evidence.comparison.tuning)


def _budget(tuning: Tuning) -> Iterator[str]:
    """Say whether all arms tried the same learning rates, and which chose the lowest or the highest."""
    rates = len(tuning.rates)
    unequal = [
        name
        for name, arm in tuning.arms.items()
        if any(arm.accuracies(rate) is None for rate in tuning.rates)
    ]
    if unequal:
        yield f"Unequal budgets: {', '.join(unequal)} did not try all {rates} learning rates."
    else:
        yield (
            f"Equal budgets: every arm tried the same {rates} learning rates with the same "
            f"{len(tuning.seeds)} seeds, compared on validation images."
        )
    ends = (min(tuning.rates), max(tuning.rates))
    at_end = [f"{name} ({arm.chosen:g})" for name, arm in tuning.arms.items() if arm.chosen in ends]
    if at_end and rates > 1:
        yield f"Chosen at an end of the rates, so a better one may lie past it: {', '.join(at_end)}."


def _of(count: int, seeds: int) -> str:
    return f"{count} of {seeds} seed{'s' * (seeds > 1)}"


_SECTIONS: Mapping[str, Callable[[Evidence], Iterator[str]]] = {
    "sweep": _sweep,
    "losses": _losses,
    "gradients": _gradients,
    "minima": _minima,
    "quality": _quality,
    "tuning": _tuning,
}
